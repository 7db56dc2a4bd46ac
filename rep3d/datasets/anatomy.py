"""Procedural anatomy: volumes of many structures without a name, to teach networks what borders look like.

Each volume is a mosaic of tissues in which organs, cavities, vessels and layers of many shapes lie, touch, and hold one
another. As in SynthSeg and anatomix (https://arxiv.org/abs/2411.02372) intensities are drawn at random, so that nothing
is learnt of any organ or scanner. Neighbours often look nearly or quite alike, and not all that is seen has a label.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rep3d.datasets.acquisition import Scan, acquire
from rep3d.datasets.fields import random_field
from rep3d.datasets.scene import TISSUE, Scene
from rep3d.datasets.shapes import KINDS, mosaic

MIN_SIZE, MAX_SIZE = 32, 256  # voxels along an axis
MAX_LABELS = 30
STRUCTURES = (14, 44)  # drawn in a volume; some have no label, or are hidden by others
MIN_VOXELS = 24  # of a label, before slices become thick
SMALLEST, LARGEST = 2.5, 0.31  # radius of a structure: in voxels, and as a part of the side
WEIGHTS = {  # how often each kind is drawn
    "ellipsoid": 4.0,
    "blob": 5.0,
    "shell": 2.5,
    "parcels": 2.5,
    "chamber": 3.0,
    "bent": 5.0,
    "tube": 2.5,
    "tree": 2.0,
    "coil": 1.0,
    "sheet": 2.0,
}
COMPOSED, THIN = ("shell", "parcels", "coil", "chamber"), ("tree", "tube", "sheet", "bent")


def make_anatomy(size: int = 96, *, seed: int | tuple[int, ...] = 0) -> Scan:
    """Return a scan of procedural anatomy, whose labels are 1, 2, ... up to 30, in no order.

    Args:
        size: voxels along each axis; fewer along one where slices are thick.
        seed: the same seed and size give the same scan.

    Raises:
        ValueError: the size is out of range.
    """
    check_size(size)
    rng = np.random.default_rng(seed)
    scene = Scene(rng, size)
    _draw_structures(scene)
    if rng.random() < 0.35:
        _draw_body(scene)
    scan = acquire(rng, scene.image, scene.label_map(MAX_LABELS, MIN_VOXELS))
    return scan._replace(label=_renumber(scan.label, MIN_VOXELS // 3))


def check_size(size: int) -> None:
    """Refuse volumes that hold no anatomy, or too much.

    Raises:
        ValueError: the size is out of range.
    """
    if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be a whole number of voxels from {MIN_SIZE} to {MAX_SIZE}, got {size!r}")


def _draw_structures(scene: Scene) -> None:
    """From large to small, so that small ones are not hidden."""
    rng, size = scene.rng, scene.shape[0]
    if rng.random() < 0.5:
        for solid in mosaic(rng, scene.shape):
            look = scene.look(float(rng.choice(scene.means)))
            scene.add(solid, replace(look, gap=None), is_labelled=rng.random() < 0.6)
    count = int(rng.integers(*STRUCTURES))
    radii = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST * size), count))
    radii[: count // 2] = rng.uniform(0.2 * LARGEST, LARGEST, count // 2) * size  # organs rather than lesions
    kinds, weights = list(WEIGHTS), np.array(list(WEIGHTS.values()))
    for radius in np.sort(radii)[::-1]:
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        if kind in COMPOSED and radius < 5:
            kind = "blob"  # too small for parts
        if kind in THIN and radius < 8:
            radius += 6  # their thickness is a fraction of it
        _draw(scene, kind, float(radius))


def _draw(scene: Scene, kind: str, radius: float) -> None:
    """Draw a structure and its parts, inside another one or outside all."""
    rng = scene.rng
    is_nested = rng.random() < 0.25
    centre = _place(scene, is_nested)
    below = float(scene.image[tuple(centre)])
    inside = TISSUE if not is_nested and rng.random() < 0.5 else None
    is_whole = rng.random() < 0.3  # what lies in it belongs to it, and it to what it lies in
    outer, *parts = KINDS[kind](rng, scene.shape, centre + rng.uniform(-0.5, 0.5, 3), radius)
    is_own, is_divided = not (is_nested and is_whole), kind == "parcels" and not is_whole
    number = scene.add(
        outer, scene.look(below), is_labelled=not is_divided and _has_label(rng), inside=inside, is_own=is_own
    )
    mean = None
    for part in parts:
        look = replace(scene.look(below), gap=None)
        if is_divided and mean is not None and rng.random() < 0.5:
            look = replace(look, mean=mean + rng.normal(0, 0.03))
        mean = look.mean
        scene.add(part, look, is_labelled=_has_label(rng), inside=number if is_own else None, is_own=not is_whole)


def _has_label(rng: np.random.Generator) -> bool:
    """Not all that is seen has one."""
    return rng.random() < 0.85


def _place(scene: Scene, is_nested: bool) -> np.ndarray:
    """A voxel inside a structure, or outside all, if one is soon found."""
    for _ in range(12):
        centre = scene.rng.integers(0, scene.shape[0], 3)
        if (scene.structures[tuple(centre)] != TISSUE) == is_nested:
            break
    return centre


def _draw_body(scene: Scene) -> None:
    """Draw air round an outline, and up to two layers below it, such as fat and muscle."""
    rng, size = scene.rng, scene.shape[0]
    lines = [(np.arange(size, dtype=np.float32) - size / 2) / (size * rng.uniform(0.42, 0.6)) for _ in range(3)]
    lines[int(rng.integers(3))] *= 0.2  # a trunk rather than a ball
    x, y, z = np.ix_(*lines)
    outside = (np.sqrt(x * x + y * y + z * z) - 1) * np.float32(size / 2)
    outside += np.float32(0.03 * size) * random_field(rng, scene.shape, waves=4)
    layers = rng.uniform(0, 0.08 * size, rng.integers(0, 3))  # thickness in voxels, from the outside
    for below in np.cumsum(layers)[::-1]:
        scene.cover(outside + np.float32(below), rng.choice(scene.means))
    scene.cover(outside, 0.0)


def _renumber(label: np.ndarray, least: int) -> np.ndarray:
    """Without labels of fewer voxels, and without gaps in the ids."""
    counts = np.bincount(label.ravel())
    kept = [i for i in range(1, len(counts)) if counts[i] >= least]
    ids = np.zeros(len(counts), np.uint8)
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[label]
