"""Start the MONAI Label server on this computer with the two bundles that ship with weights: `make label-demo`.

    python scripts/label_demo.py                         # on a real scan, and phantoms that are made on the spot
    python scripts/label_demo.py --studies "my folder"

The hippocampus bundle segments MR crops of the hippocampus by itself; `interactive` follows clicks on any scan. Each
serves what it was retrained to before, or else what was trained in the bundle's folder, the former by scripts/demo.py,
too, or what the bundle ships with, and it says which.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.datasets.phantom import write_decathlon
from rep3d.files import copy_whole
from rep3d.locks import FolderLocks
from rep3d.shipped import SHIPPED, TRAINED

ROOT = Path(__file__).resolve().parents[1]
BUNDLE, CLICKS = ROOT / "bundles/msd_hippocampus", ROOT / "bundles/interactive"
DEMO_WEIGHTS = ROOT / "runs/demo/models/model.pt"
PHANTOMS = 8
SCAN = ROOT / "tests/fixtures/hippocampus/hippocampus_148.nii.gz"  # see NOTICE beside it
HELP = """
In 3D Slicer (extension MONAI Label, https://www.slicer.org):
  1. module MONAI Label, MONAI Label server: http://127.0.0.1:{port}
  2. Next Sample loads a scan; Auto Segmentation > Run segments a hippocampus, SmartEdit > interactive what you click on
  3. correct the segments in the Segment Editor, then Submit Label
  4. Active Learning > Train learns from what was submitted
docs/slicer.md shows each step. Ctrl+C ends the server.
"""


@SetParseFn(str, "studies", "output")  # a folder may be called 2024_01_05
def main(studies: str = "", port: int = 8000, output: str = str(ROOT / "runs/label_demo")) -> None:
    """Prepare studies and weights, then serve them until Ctrl+C.

    Args:
        studies: folder of NIfTI or NRRD images; empty: a real scan and phantoms.
        port: of the server, on 127.0.0.1.
        output: folder for these, the bundles with their versions, logs and sessions.
    """
    folder = Path(output).absolute()
    images = Path(studies).absolute() if studies else _examples(folder / "studies")
    if not images.is_dir():
        sys.exit(f"studies {studies!r} is no folder: give one of NIfTI or NRRD images")
    bundles = folder / "bundles"
    for bundle in (BUNDLE, CLICKS):
        print(f"serving {install(bundle, bundles / bundle.name)}", flush=True)
    print(HELP.format(port=port), flush=True)
    command = [sys.executable, "-m", "monailabel_app", "start_server", "--studies", str(images), "--port", str(port)]
    command += ["--conf", "bundles", str(bundles), "--conf", "models", BUNDLE.name]
    sys.exit(serve(command))


def _examples(folder: Path) -> Path:
    """Scans without labels: phantoms, and a real one that no training of the bundle's own weights has seen."""
    if not folder.is_dir():
        labels = json.loads((BUNDLE / "configs/train.json").read_text(encoding="utf-8"))["label_names"]
        made = folder.with_name("phantom")
        write_decathlon(made, labels=dict(enumerate(labels[1:], 1)), count=PHANTOMS, seed=1)
        shutil.copy(SCAN, made / "imagesTr")
        (made / "imagesTr").rename(folder)
        shutil.rmtree(made)
    return folder


def install(bundle: Path, copy: Path) -> Path:
    """Make or refresh a copy of a bundle, so that retraining leaves the original alone.

    Returns:
        The weights that serve: the copy's own, which a retraining leaves there, or else the file that was copied.

    Raises:
        ValueError: a server works on the copy.
    """
    locks = FolderLocks([(copy / SHIPPED).parent], "server")
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("models", "eval"), dirs_exist_ok=True)
    demo = [DEMO_WEIGHTS] if bundle == BUNDLE else []
    known = [path for path in (bundle / TRAINED, *demo, bundle / SHIPPED) if path.is_file()]
    if not known:
        sys.exit(f"there are no weights: {bundle / SHIPPED} is missing: take it from the repository")
    copy_whole(known[0], copy / SHIPPED)
    locks.release()
    return copy / TRAINED if (copy / TRAINED).is_file() else known[0]


def serve(command: list[str]) -> int:
    """Run the server until it ends, or end it with this process; its exit status."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            return server.wait()
        finally:
            server.terminate()


if __name__ == "__main__":
    run_command(main)
