"""What refinement does to a label map."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from rep3d.refinement import RefineLabelsd

NAMES = ["background", "liver", "tumor"]
SPACING = np.diag([2.0, 1.0, 5.0, 1.0])  # a voxel has 0.01 ml


def label_map():
    """A liver of 5x5x5 voxels with a hole and, in another hole, a tumor; a second piece of it of 2 voxels."""
    labels = np.zeros((12, 8, 8), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[2, 2, 2] = 0
    labels[4, 4, 4] = 2
    labels[8:10, 1, 1] = 1
    return labels


def refine(labels, **told):
    pred = MetaTensor(torch.from_numpy(labels[None].copy()), affine=torch.from_numpy(SPACING))
    refined = RefineLabelsd("pred", NAMES, **told)({"pred": pred})["pred"]
    assert isinstance(refined, MetaTensor) and torch.equal(refined.affine, pred.affine) and refined.dtype == pred.dtype
    assert np.array_equal(pred[0].numpy(), labels)
    return refined[0].numpy()


def changed(before, after):
    return {tuple(place): int(after[tuple(place)]) for place in np.argwhere(before != after).tolist()}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"largest": ["liver"]}, {(8, 1, 1): 0, (9, 1, 1): 0}),
        ({"smallest_ml": {"liver": 0.02}}, {}),
        ({"smallest_ml": {"liver": 0.021}}, {(8, 1, 1): 0, (9, 1, 1): 0}),
        ({"smallest_ml": {"tumor": 0.02}}, {(4, 4, 4): 0}),
        ({"filled": ["liver"]}, {(2, 2, 2): 1}),  # the tumor stays
        ({"filled": ["tumor"]}, {}),
    ],
)
def test_a_label_map(told, expected):
    labels = label_map()
    assert changed(labels, refine(labels, **told)) == expected


def test_labels_one_after_another():
    """A liver goes whose volume is too small, and so does the hole that it made in the tumor's way."""
    assert changed(label_map(), refine(label_map(), smallest_ml={"liver": 9.0})).keys() == set(
        map(tuple, np.argwhere(label_map() == 1).tolist())
    )
    assert not refine(np.zeros_like(label_map()), largest=["liver"], filled=["tumor"]).any()


def test_voxels_that_touch_at_a_corner_are_one_component():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = labels[4, 4, 5] = 1
    assert changed(labels, refine(labels, largest=["liver"])) == {(4, 4, 5): 0}


def test_a_label_that_there_is_not():
    with pytest.raises(ValueError, match="refinement names the label 'spleen', expected some of liver, tumor"):
        refine(label_map(), largest=["spleen"])
