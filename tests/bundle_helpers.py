"""Bundles on phantoms of their own labels, with a network that a test can afford."""

import json
import socket
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from rep3d.data.lists import PARTS, load_datalist
from rep3d.datasets.phantom import write_decathlon

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/train.json"))
TRAIN, EVALUATE, INFERENCE = ["train.json"], ["train.json", "evaluate.json"], ["inference.json"]
SMALL = {
    "network_def#feature_size": [4, 4, 4, 4],
    "network_def#hidden_size": 8,
    "network_def#kernel_size": 5,
    "patch_size": [32, 32, 32],
    "device": "cpu",
}
SHORT = {"epochs": 1, "train#trainer#epoch_length": 2, "val_interval": 1, "cache_num": 0, "num_workers": 0}
CASES, TEST_CASES = 10, 2


def read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def label_names(bundle: Path) -> list[str]:
    return read(bundle, "train")["label_names"]


def image_format(bundle: Path) -> dict:
    return read(bundle, "metadata")["network_data_format"]["inputs"]["image"]


def make_dataset(folder: Path, bundle: Path, count: int = CASES) -> Path:
    """Anisotropic LPS volumes; one case of each part is smaller than the patch on every axis."""
    write_decathlon(
        folder,
        labels=dict(list(enumerate(label_names(bundle)))[1:]),
        count=count,
        shape=(36, 30, 14),
        spacing=(1.5, 1.5, 3.0),
        modality="CT" if image_format(bundle)["modality"] == "CT" else "MRI",
        orientation="LPS",
    )
    for part in PARTS:
        for path in load_datalist(folder, part)[0].values():
            volume = nib.load(path).slicer[8:22, 8:22, 3:11]
            nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine), path)
    return folder


def workflow(bundle: Path, files: list[str], dataset: Path, folder: Path, run_id: str = "run", **override):
    """The workflow, initialized, of configs; what it writes goes below `folder`."""
    settings = {
        "bundle_root": str(bundle),
        "dataset_dir": str(dataset),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        **SMALL,
        **(SHORT if "train.json" in files else {}),
        **override,
    }
    created = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in files],
        logging_file=False,
        workflow_type="train" if "train.json" in files else "infer",
        run_id=run_id,
        **settings,
    )
    hook = sys.excepthook
    try:
        created.initialize()
    finally:
        sys.excepthook = hook
    return created


def run(bundle: Path, files: list[str], dataset: Path, folder: Path, run_id: str = "run", **override):
    """Run configs in this process and return the workflow."""
    created = workflow(bundle, files, dataset, folder, run_id, **override)
    path = sys.path.copy()
    try:
        created.run()
        created.finalize()
    finally:
        sys.path[:] = path
    return created


def small_network(bundle: Path) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/inference.json")])
    parser.update(SMALL)
    return parser.get_parsed_content("network_def")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def options(**settings) -> list[str]:
    """Command line options."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def assert_label_map(path: Path, image: Path, classes: int) -> None:
    """The label map lies on the image's own grid."""
    label, scan = nib.load(path), nib.load(image)
    assert label.shape == scan.shape
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
    assert label.get_data_dtype() == np.uint8
    assert np.asarray(label.dataobj).max() < classes


def suffixless(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
