"""Labels cut out of label maps, as a training sees them."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from rep3d.interactive import cubes
from rep3d.interactive.cubes import MIN_VOXELS, StandardizeWorkingGridd, WorkingGridd, cube_edge

AFFINE = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))


def label_map():
    """Two labels that touch, and one apart."""
    labels = np.zeros((40, 36, 20), np.float32)
    labels[6:16, 8:20, 4:12], labels[16:24, 8:20, 4:12], labels[30:38, 28:34, 12:18] = 3, 7, 400
    return labels


def case(labels=None, folder="somewhere", **more):
    labels = label_map() if labels is None else labels
    image = labels + 0.1 * np.random.default_rng(0).normal(size=labels.shape)
    named = {"filename_or_obj": f"{folder}/case_1.nii.gz"}
    item = {"image": image, "label": labels, **more}
    return {key: MetaTensor(torch.from_numpy(value)[None].float(), affine=AFFINE, meta=dict(named))
            for key, value in item.items()}  # fmt: skip


def draws(count=60, **more):
    transform = WorkingGridd(size=16).set_random_state(seed=4)
    return [transform(case(**more)) for _ in range(count)]


def test_what_is_written():
    for item in draws(10):
        assert set(item) == {"image", "spacing", "inside", "target", "taken", "prediction"}
        for key in ("image", "inside", "target", "taken", "prediction"):
            assert item[key].shape == (1, 16, 16, 16)
            assert item[key].dtype == (torch.float32 if key == "image" else torch.bool)
        assert not (item["target"] & ~item["inside"]).any() and not (item["target"] & item["taken"]).any()
        assert not item["prediction"].any() and item["spacing"] > 0


def test_the_target_is_where_its_intensities_are():
    """Image and target are cut out at the same place: the image was made from the labels."""
    hits = 0
    for item in draws():
        if item["spacing"] < 1.2 and item["target"].sum() > 30:  # so that it is little mixed with its neighbours
            hits += 1
            median = float(item["image"][item["target"]].median())
            assert min(abs(median - label) for label in (3, 5, 7, 400)) < 3
    assert hits > 5


def test_every_label_some_unions_and_some_locks():
    items = draws(100)
    medians = [float(item["image"][item["target"]].median()) for item in items if item["target"].any()]
    assert all(any(abs(median - label) < 1.5 for median in medians) for label in (3, 7, 400))
    locked = sum(bool(item["taken"].any()) for item in items)
    assert 10 < locked < 80
    spread = [float(item["image"][item["target"]].std()) for item in items if item["target"].sum() > 30]
    assert sum(1.5 < s < 3 for s in spread) >= 1, "never the union of the two that touch"


@pytest.mark.parametrize("chance", [0, 1])
def test_parts_of_labels(monkeypatch, chance):
    """A part has enough voxels, and the rest of its label looks like it; nobody predicted it."""
    monkeypatch.setattr(cubes, "CHANCE_OF_PART", chance)
    labels = np.where(label_map() == 3, 3, 0).astype(np.float32)
    shares = []
    for item in draws(20, labels=labels, prediction=labels):
        whole = item["image"] > 1.5
        shares.append(float((item["target"] & whole).sum() / whole.sum()))
        assert item["target"].sum() >= MIN_VOXELS
        assert item["prediction"].any() == (not chance)
    assert np.median(shares) < 0.8 if chance else min(shares) > 0.7


def test_predictions_follow_the_label(monkeypatch):
    monkeypatch.setattr(cubes, "CHANCE_OF_PART", 0)
    shifted = np.roll(label_map(), 2, 0)
    items = [item for item in draws(30, prediction=shifted) if item["target"].sum() > 50]
    for item in items:
        assert item["prediction"].any() and not torch.equal(item["prediction"], item["target"])
        overlap = 2 * (item["prediction"] & item["target"]).sum() / (item["prediction"].sum() + item["target"].sum())
        assert overlap > 0.4


def test_a_seed_makes_cases_the_same_in_any_folder():
    first = WorkingGridd(size=16, seed=3)(case())
    again = WorkingGridd(size=16, seed=3)(case(folder="elsewhere"))
    others = [WorkingGridd(size=16, seed=seed)(case()) for seed in range(4, 9)]
    assert all(torch.equal(first[key], again[key]) for key in ("image", "target", "taken", "inside"))
    assert not all(torch.equal(first["target"], other["target"]) for other in others)


@pytest.mark.parametrize("voxels", [0, 7])
def test_nothing_to_learn_from(voxels):
    labels = np.zeros((20, 20, 20), np.float32)
    labels[3, 3, 3 : 3 + voxels] = 2
    with pytest.raises(ValueError, match="case_1.nii.gz: has no label of at least 8 voxels"):
        WorkingGridd(size=16)(case(labels))


def test_the_image_is_standardized_within_the_scan():
    item = WorkingGridd(size=48, seed=0)(case())
    assert not item["inside"].all()
    image = StandardizeWorkingGridd("image")(item)["image"]
    assert float(image[item["inside"]].mean()) == pytest.approx(0, abs=1e-4)
    assert float(image[item["inside"]].std()) == pytest.approx(1, abs=1e-2)
    assert not image[~item["inside"]].any()


def test_working_grids_are_cubes():
    assert cube_edge([48, 48, 48]) == 48
    with pytest.raises(ValueError, match=r"patch_size is \[32, 48, 32\], expected equal numbers"):
        cube_edge([32, 48, 32])


def test_little_is_left_off_the_grid():
    """A long thin label is nearly lost on a coarse grid; then another one is drawn."""
    labels = np.zeros((120, 20, 20), np.float32)
    labels[2:118, 9:11, 10:12] = 5
    assert min(int(item["target"].sum()) for item in draws(40, labels=labels)) >= MIN_VOXELS
