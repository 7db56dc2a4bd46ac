"""Cases of several data sets."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rep3d.data import sources
from rep3d.data.checks import check_datalist
from rep3d.data.leakage import training_cases
from rep3d.data.lists import load_datalist
from rep3d.data.sources import load_sources
from rep3d.datasets.phantom import write_decathlon


def write(folder: Path, count=10, seed=0) -> Path:
    write_decathlon(folder, labels={1: "ball"}, count=count, shape=(12, 12, 12), spacing=(1, 1, 1), seed=seed)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets whose files have the same names, and hold other volumes."""
    root = tmp_path_factory.mktemp("sources")
    return [write(root / "drawn"), write(root / "own", 5, seed=1)]


def images(items):
    return [item["image"] for item in items]


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_one_data_set_is_what_load_datalist_gives(part, folders):
    assert load_sources(folders[0], None, part) == load_datalist(folders[0], part)
    assert load_sources(folders[0], [], part) == load_datalist(folders[0], part)


@pytest.mark.parametrize("labels", [{"background": 0, "ball": 1, "ignore": 2}, {"1": "ball", "2": "Ignore"}])
def test_voxels_that_nobody_judged_are_no_structure(folders, tmp_path, labels):
    folder = write(tmp_path / "partly")
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "labels": labels}))
    for first, more in ((folder, None), (folders[0], [folder])):
        with pytest.raises(ValueError, match="partly.dataset.json: .*gnore', voxels that nobody has judged"):
            load_sources(first, more, "training")


def test_each_is_split_by_itself(folders):
    for part in ("training", "validation"):
        both = load_sources(folders[0], [folders[1]], part)
        assert images(both) == [*images(load_datalist(folders[0], part)), *images(load_datalist(folders[1], part))]
    assert load_sources(folders[0], str(folders[1]), "training") == load_sources(folders[0], [folders[1]], "training")


def test_repeats(folders):
    once, more = (load_datalist(folder, "training") for folder in folders)
    listed = images(load_sources(folders[0], [folders[1]], "training", repeats=[1, 3]))
    assert len(listed) == len(once) + 3 * len(more)
    assert {listed.count(image) for image in images(more)} == {3} and {listed.count(i) for i in images(once)} == {1}


def test_most_takes_of_each_in_turn(folders):
    first = load_sources(folders[0], [write(folders[0].parent / "third", 40)], "validation", most=3)
    assert len(first) == 3 and len({Path(item["image"]).parents[1] for item in first}) == 2


def test_the_guard_looks_at_all_of_them(folders, tmp_path):
    """An image of one data set's training part that validates in another is found, and equal names are none."""
    training = load_sources(folders[0], [folders[1]], "training", repeats=[1, 2])
    validation = load_sources(folders[0], [folders[1]], "validation")
    assert len(training_cases(training, validation).training) == len(set(images(training)))
    with pytest.raises(ValueError, match="1 image.s. stand in the training and in the validation part"):
        training_cases(training, [*validation, {**training[0], "image": str(copied(training[0]["image"], tmp_path))}])


def copied(path, folder):
    volume = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine), folder / "renamed.nii.gz")
    return folder / "renamed.nii.gz"


def write_predictions(items, folder, postfix="_seg", move=0.0):
    folder.mkdir(exist_ok=True)
    for item in items:
        volume = nib.load(item["label"])
        affine = volume.affine.copy()
        affine[0, 3] += move
        name = Path(item["image"]).name.removesuffix(".nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), affine), folder / f"{name}{postfix}.nii.gz")
    return folder


@pytest.mark.parametrize("postfix", ["_seg", ""])
def test_predictions_by_name(postfix, folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    items = load_datalist(folders[0], "training")
    write_predictions(items[:2], tmp_path / "predicted", postfix)
    found = load_sources(folders[0], None, "training", predictions=tmp_path / "predicted")
    assert ["prediction" in item for item in found] == [True, True, *[False] * (len(items) - 2)]
    assert f"predictions: of 2 of {len(items)} cases" in caplog.text
    check_datalist(found, None)


def test_predictions_that_do_not_lie_on_their_image(folders, tmp_path):
    items = load_datalist(folders[0], "training")
    write_predictions(items[:1], tmp_path / "predicted", move=4.0)
    with pytest.raises(ValueError, match="_seg.nii.gz: affine .* of its image"):
        check_datalist(load_sources(folders[0], None, "training", predictions=tmp_path / "predicted"), None)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"repeats": [1]}, ValueError, r"repeats is \[1\], expected 2 whole number.s. from 1"),
        ({"repeats": 3}, ValueError, "repeats is 3, expected 2 whole number.s. from 1"),
        ({"repeats": [1, 0]}, ValueError, "repeats is"),
        ({"repeats": [1, 1.5]}, ValueError, "repeats is"),
        ({"most": 0}, ValueError, "the training part must have at least 1 case, got 0"),
        ({"predictions": "/nowhere"}, FileNotFoundError, "predictions '/nowhere' does not exist"),
    ],
)
def test_what_is_refused(options, error, said, folders):
    with pytest.raises(error, match=said):
        load_sources(folders[0], [folders[1]], "training", **options)


def test_predictions_of_nobody_or_of_two(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no label map of any case, expected for example .*_seg.nii.gz"):
        load_sources(folders[0], None, "training", predictions=tmp_path / "empty")
    everything = [item for part in ("training", "validation", "test") for item in load_datalist(folders[0], part)]
    write_predictions(everything, tmp_path / "all")
    with pytest.raises(ValueError, match="expected one case of that name"):
        load_sources(folders[0], [folders[0].parent / "own"], "training", predictions=tmp_path / "all")


@pytest.mark.parametrize(("voxels", "fine"), [(31, True), (700, True), (1.5, False), (-1, False), (2.0**25, False)])
def test_any_whole_numbers_are_labels(voxels, fine, folders, tmp_path):
    item = dict(load_datalist(folders[0], "training")[0])
    volume = nib.load(item["label"])
    nib.save(nib.Nifti1Image(np.full(volume.shape, voxels, np.float32), volume.affine), tmp_path / "label.nii.gz")
    item["label"] = str(tmp_path / "label.nii.gz")
    if fine:
        check_datalist([item], None)
        return
    with pytest.raises(ValueError, match=r"label.nii.gz: label value\(s\) .* whole numbers from 0 to 16777216"):
        check_datalist([item], None)


def test_names_of_one_data_set_tell_no_cases_of_several_apart(folders, monkeypatch):
    named = lambda folder, part, fold: [{"image": f"{folder}/a.nii", "label": "b.nii", "case": "a"}]  # noqa: E731
    monkeypatch.setattr(sources, "load_datalist", named)
    assert [item.get("case") for item in load_sources(folders[0], None, "training")] == ["a"]
    assert [item.get("case") for item in load_sources(folders[0], [folders[1]], "training")] == [None, None]


def test_predictions_are_looked_at_voxel_by_voxel(folders, tmp_path):
    (item, *_) = load_datalist(folders[0], "training")
    image = nib.load(item["image"])
    prediction = tmp_path / "prediction.nii.gz"
    nib.save(nib.Nifti1Image(np.full(image.shape, 1.5, np.float32), image.affine), prediction)
    with pytest.raises(ValueError, match="prediction.nii.gz"):
        check_datalist([{**item, "prediction": str(prediction)}], None)
