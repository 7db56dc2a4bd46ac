"""Start the MONAI Label server on this computer with a small network: what `make label-demo` runs.

    python scripts/label_demo.py                         # on phantoms that are made on the spot
    python scripts/label_demo.py --studies "my folder"   # on MR crops of the hippocampus

Trains the small network of scripts/demo.py first where that has not been done.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.datasets.phantom import write_decathlon

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles/msd_hippocampus"
PHANTOMS = 8
HELP = """
In 3D Slicer (extension MONAI Label, https://www.slicer.org):
  1. module MONAI Label, MONAI Label server: http://127.0.0.1:{port}
  2. Next Sample loads a scan, Auto Segmentation > Run segments it
  3. correct the segments in the Segment Editor, then Submit Label
  4. Active Learning > Train learns from what was submitted
docs/slicer.md shows each step. Ctrl+C ends the server.
"""


@SetParseFn(str, "studies", "output")  # a folder may be called 2024_01_05
def main(studies: str = "", port: int = 8000, output: str = str(ROOT / "runs/label_demo")) -> None:
    """Prepare studies and weights, then serve them until Ctrl+C.

    Args:
        studies: folder of NIfTI or NRRD images; empty: phantoms.
        port: of the server, on 127.0.0.1.
        output: folder for the phantoms, the bundle with its versions, logs and sessions.
    """
    folder = Path(output).absolute()
    images = Path(studies).absolute() if studies else _phantoms(folder / "studies")
    if not images.is_dir():
        sys.exit(f"studies {studies!r} is no folder: give one of NIfTI or NRRD images")
    bundle = folder / "bundles" / BUNDLE.name
    if not (bundle / "models/model.pt").is_file():
        _install(bundle)
    print(HELP.format(port=port), flush=True)
    command = [sys.executable, "-m", "monailabel_app", "start_server", "--studies", str(images), "--port", str(port)]
    command += ["--conf", "bundles", str(bundle.parent), "--conf", "models", bundle.name]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


def _phantoms(folder: Path) -> Path:
    """Scans without labels."""
    if not folder.is_dir():
        labels = json.loads((BUNDLE / "configs/train.json").read_text(encoding="utf-8"))["label_names"]
        made = folder.with_name("phantom")
        write_decathlon(made, labels=dict(enumerate(labels[1:], 1)), count=PHANTOMS, seed=1)
        (made / "imagesTr").rename(folder)
        shutil.rmtree(made)
    return folder


def _install(bundle: Path) -> None:
    """A copy of the bundle with trained weights, so that retraining leaves the original alone."""
    weights = next(
        (path for path in (BUNDLE / "models/model.pt", ROOT / "runs/demo/models/model.pt") if path.is_file()), None
    )
    if weights is None:
        print("There are no weights yet: training the small network of `make demo` first.\n", flush=True)
        subprocess.run([sys.executable, str(ROOT / "scripts/demo.py")], check=True)
        weights = ROOT / "runs/demo/models/model.pt"
    ignored = shutil.ignore_patterns("models", "eval")
    shutil.copytree(BUNDLE, bundle, ignore=ignored, dirs_exist_ok=True)
    (bundle / "models").mkdir(exist_ok=True)
    shutil.copy(weights, bundle / "models/model.pt")
    print(f"serving {weights}", flush=True)


if __name__ == "__main__":
    run_command(main)
