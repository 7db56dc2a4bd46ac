"""No image trains and judges, whatever its file is called and however it is packed."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import BUNDLES, EVALUATE, TRAIN, make_dataset, run, small_network, workflow

from rep3d.console.errors import root_cause
from rep3d.data.leakage import TrainingCases, image_digests, trained_images, training_cases
from rep3d.data.lists import load_datalist
from rep3d.training.checkpoints import load_weights, read_weights, trained_on

BUNDLE = next(path for path in BUNDLES if path.name == "msd_hippocampus")


def save(path, seed=0, dtype=np.int16, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(-1000, 1000, (6, 5, 4)).astype(dtype)
    volume = nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1]))
    for key, value in header.items():
        volume.header[key] = value
    nib.save(volume, path)
    return {"image": str(path)}


def packed_again(folder):
    (folder / "b.nii.gz").write_bytes(gzip.compress(gzip.decompress((folder / "a.nii.gz").read_bytes()), 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: shutil.copy(folder / "a.nii.gz", folder / "b.nii.gz"),
        packed_again,
        lambda folder: save(folder / "b.nii"),
        lambda folder: save(folder / "b.nii.gz", dtype=np.float32),
        lambda folder: save(folder / "b.nii.gz", descrip=b"exported again"),
        lambda folder: (folder / "b.nii.gz").symlink_to(folder / "a.nii.gz"),
    ],
    ids=["copied", "packed again", "not packed", "another type", "another header", "linked"],
)
def test_one_image_under_two_names(make, tmp_path):
    image = save(tmp_path / "a.nii.gz")
    make(tmp_path)
    (twin,) = tmp_path.glob("b.*")
    with pytest.raises(
        ValueError, match=r"1 image\(s\) stand in the training and in the validation part: .*a.nii.gz and .*b.nii"
    ):
        training_cases([image, save(tmp_path / "c.nii", 1)], [{"image": str(twin)}])


def test_other_images(tmp_path):
    items = [save(tmp_path / f"{i}.nii", i) for i in range(3)]
    cases = training_cases(items[:2] + items[:1], items[2:])  # repeated in one part, to count more
    assert list(cases.training.values()) == ["0", "1"] and list(cases.validation.values()) == ["2"]


@pytest.mark.parametrize("values", [1, 3])
def test_images_of_few_values_are_no_twins(values, tmp_path):
    """Two scans of air, or two drawings, are no leak, and no reason to stop."""
    drawing = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4) % values, np.eye(4))
    for name in "ab":
        nib.save(drawing, tmp_path / f"{name}.nii")
    cases = training_cases([{"image": str(tmp_path / "a.nii")}], [{"image": str(tmp_path / "b.nii")}])
    assert cases.training == cases.validation == {}


def test_digests_are_remembered(tmp_path, monkeypatch):
    image, memory = save(tmp_path / "a.nii")["image"], tmp_path / "new folder/digests.json"
    first = image_digests([image], memory)
    monkeypatch.setattr("rep3d.data.leakage.read_channels", lambda path: 1 / 0)
    assert image_digests([image], memory) == first
    save(tmp_path / "a.nii", 1, dtype=np.float32)
    with pytest.raises(ZeroDivisionError):
        image_digests([image], memory)
    monkeypatch.undo()
    assert image_digests([image], memory).keys() == first.keys() and image_digests([image], memory) != first
    memory.write_text("[1")
    assert image_digests([image, str(tmp_path / "absent.nii")], memory).keys() == {image}


@pytest.mark.parametrize("twin", [["drawn", "scan_of_b"], ["both"]], ids=["in one each", "in one file"])
def test_an_image_is_known_by_a_channel_that_is_no_drawing(twin, tmp_path):
    scan = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    drawing = (scan > 0).astype(np.int16)
    files = {
        "lesion": drawing,
        "scan": scan,
        "drawn": drawing,
        "scan_of_b": scan,
        "both": np.stack([drawing, scan], -1),
    }
    for name, voxels in files.items():
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii")
    image, copy = ({"image": [str(tmp_path / f"{name}.nii") for name in names]} for names in (["lesion", "scan"], twin))
    with pytest.raises(ValueError, match="1 image.s. stand in the training and in the validation part: .*lesion.nii"):
        training_cases([image], [copy])
    weights = weights_of(training_cases([image], []))
    torch.save(weights, tmp_path / "model.pt")
    assert trained_on(tmp_path / "model.pt", [copy]) == [twin[0]]


# --- what weights were trained on


def weights_of(cases):
    return cases.mark(torch.nn.Linear(2, 2).state_dict())


def test_weights_tell_their_cases(tmp_path):
    """Also after PyTorch wrote and read them, and over several trainings; no name can be read."""
    torch.save(weights_of(TrainingCases({"d1": "Mr Smith"}, {})), tmp_path / "model.pt")
    assert trained_images(read_weights(tmp_path / "model.pt")).keys() == {"d1"}
    assert b"Smith" not in (tmp_path / "model.pt").read_bytes()
    load_weights(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    later = TrainingCases({"d2": "b"}, {"d3": "c"})
    later.go_on_from(read_weights(tmp_path / "model.pt"), "model.pt")
    torch.save({"network": weights_of(later)}, tmp_path / "last.pt")
    assert trained_images(read_weights(tmp_path / "last.pt")).keys() == {"d1", "d2"}
    torch.save(dict(weights_of(later)), tmp_path / "plain.pt")
    assert trained_images(read_weights(tmp_path / "plain.pt")) == {}


def test_weights_validate_on_nothing_they_were_trained_on(caplog):
    weights = weights_of(TrainingCases({"d1": "case_1", "d2": "case_2"}, {}))
    with pytest.raises(ValueError, match="m.pt was trained on 1 of the 2 validation cases.*: renamed"):
        TrainingCases({}, {"d2": "renamed", "d3": "x"}).go_on_from(weights, "m.pt")
    assert not caplog.records
    TrainingCases({}, {"d3": "case_1"}).go_on_from(weights, "m.pt")  # of another data set
    assert "other images with names of validation cases: case_1" in caplog.text


def test_cases_that_weights_were_trained_on(tmp_path, caplog, monkeypatch):
    """Of one checkpoint or several, by the images; where none tells, no image is read."""
    items, memory = [save(tmp_path / f"{name}.nii", seed) for seed, name in enumerate("abc")], tmp_path / "digests.json"
    digests = list(image_digests([item["image"] for item in items]).values())
    for name, digest in zip("ab", digests[:2], strict=True):
        torch.save(weights_of(TrainingCases({digest: "renamed"}, {})), tmp_path / f"{name}.pt")
    assert trained_on(tmp_path / "a.pt", items, memory) == ["a"]
    assert "a.pt was trained on 1 of the 3 case(s): a" in caplog.text
    monkeypatch.setattr("rep3d.data.leakage.read_channels", lambda path: 1 / 0)
    assert trained_on([str(tmp_path / "b.pt"), str(tmp_path / "a.pt")], items, memory) == ["a", "b"]
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "c.pt")
    assert trained_on(tmp_path / "c.pt", items) == []


def test_weights_of_a_training_on_other_cases():
    weights = weights_of(TrainingCases({"d1": "a", "d2": "b"}, {"d3": "c"}))
    assert TrainingCases({"d2": "b", "d1": "renamed"}, {"d4": "d"}).trained_otherwise(weights) == ""
    assert TrainingCases({"d1": "a"}, {"d2": "b", "d3": "c"}).trained_otherwise(weights) == (
        "it was trained on 1 of the 2 validation cases: b"
    )
    assert TrainingCases({"d1": "a", "d4": "d"}, {}).trained_otherwise(weights) == (
        "it was not trained on 1 of the 2 training cases: d"
    )
    assert TrainingCases({"d1": "a"}, {}).trained_otherwise(torch.nn.Linear(2, 2).state_dict()) == ""


# --- through the bundle


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set, and a folder with what one epoch left."""
    folder = tmp_path_factory.mktemp("leakage")
    make_dataset(folder / "data", BUNDLE)
    run(BUNDLE, TRAIN, folder / "data", folder, "training")
    return folder


