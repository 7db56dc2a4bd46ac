"""Smooth random fields, which deform, texture and shade what is drawn."""

from collections.abc import Sequence

import numpy as np


def random_field(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    waves: int,
    decay: float = 0.0,
) -> np.ndarray:
    """Return a smooth field of mean 0 and deviation 1: a sum of cosines along the axes.

    Args:
        shape: voxels along each axis.
        spacing: millimetres along each axis; only its ratios matter.
        waves: half-waves on the longest side, at most.
        decay: amplitudes fall with this power of the frequency: 0 for all alike, about 1.5 for clouds.
    """
    extent = np.multiply(shape, spacing)
    cutoffs = np.clip(np.ceil(waves * extent / extent.max()), 2, shape).astype(int)
    field = rng.standard_normal(cutoffs + 1).astype(np.float32)
    if decay:
        orders = np.meshgrid(
            *(np.arange(cutoff + 1) / side for cutoff, side in zip(cutoffs, extent, strict=True)), indexing="ij"
        )
        frequency = np.sqrt(sum(order**2 for order in orders))
        field *= (frequency + 1 / extent.max()).astype(np.float32) ** np.float32(-decay)
    for side, cutoff in zip(shape, cutoffs, strict=True):
        centres = (np.arange(side) + 0.5) / side
        cosines = np.cos(np.pi * np.outer(np.arange(cutoff + 1), centres)).astype(np.float32)
        field = np.tensordot(field, cosines, axes=(0, 0))  # replaces the first axis, and moves it to the end
    return (field - field.mean()) / field.std()
