"""Bundles on phantoms of their own labels, with a network that a test can afford."""

import json
import shlex
import shutil
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from rep3d.data.lists import PARTS, load_datalist
from rep3d.datasets.phantom import write_decathlon
from rep3d.study.run import BundleRun, initialize_here, run_here

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = [ROOT / "bundles" / path.stem for path in sorted(ROOT.glob("configs/datasets/*.json"))]
TRAIN, EVALUATE, INFERENCE = ["train.json"], ["train.json", "evaluate.json"], ["inference.json"]
SMALL = {
    "network_def#feature_size": [4, 4, 4, 4],
    "network_def#hidden_size": 8,
    "network_def#kernel_size": 5,
    "patch_size": [32, 32, 32],
    "device": "cpu",
}
MEDNEXT = {  # the overlay of a small one, smaller
    "network_def": json.loads((ROOT / "configs/networks/mednext_tiny.json").read_text(encoding="utf-8"))["network_def"]
    | {"init_filters": 4},
    "patch_size": [32, 32, 32],
    "device": "cpu",
}
SHORT = {"epochs": 1, "train#trainer#epoch_length": 2, "val_interval": 1, "cache_num": 0, "num_workers": 0}
CASES, TEST_CASES = 10, 2
# What a training leaves that was told other sizes than the bundle's.
TRAINED = ["as_trained.json", "last.pt", "model.pt", "training.log", "training.status.json"]


def read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def takes_prompts(bundle: Path) -> bool:
    """Whether its network segments what prompts show; all others segment by themselves."""
    return bool(read(bundle, "metadata").get("prompts"))


AUTOMATIC = [bundle for bundle in BUNDLES if not takes_prompts(bundle)]


def label_names(bundle: Path) -> list[str]:
    """Those of the bundle, or of phantoms for one that takes any labels."""
    return read(bundle, "train").get("label_names", ["background", "left ball", "right ball"])


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


def write_pairs(folder: Path, count: int) -> Path:
    """Images and labels of one structure in two folders, as `rep3d new` takes them."""
    for number in range(count):
        label = np.zeros((20, 18, 12), np.uint8)
        label[5:15, 5:15, 4:8] = 1
        noise = np.random.default_rng(number).normal(0, 5, label.shape)
        for name, voxels in (("images", 100 + 20.0 * label + noise), ("labels", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), folder / f"{name}/{number}.nii")
    return folder


def bundle_run(bundle: Path, files: list[str], dataset: Path, folder: Path, run_id: str = "run", **override):
    """A run of configs; what it writes goes below `folder`."""
    settings = {
        "dataset_dir": str(dataset),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        **SMALL,
        **(SHORT if "train.json" in files else {}),
        **override,
    }
    return BundleRun(bundle, run_id, files, settings)


def workflow(*args, **override):
    """The workflow, initialized, of `bundle_run`."""
    return initialize_here(bundle_run(*args, **override))


def run(*args, **override):
    """Run `bundle_run` in this process and return the workflow."""
    return run_here(bundle_run(*args, **override))


def small_network(bundle: Path, settings: dict = SMALL) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/inference.json")])
    parser.update(settings)
    return parser.get_parsed_content("network_def")


def small_bundle(folder: Path, name: str, weights: bool = True, settings: dict = SMALL) -> Path:
    """A copy of a bundle with a network that a test can afford, and random weights."""
    bundle = folder / name
    shutil.copytree(ROOT / "bundles" / name, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    for path in (bundle / "configs/train.json", bundle / "configs/inference.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        for key, value in settings.items():
            *parents, last = key.split("#")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value
        path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    if weights:
        (bundle / "models").mkdir()
        torch.manual_seed(0)
        torch.save(small_network(bundle, settings).state_dict(), bundle / "models/model.pt")
    return bundle


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def readme_commands(bundle: Path, program: str) -> list[list[str]]:
    """The commands of a bundle's README, each as its words."""
    return page_commands(bundle / "docs/README.md", program)


def page_commands(page: Path, program: str) -> list[list[str]]:
    """The commands of a page, each as its words."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


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
