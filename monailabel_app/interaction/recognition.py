"""Whether voxels that came from a client are those of a scan, whatever the order and direction of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from monailabel_app.interaction.record import SessionRecord
from rep3d.interactive.prompts import Prompt

FEW = 16  # voxels along each axis, at most, that are compared first
SPACING_TOLERANCE = 1e-2  # relative: the voxels are compared, too


@dataclass(frozen=True)
class Placement:
    """How an array lies on a scan.

    Attributes:
        axes: which of the scan's axes each of the array's is.
        flipped: whether it runs the other way.
    """

    axes: Sequence[int]
    flipped: Sequence[bool]

    def on_scan(self, prompt: Prompt, array: SessionRecord, spacing: Sequence[float]) -> Prompt:
        """What was shown on the array, on the same voxels of the scan.

        Args:
            spacing: of the scan, which may be another than the client's rounded one.
        """
        positions = []
        for position in prompt.positions:
            turned = [0.0, 0.0, 0.0]
            for n, (axis, flipped) in enumerate(zip(self.axes, self.flipped, strict=True)):
                voxel = position[n] / array.spacing[n]
                turned[axis] = (array.shape[n] - 1 - voxel if flipped else voxel) * spacing[axis]
            positions.append((turned[0], turned[1], turned[2]))
        return replace(prompt, positions=tuple(positions))

    def mask_on_scan(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the array, on the scan."""
        turned = mask[tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flipped)]
        return np.ascontiguousarray(turned.transpose(np.argsort(self.axes)))


AS_IT_IS = Placement((0, 1, 2), (False, False, False))


def is_spacing(spacing: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two spacings are one, which programs and forms of a header round in their ways."""
    return bool(np.allclose(spacing, other, rtol=SPACING_TOLERANCE, atol=0))


def may_be(array: SessionRecord, shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether an array may be a scan of this shape and spacing; costs nothing."""
    return any(_fits(axes, array.shape, array.spacing, shape, spacing) for axes in permutations(range(3)))


def find_placement(
    array: np.ndarray, spacing: Sequence[float], scan: np.ndarray, scan_spacing: Sequence[float]
) -> Placement | None:
    """How an array lies on a scan; None where it is another one.

    Args:
        array, scan: (D, H, W), as `voxels.compact` gives them. Of an array on the disk little is read, unless it fits.
        spacing, scan_spacing: millimetres between their voxels along each axis.
    """
    if array.dtype != scan.dtype:
        return None
    few = tuple(slice(None, None, -(-n // FEW)) for n in array.shape)
    for axes in permutations(range(3)):
        if not _fits(axes, array.shape, spacing, scan.shape, scan_spacing):
            continue
        for flipped in product((False, True), repeat=3):
            turned = scan.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
            if np.array_equal(array[few], turned[few]) and np.array_equal(array, turned):
                return Placement(axes, flipped)
    return None


def _fits(
    axes: Sequence[int],
    shape: Sequence[int],
    spacing: Sequence[float],
    scan_shape: Sequence[int],
    scan_spacing: Sequence[float],
) -> bool:
    same_shape = tuple(shape) == tuple(scan_shape[axis] for axis in axes)
    return same_shape and is_spacing(spacing, [scan_spacing[axis] for axis in axes])
