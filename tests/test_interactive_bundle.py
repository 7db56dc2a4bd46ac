"""What the interactive bundle does beyond the others: several data sets, starts from predictions, clicks."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, ROOT, TRAIN, make_dataset, read, run, small_network, workflow

from rep3d.console.errors import root_cause
from rep3d.data.lists import load_datalist
from rep3d.interactive import CHANNELS
from rep3d.training.checkpoints import trained_images

BUNDLE = ROOT / "bundles/interactive"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "first", BUNDLE)


@pytest.fixture
def weights(tmp_path):
    """Random ones."""
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    torch.save(small_network(BUNDLE).state_dict(), tmp_path / "models/model.pt")


def test_channels_in_the_metadata():
    image = read(BUNDLE, "metadata")["network_data_format"]["inputs"]["image"]
    assert list(image["channel_def"].values()) == list(CHANNELS)
    assert read(BUNDLE, "train")["in_channels"] == read(BUNDLE, "inference")["in_channels"] == len(CHANNELS)


@pytest.mark.slow
def test_training_on_several_data_sets_and_predictions(dataset, tmp_path):
    other = make_dataset(tmp_path / "second", BUNDLE, count=5)
    for item in load_datalist(other, "training"):  # another volume under the same name
        volume = nib.load(item["image"])
        nib.save(nib.Nifti1Image(np.asarray(volume.dataobj)[::-1], volume.affine), item["image"])
    for item in load_datalist(other, "validation"):
        volume = nib.load(item["image"])
        nib.save(nib.Nifti1Image(np.asarray(volume.dataobj)[::-1], volume.affine), item["image"])
    names = [{Path(item["image"]).name for item in load_datalist(folder, "training")} for folder in (dataset, other)]
    name = min(names[0] & names[1]).removesuffix(".nii.gz")
    first = next(item for item in load_datalist(dataset, "training") if name in item["image"])
    (tmp_path / "predicted").mkdir()
    volume = nib.load(first["label"])
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine), tmp_path / f"predicted/{name}_seg.nii.gz")
    with pytest.raises(RuntimeError) as raised:  # the second data set has a case of that name, too
        workflow(
            BUNDLE, TRAIN, dataset, tmp_path / "a", more_data=[str(other)], predictions=str(tmp_path / "predicted")
        )
    assert "expected one case of that name" in str(root_cause(raised.value))
    settings = {"more_data": [str(other)], "repeats": [1, 2], "validation_cases": 2}
    done = run(BUNDLE, TRAIN, dataset, tmp_path, "training", **settings)
    data = done.parser.get_parsed_content("train#dataset").data
    assert len(data) == len(load_datalist(dataset, "training")) + 2 * len(load_datalist(other, "training"))
    assert len(done.parser.get_parsed_content("validate#dataset").data) == 2
    last = torch.load(tmp_path / "models/last.pt", weights_only=True)
    assert len(trained_images(last["network"])) == len({item["image"] for item in data})
    assert 0 <= last["best_metric"] <= 1


@pytest.mark.slow
def test_training_from_predictions(dataset, tmp_path):
    for item in load_datalist(dataset, "training"):
        name, volume = Path(item["image"]).name.removesuffix(".nii.gz"), nib.load(item["label"])
        moved = nib.Nifti1Image(np.roll(np.asarray(volume.dataobj), 1, 0), volume.affine)
        (tmp_path / "predicted").mkdir(exist_ok=True)
        nib.save(moved, tmp_path / f"predicted/{name}_seg.nii.gz")
    starts = {"nothing": 1, "prediction": 3}
    created = workflow(BUNDLE, TRAIN, dataset, tmp_path, predictions=str(tmp_path / "predicted"), starts=starts)
    user = created.parser.get_parsed_content("train#trainer").prepare_batch
    assert user.starts == {"nothing": 1, "distorted truth": 0, "prediction": 3}
    loaded = [created.parser.get_parsed_content("train#dataset")[i] for i in range(4)]
    assert any(item["prediction"].any() for item in loaded)
    created.run()


def test_a_grid_that_is_no_cube(dataset, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        workflow(BUNDLE, TRAIN, dataset, tmp_path, patch_size=[32, 48, 32])
    assert str(root_cause(raised.value)).startswith("patch_size is [32, 48, 32], expected equal numbers")


@pytest.mark.slow
def test_evaluation_of_clicks(dataset, weights, tmp_path):
    run(BUNDLE, EVALUATE, dataset, tmp_path, "evaluating", labels="together")
    names = {path.name for path in (tmp_path / "eval").iterdir()}
    assert {"summary.md", "summary.json", "clicks.csv", "clicks.png", "evaluation.log"} <= names
    text = (tmp_path / "eval/summary.md").read_text(encoding="utf-8")
    assert text.startswith(f"{len(load_datalist(dataset, 'test'))} case(s)") and "Dice 10" in text
    figures = json.loads((tmp_path / "eval/summary.json").read_text(encoding="utf-8"))
    ((method, by_label),) = figures.items()
    ((label, found),) = by_label.items()
    assert found["dice_after_0"]["mean"] == 0 and found["dice_after_10"]["mean"] > 0
    (record,) = (tmp_path / "eval/records").iterdir()
    settings = json.loads(record.read_text(encoding="utf-8"))["settings"]
    assert settings["weights"] == record.stem and {"growth", "leaving", "crop"} <= set(settings)
    chosen = {"labels": 1, "checkpoint": str(tmp_path / "models/model.pt")}
    run(BUNDLE, EVALUATE, dataset, tmp_path / "one", "evaluating", **chosen)
    one = json.loads((tmp_path / "one/eval/summary.json").read_text(encoding="utf-8"))[method]
    assert list(one) == ["left ball"]
    before = (tmp_path / "eval/clicks.csv").read_bytes()
    run(BUNDLE, EVALUATE, dataset, tmp_path, "evaluating", labels="together")  # finished cases stay
    assert (tmp_path / "eval/clicks.csv").read_bytes() == before


def test_a_click_on_a_scan(dataset, weights, tmp_path):
    scan = Path(load_datalist(dataset, "test")[0]["image"])
    clicks = {"foreground": [[4, 5, 3]], "background": [[0, 0, 0]]}
    run(BUNDLE, INFERENCE, dataset, tmp_path, "evaluating", image=str(scan), **clicks)
    mask = nib.load(tmp_path / "eval" / f"{scan.name.removesuffix('.nii.gz')}_seg.nii.gz")
    voxels = np.asarray(mask.dataobj)
    np.testing.assert_allclose(mask.affine, nib.load(scan).affine, atol=1e-5)
    assert (voxels[4, 5, 3], voxels[0, 0, 0]) == (1, 0) and set(np.unique(voxels)) <= {0, 1}
    assert "found " in (tmp_path / "eval/inference.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"foreground": [[99, 0, 0]]}, "foreground [[99, 0, 0]], a point at voxel (99, 0, 0), lies outside the scan"),
        ({}, "no prompt: expected --foreground"),
        (
            {"forground": [[1, 2, 3]]},
            "unknown option 'forground', nothing in the bundle's configuration uses it, did",
        ),
        ({"foreground": [[1, 2, 3]], "checkpoint": ["a.pt", "b.pt"]}, "no weights at 'a.pt'"),
    ],
)
def test_prompts_that_are_none(settings, said, dataset, weights, tmp_path):
    scan = load_datalist(dataset, "test")[0]["image"]
    with pytest.raises(RuntimeError) as raised:
        run(BUNDLE, INFERENCE, dataset, tmp_path, "evaluating", image=scan, **settings)
    assert str(root_cause(raised.value)).startswith(said)


@pytest.mark.slow
def test_networks_of_one_logit_are_not_averaged(dataset, weights, tmp_path):
    """Their softmax would be 1 everywhere."""
    weights_twice = [str(tmp_path / "models/model.pt")] * 2
    options = {
        "image": load_datalist(dataset, "test")[0]["image"],
        "foreground": [[4, 5, 3]],
        "checkpoint": weights_twice,
    }
    with pytest.raises(RuntimeError) as raised:
        run(BUNDLE, INFERENCE, dataset, tmp_path, "evaluating", **options)
    assert "expected one checkpoint" in str(root_cause(raised.value))
