"""What points and scribbles claim of the voxels that they lie in, and which of it a mask must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree

from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, radius
from rep3d.interactive.scene import Scene
from rep3d.interactive.working_grid import finest_spacing


class Claims(NamedTuple):
    """The oldest first.

    Attributes:
        positions, voxels: (n, 3).
        places: (n,), each voxel as one number.
        positive: (n,) of bool.
        prompt: (n,), the number of each one's prompt.
    """

    positions: np.ndarray
    voxels: np.ndarray
    places: np.ndarray
    positive: np.ndarray
    prompt: np.ndarray

    @classmethod
    def of(cls, prompts: Sequence[Prompt], scan: Grid) -> Claims:
        """Those of prompts in a scan; areas claim nothing."""
        said = [(number, one) for number, one in enumerate(prompts) if one.kind in ("point", "scribble")]
        counts = [len(one.positions) for _, one in said]
        positions = np.concatenate([np.empty((0, 3)), *(one.array.numpy() for _, one in said)])
        voxels = np.rint(positions / scan.spacing).astype(np.int64)
        places = np.ravel_multi_index(tuple(voxels.T), scan.shape)
        positive = np.repeat(np.array([one.positive for _, one in said], dtype=bool), counts)
        return cls(positions, voxels, places, positive, np.repeat(np.array([n for n, _ in said], dtype=int), counts))

    def locked(self, prompts: Sequence[Prompt], taken: torch.Tensor) -> tuple[Prompt, ...]:
        """The prompts, as they were given to `of`, of which a positive claim lies in `taken`, (D, H, W) of bool."""
        locked = self.positive & taken.numpy()[tuple(self.voxels.T)]
        return tuple(dict.fromkeys(prompts[number] for number in np.unique(self.prompt[locked])))

    def unkept(self, mask: torch.Tensor, taken: torch.Tensor, start: Sequence[int], reach: float) -> np.ndarray:
        """Which claims a part of a mask does not keep, though it must, (n,) of bool.

        It need not where a voxel is locked, or a later contrary claim lies within reach, or in the same voxel.

        Args:
            mask, taken: the part, and what of it is locked, of bool.
            start: voxel of the scan that it begins at.
            reach: millimetres, see `reach_of`.
        """
        at = self.voxels - start
        here = ((at >= 0) & (at < mask.shape)).all(1)
        index = tuple(np.where(here[:, None], at, 0).T)
        unkept = here & (mask.numpy()[index] != self.positive) & ~(self.positive & taken.numpy()[index])
        for number in np.unique(self.prompt[unkept]):
            own = np.flatnonzero(unkept & (self.prompt == number))
            contrary = (self.prompt > number) & (self.positive != self.positive[own[0]])
            if contrary.any():
                distance, _ = KDTree(self.positions[contrary]).query(self.positions[own])
                unkept[own] = (distance > reach) & ~np.isin(self.places[own], self.places[contrary])
        return unkept


def reach_of(scan: Grid, size: int) -> float:
    """Millimetres, of a claim on a working grid of `size` voxels along each axis."""
    return radius(finest_spacing(scan, size))


def without_effect(prompts: Sequence[Prompt], scene: Scene) -> tuple[Prompt, ...]:
    """The positive prompts that lie in a locked label; see `Correction.locked`."""
    return () if scene.taken is None else Claims.of(prompts, scene.scan).locked(prompts, scene.taken)


def unkept_prompts(prompts: Sequence[Prompt], mask: torch.Tensor, scene: Scene) -> tuple[Prompt, ...]:
    """The prompts of which a mask, (D, H, W) of bool, breaks the promise that `correct` gives in the scene."""
    claims = Claims.of(prompts, scene.scan)
    unkept = claims.unkept(mask, scene.locked, (0, 0, 0), reach_of(scene.scan, scene.size))
    return tuple(prompts[number] for number in np.unique(claims.prompt[unkept]))