def names(dataset, part):
    return [item["image"].rsplit("/", 1)[1].removesuffix(".nii.gz") for item in load_datalist(dataset, part)]


def with_splits(trained, folder, **parts):
    shutil.copytree(trained / "data", folder / "data")
    (folder / "data/splits.json").write_text(json.dumps([parts]), encoding="utf-8")
    shutil.copytree(trained / "models", folder / "models")
    return folder / "data"


def test_both_checkpoints_know_what_was_trained_on(trained):
    digests = image_digests([item["image"] for item in load_datalist(trained / "data", "training")])
    for name in ("model.pt", "last.pt"):
        assert trained_images(read_weights(trained / "models" / name)).keys() == set(digests.values())
    small_network(BUNDLE).load_state_dict(torch.load(trained / "models/model.pt", weights_only=True))


@pytest.mark.parametrize("start", ["resume", "init_from"])
def test_a_set_that_grew(start, trained, tmp_path, caplog):
    """Another split would validate with what was trained on: refused by name. Cases in no part are said."""
    training, validation, test = (names(trained / "data", part) for part in ("training", "validation", "test"))
    options = {"resume": True, "epochs": 2} if start == "resume" else {"init_from": str(tmp_path / "models/model.pt")}
    dataset = with_splits(trained, tmp_path, train=training[1:], val=training[:1])
    with pytest.raises(RuntimeError) as raised:
        workflow(BUNDLE, TRAIN, dataset, tmp_path, **options)
    assert f"was trained on 1 of the 1 validation cases, which would look better than new ones: {training[0]}" in str(
        root_cause(raised.value)
    )
    left_out = sorted(validation + test)
    assert f"splits.json: {len(left_out)} case(s) are in no part of fold 0: " in caplog.text
    assert all(case in caplog.text for case in left_out)
    (dataset / "splits.json").write_text(json.dumps([{"train": training + validation, "val": test}]), encoding="utf-8")
    workflow(BUNDLE, TRAIN, dataset, tmp_path, **options)


