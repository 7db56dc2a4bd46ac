"""Simulated users: what somebody who knows the truth would show first, and what next.

Masks are 3D arrays of bool, NumPy's or torch's on the CPU; `spacing` is millimetres between their voxels along each
axis. The prompts' positions count from the arrays' first voxel. All randomness comes from the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rep3d.interactive.hand_drawing import draw_prompt
from rep3d.interactive.prompts import Kind, Prompt, point
from rep3d.interactive.voxel_regions import TOUCHING, Mask, Region, box_round, depth_in, radius_of, region_of

FIRST_KINDS: Mapping[Kind, float] = {"point": 0.5, "scribble": 0.25, "box": 0.15, "lasso": 0.1}
LATER_KINDS: Mapping[Kind, float] = {"point": 0.6, "scribble": 0.3, "box": 0.04, "lasso": 0.06}
BESIDE_KINDS: Mapping[Kind, float] = {"point": 0.7, "scribble": 0.3}
BESIDE = 0.5  # of the truth's radius: how far from it what lies beside it may be
LARGEST = 0.8  # of the corrections go to the largest error, the others to any, rather to a large one


def first_prompt(
    truth: Mask, spacing: Sequence[float], generator: np.random.Generator, kinds: Mapping[Kind, float] = FIRST_KINDS
) -> Prompt | None:
    """A positive prompt that shows the truth; None where it is empty.

    Args:
        truth: the label against the rest.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth = _array(truth)
    region = region_of(truth)
    return None if region is None else draw_prompt(region, truth.shape, spacing, generator, kinds, positive=True)


def beside(
    truth: Mask,
    within: Mask,
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float] = BESIDE_KINDS,
) -> Prompt | None:
    """A negative prompt near the truth, of a user who foresees where too much will be found; None where it cannot lie.

    Args:
        truth: the label against the rest.
        within: where the prompt may lie, bool.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth, sides = _array(truth), np.asarray(spacing, dtype=float)
    if not truth.any():
        return None
    reach = max(BESIDE * radius_of(truth, spacing), sides.min())
    part = box_round(truth, np.ceil(reach / sides).astype(int))
    away = ndimage.distance_transform_edt(~truth[part], sampling=spacing)
    region = region_of((away > 0) & (away <= reach) & _array(within)[part])
    if region is None:
        return None
    region = Region(region.inside, region.start + [side.start for side in part])
    return draw_prompt(region, truth.shape, spacing, generator, kinds, positive=False)


def correction(
    truth: Mask,
    mask: Mask,
    spacing: Sequence[float],
    generator: np.random.Generator,
    kinds: Mapping[Kind, float] = LATER_KINDS,
) -> Prompt | None:
    """A prompt in a connected error, positive where the truth is missed; None where nothing is wrong.

    Args:
        truth: the label against the rest.
        mask: what is to be corrected.
        spacing: millimetres.
        generator: draws.
        kinds: how often each kind is chosen.
    """
    truth, mask = _array(truth), _array(mask)
    errors = _errors(truth, mask)
    if not errors:
        return None
    sizes = np.array([error.size for error in errors])
    if generator.random() < LARGEST:
        error = errors[int(sizes.argmax())]
    else:
        error = errors[int(generator.choice(len(errors), p=sizes / sizes.sum()))]
    return draw_prompt(error.region(), truth.shape, spacing, generator, kinds, positive=error.missed)


def deepest_click(truth: Mask, mask: Mask, spacing: Sequence[float]) -> Prompt | None:
    """The point that the user of the evaluation sets next, the deepest voxel of the largest error; None without errors.

    An error is connected (26 neighbours), and either missed or too much, so that the click's sign holds for all of it;
    of equal ones the first missed one counts. Depth is the distance in millimetres to where the error ends; the scan's
    border ends it, too. Of equally deep voxels the one nearest to their middle counts, then the first.
    """
    truth, mask = _array(truth), _array(mask)
    errors = _errors(truth, mask)
    if not errors:
        return None
    error = max(errors, key=lambda error: error.size)  # the first of the largest
    region = error.region()
    depth = depth_in(region.inside, spacing)
    deepest = np.argwhere(depth >= depth.max() * (1 - 1e-6))
    distance = np.linalg.norm((deepest - deepest.mean(0)) * np.asarray(spacing), axis=1)
    voxel = deepest[int((distance <= distance.min() + 1e-6).argmax())]
    return point(voxel + region.start, spacing, error.missed)


def near_error(truth: Mask, mask: Mask, spacing: Sequence[float], shown: Mask) -> np.ndarray:
    """The errors that touch what a prompt shows, and as far round them as they are deep; all errors where none does.

    About half of these voxels are wrong in the mask.

    Args:
        truth: the label against the rest.
        mask: what is to be corrected.
        spacing: millimetres.
        shown: where the prompt is drawn, bool.
    """
    wrong = _array(truth) ^ _array(mask)
    labels, _ = ndimage.label(wrong, TOUCHING)
    touched = np.unique(labels[_array(shown)])
    if touched.any():
        wrong = np.isin(labels, touched[touched > 0])
    near, region = np.zeros_like(wrong), region_of(wrong)
    if region is not None:
        depth = depth_in(region.inside, spacing).max()
        part = box_round(wrong, np.ceil(depth / np.asarray(spacing)).astype(int))
        near[part] = ndimage.distance_transform_edt(~wrong[part], sampling=list(spacing)) <= depth
    return near


class _Error(NamedTuple):
    """A connected error: the voxels where `labels`, which begins at the scan's voxel `start`, is `label`."""

    size: int
    missed: bool
    label: int
    labels: np.ndarray
    start: np.ndarray

    def region(self) -> Region:
        region = region_of(self.labels == self.label)
        assert region is not None
        return Region(region.inside, region.start + self.start)


def _errors(truth: np.ndarray, mask: np.ndarray) -> list[_Error]:
    """All of them; the missed ones first."""
    errors = []
    for missed, wrong in ((True, truth & ~mask), (False, mask & ~truth)):
        whole = region_of(wrong)
        if whole is not None:
            labels, _ = ndimage.label(whole.inside, TOUCHING)
            sizes = np.bincount(labels.ravel())[1:]
            errors += [_Error(int(size), missed, i, labels, whole.start) for i, size in enumerate(sizes, 1)]
    return errors


def _array(mask: Mask) -> np.ndarray:
    return np.asarray(mask, dtype=bool)
