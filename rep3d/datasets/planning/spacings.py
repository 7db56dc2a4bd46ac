"""The spacing that scans are resampled to; and scans that have none that can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np

from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.planning.decision import Decision
from rep3d.io.geometry import VolumeError, plain_geometry
from rep3d.transforms import MAX_GRID_BYTES, check_resampled

ANISOTROPIC = 3.0  # ratio of two spacings, from which on the larger is taken finer, as nnU-Net does it
FINER = 10.0  # percentile of such a spacing
WRONG = 5.0  # ratio of two spacings in all axes, of which one must be wrong: by ten, where others differ by two


def plan_spacing(
    facts: Sequence[CaseFacts], own: Sequence[float] | None
) -> tuple[Sequence[float], list[float], Decision]:
    """The spacing that is taken, that of the data, and why.

    Args:
        own: in mm, along the RAS axes, that a user wants.
    """
    decided, why = choose_spacing(facts)
    if own is None:
        return decided, decided, why
    return own, decided, Decision(_spacing_of(own), f"yours; the data say {_mm(decided)} mm")


def choose_spacing(facts: Sequence[CaseFacts]) -> tuple[list[float], Decision]:
    """The median of each RAS axis; of an axis much coarser than another a finer one, but not finer than the others."""
    spacings = np.array([ras_spacing(fact) for fact in facts])
    chosen = np.median(spacings, axis=0)
    why = f"median of {len(facts)} case(s)"
    coarse = int(chosen.argmax())
    if chosen[coarse] >= ANISOTROPIC * chosen.min() and len(facts) > 1:
        finer = np.percentile(spacings[:, coarse], FINER)
        chosen[coarse] = max(finer, np.delete(chosen, coarse).max())
        axis = ("first", "second", "third")[coarse]
        why += f"; the {axis} axis is anisotropic, so its {FINER:g}th percentile"
        why += ", but no finer than the others" if chosen[coarse] > finer else ""
    spread = spacings.max(axis=0) / spacings.min(axis=0)
    if spread.max() >= ANISOTROPIC:
        why += f"; they differ by up to {spread.max():.2g} times"
    rounded = [float(f"{value:.4g}") for value in chosen]
    return rounded, Decision(_spacing_of(rounded), why)


def _spacing_of(spacing: Sequence[float]) -> str:
    return f"spacing {' x '.join(f'{value:.2f}' for value in spacing)} mm"


def wrong_spacings(facts: Sequence[CaseFacts]) -> dict[str, list[str]]:
    """The cases whose voxels are five times as large or small as most, along all axes: their headers must be wrong.

    Raises:
        ValueError: half of them are, so that nobody knows which.
    """
    spacings = np.array([ras_spacing(fact) for fact in facts])
    median = np.percentile(spacings, 50, axis=0, method="lower")
    ratios = spacings / median
    off = (ratios >= WRONG).all(axis=1) | (ratios <= 1 / WRONG).all(axis=1)
    cases = {fact.case: spacing for fact, spacing, is_off in zip(facts, spacings, off, strict=True) if is_off}
    if 2 * len(cases) >= len(facts):
        good = next(fact.case for fact, is_off in zip(facts, off, strict=True) if not is_off)
        raise ValueError(
            f"voxels of {next(iter(cases))} and of {good} differ at least {WRONG:g} times along all axes, and so do "
            "those of half of the cases: the headers of some must be wrong"
        )
    told = f"at least {WRONG:g} times as large or small as those of most cases"
    return {case: [f"{case}: voxels of {_mm(own)} mm, {told}, {_mm(median)} mm"] for case, own in cases.items()}


def too_large(facts: Sequence[CaseFacts], spacing: Sequence[float]) -> dict[str, list[str]]:
    """The cases that a training would refuse, as they would have too many voxels of a spacing, or a single one."""
    found = {}
    for fact in facts:
        axes, affine = nib.orientations.axcodes2ornt(tuple(fact.orientation)), np.diag([0.0, 0.0, 0.0, 1.0])
        affine[axes[:, 0].astype(int), range(3)] = fact.spacing
        geometry = replace(plain_geometry(tuple(fact.shape), affine), channels=fact.channels)
        try:
            check_resampled(fact.case, geometry, spacing, MAX_GRID_BYTES)
        except VolumeError as error:
            found[fact.case] = [str(error)]
    return found


def median_shape(facts: Sequence[CaseFacts], spacing: Sequence[float]) -> list[int]:
    """Voxels along the RAS axes after resampling."""
    shapes = [
        [
            max(1, round(n * own / new))
            for n, own, new in zip(_ras(fact, fact.shape), ras_spacing(fact), spacing, strict=True)
        ]
        for fact in facts
    ]
    return [int(n) for n in np.median(shapes, axis=0)]


def ras_spacing(fact: CaseFacts) -> list[float]:
    """Of a case, along the axes right, anterior, superior."""
    return _ras(fact, fact.spacing)


def _ras(fact: CaseFacts, values: Sequence[Any]) -> list[Any]:
    """What belongs to the axes of the file, by the axes right, anterior, superior."""
    axes = nib.orientations.axcodes2ornt(tuple(fact.orientation))[:, 0].astype(int)
    found = dict(zip(axes.tolist(), values, strict=True))
    return [found[axis] for axis in range(3)]


def _mm(spacing: Iterable[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)
