"""The loss of corrections, and where it looks."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from rep3d.interactive.loss import CorrectionLoss
from rep3d.interactive.users import near_error

SPACING = (1.0, 1.0, 2.0)


def cuboid(*sides: slice) -> np.ndarray:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[sides] = True
    return mask


TRUTH = cuboid(slice(4, 16), slice(4, 16), slice(4, 16))
HOLE = cuboid(slice(12, 16), slice(8, 12), slice(8, 12))
FAR = cuboid(slice(20, 22), slice(20, 22), slice(20, 22))


def test_near_is_the_error_that_was_shown_and_as_far_round_it_as_it_is_deep():
    mask = (TRUTH & ~HOLE) | FAR
    near = near_error(TRUTH, mask, SPACING, HOLE & cuboid(slice(13, 14), slice(9, 10), slice(9, 10)))
    assert near[HOLE].all() and not near[FAR].any()
    assert near[10, 10, 10] and not near[9, 10, 10], "two voxels deep"
    assert near[13, 10, 12] and not near[13, 10, 13], "millimetres count, not voxels"


@pytest.mark.parametrize("shown", [TRUTH, np.zeros_like(TRUTH)], ids=["a box over all", "nothing"])
def test_near_holds_every_error_that_is_shown_or_all_where_none_is(shown):
    mask = (TRUTH & ~HOLE) | FAR
    near = near_error(TRUTH, mask, SPACING, shown)
    assert near[HOLE].all() and near[FAR].all() == (not shown.any())


def test_nothing_is_near_where_nothing_is_wrong():
    assert not near_error(TRUTH, TRUTH, SPACING, TRUTH).any()
    assert near_error(TRUTH, np.zeros_like(TRUTH), SPACING, TRUTH)[TRUTH].all()


def test_a_repeated_mask_costs_more_than_by_dice_and_cross_entropy_alone():
    """By how much: by the mean cross-entropy near the error, of each case by itself."""
    truth = torch.from_numpy(np.stack([TRUTH, TRUTH]))[:, None].float()
    mask = torch.from_numpy(np.stack([TRUTH & ~HOLE, TRUTH]))[:, None].float()
    near = torch.from_numpy(np.stack([near_error(TRUTH, TRUTH & ~HOLE, SPACING, HOLE), np.zeros_like(TRUTH)]))[:, None]
    logits = (8 * mask - 4).requires_grad_()
    ours = CorrectionLoss(sigmoid=True)(logits, torch.cat([truth, near.float()], 1))
    plain = DiceCELoss(sigmoid=True)(logits, truth)
    by_voxel = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], truth[0], reduction="none")
    assert float(ours - plain) == pytest.approx(float(by_voxel[near[0]].mean()) / 2, rel=1e-5)
    ours.backward()
    assert torch.isfinite(logits.grad).all()
