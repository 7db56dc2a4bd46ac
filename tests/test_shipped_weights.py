"""The weights that ship: each file is what its bundle's metadata says, and segments as it says."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import BUNDLES, INFERENCE, ROOT, label_names, read
from monai.bundle import ConfigParser
from score_helpers import score_label_map

from rep3d.data.leakage import image_digests, trained_images
from rep3d.data.splits import make_splits
from rep3d.shipping import file_facts
from rep3d.study.run import BundleRun, run_here
from rep3d.training.checkpoints import read_weights

MAX_BYTES = 40e6  # of all together: they stay in the history of the repository for good
SHIPPING = {bundle.name: bundle for bundle in BUNDLES if "weights" in read(bundle, "metadata")}
HIPPOCAMPUS = ROOT / "bundles/msd_hippocampus"
FIXTURE = ROOT / "tests/fixtures/hippocampus/hippocampus_148.nii.gz"
REAL = ROOT.parent / "shared/data/Task04_Hippocampus"

each_shipping = pytest.mark.parametrize("bundle", SHIPPING.values(), ids=SHIPPING)


def weights_of(bundle: Path) -> Path:
    return bundle / "models/model.pt"


def test_which_ship():
    assert "msd_hippocampus" in SHIPPING


@each_shipping
def test_the_file_is_what_the_metadata_says(bundle):
    facts = read(bundle, "metadata")["weights"]
    assert file_facts(weights_of(bundle)).items() <= facts.items()
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    network = parser.get_parsed_content("network_def")
    weights = read_weights(weights_of(bundle))
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }
    assert facts["float16_parameters"] == sum(parameter.numel() for parameter in network.parameters())


@each_shipping
def test_notice(bundle):
    facts = read(bundle, "metadata")["weights"]
    notice = (bundle / "models/NOTICE").read_text(encoding="utf-8")
    for name in ("sha256", "licence", "data", "authors", "source", "changes"):
        assert facts[name] in notice, name
    assert facts["sha256"] in (bundle / "docs/README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no git, or no clone")
def test_weights_in_the_repository_are_those_and_small():
    listed = subprocess.run(
        ["git", "ls-files", "*.pt", "*.ts", "*.onnx", ":!tests/fixtures"], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert {ROOT / name for name in listed.stdout.split()} == {weights_of(bundle) for bundle in SHIPPING.values()}
    assert sum(weights_of(bundle).stat().st_size for bundle in SHIPPING.values()) <= MAX_BYTES


def dice_of(cases: dict[Path, Path], folder: Path) -> dict[str, float]:
    """Mean Dice of each label with the shipped hippocampus weights; truths by scan."""
    settings = {"dataset_dir": str(folder / "scans"), "output_dir": str(folder), "device": "cpu"}
    (folder / "scans").mkdir()
    for scan in cases:
        shutil.copy(scan, folder / "scans")
    settings["checkpoint"] = str(weights_of(HIPPOCAMPUS))  # whatever was trained here
    run_here(BundleRun(HIPPOCAMPUS, "evaluating", INFERENCE, settings))
    names = label_names(HIPPOCAMPUS)
    scores = []
    for scan, truth in cases.items():
        prediction = nib.load(folder / scan.name.replace(".nii.gz", "_seg.nii.gz"))
        masks = (np.asarray(volume.dataobj) for volume in (prediction, nib.load(truth)))
        found = score_label_map(*masks, range(1, len(names)), nib.affines.voxel_sizes(prediction.affine))
        scores.append([score["dice"] for score in found.values()])
    return dict(zip(names[1:], np.mean(scores, axis=0).tolist(), strict=True))


def assert_as_claimed(dice: dict[str, float], within: float) -> None:
    claimed = read(HIPPOCAMPUS, "metadata")["weights"]["dice"]
    assert claimed.keys() == {*dice, "mean"}
    for name, value in dice.items():
        assert value == pytest.approx(claimed[name], abs=within), name


def test_it_segments_a_case_that_it_never_saw(tmp_path):
    seen = trained_images(read_weights(weights_of(HIPPOCAMPUS)))
    assert len(seen) == 140 and image_digests([str(FIXTURE)])[str(FIXTURE)] not in seen
    dice = dice_of({FIXTURE: FIXTURE.with_name("hippocampus_148_label.nii.gz")}, tmp_path)
    assert_as_claimed(dice, within=0.06)  # cases differ by that


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real volumes are not here")
def test_it_segments_test_cases(tmp_path):
    names = [path.name.removesuffix(".nii.gz") for path in (REAL / "imagesTr").glob("[!.]*.nii.gz")]
    split = make_splits(names, {"training": 140, "validation": 20, "test": 40}, folds=5)[0]
    cases = {REAL / f"imagesTr/{name}.nii.gz": REAL / f"labelsTr/{name}.nii.gz" for name in split["test"][:8]}
    assert_as_claimed(dice_of(cases, tmp_path), within=0.03)