def test_evaluation_says_what_was_trained_on(trained, tmp_path, caplog):
    training, validation, test = (names(trained / "data", part) for part in ("training", "validation", "test"))
    dataset = with_splits(trained, tmp_path, train=training[1:], val=validation, test=[training[0], *test])
    run(BUNDLE, EVALUATE, dataset, tmp_path, "evaluating")
    assert f"was trained on 1 of the {len(test) + 1} case(s): {training[0]}" in caplog.text
    summary = (tmp_path / "eval/summary.md").read_text(encoding="utf-8")
    assert summary.startswith(f"Means over {len(test) + 1} case(s)")
    assert (
        f"**The weights were trained on 1 of these cases**, so that the means say little about new ones: {training[0]}"
        in summary
    )
    paths = [tmp_path / "models/model.pt", tmp_path / "models/last.pt"]
    assert trained_on(paths, load_datalist(trained / "data", "test")) == []


def test_one_image_in_both_parts_stops_a_training(trained, tmp_path):
    dataset = tmp_path / "data"
    shutil.copytree(trained / "data", dataset)
    training, validation = (load_datalist(dataset, part)[0] for part in ("training", "validation"))
    for kind in ("image", "label"):
        nib.save(nib.load(training[kind]), validation[kind])
    with pytest.raises(RuntimeError) as raised:
        workflow(BUNDLE, TRAIN, dataset, tmp_path)
    message = str(root_cause(raised.value))
    assert training["image"] in message and validation["image"] in message and "in the validation part" in message
    assert not list(tmp_path.glob("models/*.pt"))


def test_another_order_of_the_voxels_is_the_same_image(tmp_path):
    volume = nib.load(save(tmp_path / "a.nii")["image"])
    nib.save(volume.as_reoriented([[1, -1], [0, 1], [2, -1]]), tmp_path / "b.nii")
    with pytest.raises(ValueError, match="1 image.s. stand in the training and in the validation part"):
        training_cases([{"image": str(tmp_path / "a.nii")}], [{"image": str(tmp_path / "b.nii")}])
