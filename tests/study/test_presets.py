import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import make_dataset, small_bundle, small_network

from rep3d.data.leakage import TrainingCases, image_digests
from rep3d.data.lists import load_datalist
from rep3d.evaluation.scores import means, read_scores, table
from rep3d.shipped import find_weights
from rep3d.study import presets
from rep3d.study.presets import AIR, Preset, compare_presets, stretch, time_presets
from rep3d.study.run import BundleRun, run_here

PRESETS = (Preset(0.25, body=False), Preset(0.75), Preset(0.25, scale=1.5))


def rows(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]


def test_names():
    assert str(Preset(0.25)) == "overlap 0.25"
    assert str(Preset(0.5, 1.5, True, False)) == "overlap 0.5, edges times 1.5, bfloat16, without body as well"


@pytest.mark.slow
def test_dice_is_that_of_the_evaluation(tmp_path):
    bundle = small_bundle(tmp_path, "msd_hippocampus")
    data, weights = str(make_dataset(tmp_path / "data", bundle)), find_weights(bundle)
    same, closer, larger = rows(compare_presets(bundle, data, weights, presets=PRESETS))
    told = {"dataset_dir": data, "checkpoint": str(weights), "output_dir": str(tmp_path / "eval"), "num_workers": 0}
    run_here(BundleRun(bundle, "evaluating", ["train.json", "evaluate.json"], told))
    dice = means(table(read_scores(tmp_path / "eval"), "dice"))[-1]
    assert same[4:] == [f"{dice:.4f}", "0.0000", "0.0000 to 0.0000"]
    assert int(closer[1]) > int(same[1]) > int(larger[1])
    assert rows(compare_presets(bundle, data, weights, 1, PRESETS[:1]))[0][4] != same[4]  # of the first case alone


@pytest.mark.slow
def test_cases_of_the_training_are_named(tmp_path):
    """Such as those of another fold, where a data set has no test cases of its own."""
    bundle = small_bundle(tmp_path, "msd_hippocampus", weights=False)
    data, weights = str(make_dataset(tmp_path / "data", bundle)), tmp_path / "model.pt"
    (digest,) = image_digests([load_datalist(data, "test")[0]["image"]]).values()
    torch.save(TrainingCases({digest: "seen"}, {}).mark(small_network(bundle).state_dict()), weights)
    told, _, first, *_ = compare_presets(bundle, data, weights, presets=PRESETS[:1]).splitlines()
    assert told.startswith("**The weights were trained on 1 of these cases**: phantom_") and first.startswith("|")


@pytest.mark.slow
def test_times_without_truth_and_weights(tmp_path, monkeypatch):
    bundle = small_bundle(tmp_path, "amos_ct", weights=False)
    voxels = np.full((40, 40, 40), AIR, np.int16)
    voxels[:10, :10, :10] = voxels[-10:, -10:, -10:] = 60
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    scan = tmp_path / "stretched.nii.gz"
    stretch(tmp_path / "scan.nii.gz", scan, (72, 72, 60), (1, 1, 1.2), air=30)
    assert nib.load(scan).shape == (132, 72, 60)
    assert np.allclose(nib.load(scan).header.get_zooms(), (1, 1, 1.2))
    monkeypatch.setattr(presets, "has_fast_bfloat16", lambda device: False)
    every, body = rows(time_presets(bundle, scan, (*PRESETS[:1], Preset(0.25), Preset(0.25, bfloat16=True))))
    assert int(every[1]) > int(body[1]) > 0


def test_stretched_air_is_air(tmp_path):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 100, np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    stretch(tmp_path / "scan.nii.gz", tmp_path / "long.nii.gz", (8, 8, 8), (1, 1, 1), air=2)
    voxels = torch.from_numpy(nib.load(tmp_path / "long.nii.gz").get_fdata())
    assert (voxels[:2] == AIR).all() and (voxels[-2:] == AIR).all() and (voxels[2:-2] == 100).all()
