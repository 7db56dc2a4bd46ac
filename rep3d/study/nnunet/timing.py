"""How long nnU-Net takes for a scan with the network that it plans by itself; the network is not trained."""

from __future__ import annotations

from pathlib import Path

from rep3d.console.tables import markdown_table
from rep3d.data.dataset_json import FILE
from rep3d.data.layouts import list_nifti
from rep3d.datasets.nnunet_raw import write_raw
from rep3d.datasets.sources import read_source
from rep3d.study.nnunet.environment import NnUNet
from rep3d.study.nnunet.folds import DATASET, run_planner


def time_scan(source: Path, output: Path, nnunet: NnUNet, windows: int) -> str:
    """A table in Markdown: the time of a window, and that of all windows of the first scan, by multiplication.

    Args:
        source: a data set, which the network is planned for.
        output: receives nnU-Net's data; what an earlier call wrote stays.
        nnunet: in its environment.
        windows: that are timed.

    Raises:
        RunFailed: nnU-Net failed.
        ValueError: as `rep3d.datasets.nnunet_raw.write_raw`, or images of several channels.
    """
    raw = output / "nnUNet_raw" / DATASET
    output.mkdir(parents=True, exist_ok=True)
    found = read_source(source)
    if len(found.channels) > 1:
        raise ValueError(f"{source}: images have {len(found.channels)} channels, expected 1")
    if not (raw / FILE).is_file():
        write_raw(found, source, raw, ())
    if not (output / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").is_file():
        run_planner(nnunet, output, "--no_pp")
    first = list_nifti(raw / "imagesTr")[0]
    settings = {"dataset": DATASET, "image": str(first.absolute()), "windows": windows}
    timed, _ = nnunet.call("time_windows", settings, output, output)
    rows = [
        [name, f"{timed[key]:.2f}", timed["windows"], f"{timed[key] * timed['windows'] / 60:.1f}"]
        for name, key in (("off", "plain"), ("on", "mirrored"))
    ]
    patch = "x".join(map(str, timed["patch_size"]))
    title = f"nnU-Net {nnunet.version}, torch {nnunet.torch}: windows of {patch} voxels, of which {windows} were timed"
    return f"{title}\n\n{markdown_table(['mirroring', 's a window', 'windows', 'minutes a scan'], rows)}"
