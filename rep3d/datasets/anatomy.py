"""Procedural anatomy: volumes of many structures without a name, to teach networks what borders look like.

Each volume is a mosaic of tissues in which organs, cavities, vessels and layers of many shapes lie, touch, and hold one
another. As in SynthSeg and anatomix (https://arxiv.org/abs/2411.02372) intensities are drawn at random, so that nothing
is learnt of any organ or scanner; here neighbours often look nearly or quite alike, and not all that is seen has a label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rep3d.datasets.acquisition import Scan, acquire
from rep3d.datasets.fields import random_field
from rep3d.datasets.shapes import KINDS, Solid, mosaic

MIN_SIZE, MAX_SIZE = 32, 256  # voxels along an axis
MIN_LABELS, MAX_LABELS = 8, 30
MIN_VOXELS = 24  # of a label
LARGEST = 0.31  # radius of a structure, as a part of the side

# How often each kind is drawn.
WEIGHTS = {
    "ellipsoid": 4, "blob": 5, "shell": 2.5, "parcels": 2.5, "chamber": 3, "bent": 5, "tube": 2.5, "tree": 2, "coil": 1,
    "sheet": 2,
}  # fmt: skip


class Look(NamedTuple):
    """How a structure looks: its intensity, and what varies it."""

    mean: float
    texture: int  # which field of the volume
    strength: float  # of the texture
    depth: float  # brighter or darker towards the middle
    slope: np.ndarray  # across the volume, along each axis
    softness: float  # voxels over which its border fades
    rim: tuple[float, float] | None  # width in voxels, inside the border, and intensity
    gap: tuple[float, float] | None  # likewise, outside the border
    patchiness: float  # rim and gap are missing where the coarsest texture is lower


class Scene:
    """A volume that is being drawn: intensities, the structure at each voxel, and which structures have labels."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.shape = (size, size, size)
        self.tissues = rng.uniform(0.1, 1, rng.integers(3, 8))
        self.noise_level = rng.uniform(0, 0.05)
        self.textures = [
            random_field(rng, self.shape, waves=size // 2),
            random_field(rng, self.shape, waves=size // 4, decay=1.2),
            random_field(rng, self.shape, waves=size // 8, decay=1.0),
        ]
        self.structures = np.zeros(self.shape, np.uint16)  # 0: the tissue that all lies in
        self.labelled = [False]
        self.kinds = [""]
        self.image = self._tissue()

    def add(self, solid: Solid, kind: str, look: Look, *, is_labelled: bool, is_under: bool) -> int:
        """Draw a structure over what is there, or under it; its number."""
        number = len(self.labelled)
        self.labelled.append(is_labelled)
        self.kinds.append(kind)
        free = self.structures[solid.box] == 0 if is_under else np.True_
        if look.gap is not None:
            width, mean = look.gap
            around = free & (self.textures[-1][solid.box] > look.patchiness)
            self._blend(solid.box, np.clip(0.5 + width - solid.distance, 0, 1) * around, np.float32(mean))
            self.structures[solid.box][(solid.distance < width) & around] = 0
        cover = np.clip(0.5 - solid.distance / np.float32(look.softness), 0, 1) * free
        self._blend(solid.box, cover, self._values(solid, look))
        self.structures[solid.box][(solid.distance < 0) & free] = number
        return number

    def look(self, below: float) -> Look:
        """A look at random; `below` is the intensity of what lies there."""
        rng = self.rng
        choice = rng.random()
        if choice < 0.25:  # hardly to be told from its surroundings
            mean = below + rng.choice([-1, 1]) * rng.uniform(0.05, 0.15)
        elif choice < 0.75:
            mean = rng.choice(self.tissues) + rng.normal(0, 0.025)
        else:
            mean = rng.uniform(0, 1.1)
        is_alike = abs(mean - below) < 0.06
        strength = self.noise_level + (rng.exponential(0.04) if rng.random() < 0.6 else 0)
        return Look(
            mean=mean,
            texture=int(rng.integers(len(self.textures))),
            strength=strength,
            depth=rng.normal(0, 0.12) if rng.random() < 0.2 else 0.0,
            slope=rng.normal(0, 0.15, 3) if rng.random() < 0.25 else np.zeros(3),
            softness=rng.uniform(2, 6) if rng.random() < 0.12 and not is_alike else 1.0,
            rim=(rng.uniform(0.7, 2.5), rng.uniform(0, 1.2)) if rng.random() < 0.15 else None,
            gap=(rng.uniform(0.5, 2.0), rng.choice(self.tissues)) if rng.random() < (0.8 if is_alike else 0.25) else None,
            patchiness=rng.uniform(-1.5, 0) if rng.random() < 0.5 else -np.inf,
        )

    def _values(self, solid: Solid, look: Look) -> np.ndarray:
        values = look.mean + np.float32(look.strength) * self.textures[look.texture][solid.box]
        if look.depth:
            values += np.float32(look.depth) * np.clip(solid.distance / -8, 0, 1)
        for axis in np.flatnonzero(look.slope):
            line = np.arange(solid.box[axis].start, solid.box[axis].stop) / self.shape[axis] - 0.5
            values += np.expand_dims((look.slope[axis] * line).astype(np.float32), [a for a in range(3) if a != axis])
        if look.rim is not None:
            width, mean = look.rim
            cover = np.clip(0.5 + width + solid.distance, 0, 1) * (self.textures[-1][solid.box] > look.patchiness)
            values += cover * (np.float32(mean) - values)
        return values

    def _blend(self, box: tuple[slice, slice, slice], cover: np.ndarray, values: np.ndarray | np.float32) -> None:
        part = self.image[box]
        part += cover * (values - part)

    def _tissue(self) -> np.ndarray:
        """The mosaic that fills the volume: one tissue, and up to three in patches or ribbons."""
        rng = self.rng
        image = np.full(self.shape, rng.choice(self.tissues), np.float32)
        image += np.float32(self.noise_level) * self.textures[0]
        for _ in range(rng.integers(0, 4)):
            field = random_field(rng, self.shape, waves=int(rng.integers(3, 16)), decay=rng.uniform(0, 1))
            if rng.random() < 0.4:
                field = np.abs(field)  # ribbons
            steepness = rng.uniform(2, 8)
            cover = np.clip(0.5 + np.float32(steepness) * (field - np.float32(rng.uniform(0.2, 1.0))), 0, 1)
            mean = rng.choice(self.tissues) + rng.normal(0, 0.03)
            strength = np.float32(self.noise_level + rng.exponential(0.02))
            image += cover * (np.float32(mean) + strength * self.textures[1] - image)
        return image


def make_anatomy(size: int = 96, *, seed: int | tuple[int, ...] = 0) -> Scan:
    """Return a scan of procedural anatomy, with labels 1, 2, ... in no order.

    Args:
        size: voxels along each axis; fewer along one where slices are thick.
        seed: the same seed and size give the same scan.

    Raises:
        ValueError: the size is out of range.
    """
    check_size(size)
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, size)
    scan = acquire(rng, scene.image, label_map(scene))
    return scan._replace(label=_renumber(scan.label, MIN_VOXELS // 3))


def check_size(size: int) -> None:
    """Refuse sizes that hold no anatomy, or too much."""
    if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be a whole number of voxels from {MIN_SIZE} to {MAX_SIZE}, got {size!r}")


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Structures from large to small, then in some volumes the outline of a body."""
    scene = Scene(rng, size)
    if rng.random() < 0.5:
        for solid in mosaic(rng, scene.shape):
            look = scene.look(float(rng.choice(scene.tissues)))
            scene.add(solid, "mosaic", look._replace(gap=None), is_labelled=rng.random() < 0.6, is_under=False)
    count = int(rng.integers(MIN_LABELS + 6, MAX_LABELS + 14))
    radii = np.exp(rng.uniform(np.log(2.5), np.log(LARGEST * size), count))
    radii[: count // 2] = rng.uniform(0.06, LARGEST, count // 2) * size
    radii = np.sort(radii)[::-1]
    names = list(WEIGHTS)
    weights = np.array([WEIGHTS[name] for name in names]) / sum(WEIGHTS.values())
    for radius in radii:
        kind = str(rng.choice(names, p=weights))
        if radius < 5 and kind in ("shell", "parcels", "coil", "chamber"):
            kind = "blob"
        if radius < 8 and kind in ("tree", "tube", "sheet", "bent"):
            radius = radius + 6  # their thickness is a fraction of it
        is_nested = rng.random() < 0.25
        centre = _place(scene, is_nested)
        below = float(scene.image[tuple(centre)])
        is_under = not is_nested and rng.random() < 0.5
        solids = KINDS[kind](rng, scene.shape, centre + rng.uniform(-0.5, 0.5, 3), float(radius))
        for index, solid in enumerate(solids):
            is_envelope = kind == "parcels" and index == 0
            look = scene.look(below)
            if kind == "parcels" and index > 1 and rng.random() < 0.5:
                look = look._replace(mean=previous.mean + rng.normal(0, 0.03))
            previous = look
            is_labelled = not is_envelope and rng.random() < 0.85
            if index:
                look = look._replace(gap=None)
            scene.add(solid, kind, look, is_labelled=is_labelled, is_under=is_under and index == 0)
    if rng.random() < 0.35:
        _draw_body(scene)
    return scene


def label_map(scene: Scene) -> np.ndarray:
    """Ids 1, 2, ... of the largest piece of each structure with a label, as far as it is visible."""
    label = np.zeros(scene.shape, np.uint8)
    boxes = ndimage.find_objects(scene.structures)
    candidates = []
    for number, box in enumerate(boxes, 1):
        if box is None or not scene.labelled[number]:
            continue
        pieces, count = ndimage.label(scene.structures[box] == number, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        candidates.append((int(sizes.max()), box, pieces == sizes.argmax() + 1))
    candidates.sort(key=lambda candidate: -candidate[0])
    for index, (voxels, box, piece) in enumerate(candidates[:MAX_LABELS], 1):
        if voxels >= MIN_VOXELS:
            label[box][piece] = index
    return label


def _place(scene: Scene, is_nested: bool) -> np.ndarray:
    """A voxel inside a structure, or outside all, if one is soon found."""
    for _ in range(12):
        centre = scene.rng.integers(0, scene.shape[0], 3)
        if (scene.structures[tuple(centre)] > 0) == is_nested:
            break
    return centre


def _draw_body(scene: Scene) -> None:
    """Air round an outline, and layers of skin, fat and muscle below it."""
    rng, size = scene.rng, scene.shape[0]
    lines = [(np.arange(size, dtype=np.float32) - size / 2) / (size * rng.uniform(0.42, 0.6)) for _ in range(3)]
    lines[int(rng.integers(3))] *= 0.2  # a trunk rather than a ball
    x, y, z = np.ix_(*lines)
    depth = (1 - np.sqrt(x * x + y * y + z * z)) * np.float32(size / 2)
    depth += np.float32(0.03 * size) * random_field(rng, scene.shape, waves=4)  # voxels below the skin
    everywhere = (slice(None), slice(None), slice(None))
    layers = [(rng.uniform(0, 0.08) * size, rng.choice(scene.tissues)) for _ in range(rng.integers(0, 3))]
    bottom = sum(thickness for thickness, _ in layers)
    for thickness, mean in layers[::-1]:
        scene._blend(everywhere, np.clip(0.5 + bottom - depth, 0, 1), np.float32(mean))
        scene.structures[depth < bottom] = 0
        bottom -= thickness
    scene._blend(everywhere, np.clip(0.5 - depth, 0, 1), np.float32(0))
    scene.structures[depth < 0] = 0


def _renumber(label: np.ndarray, least: int) -> np.ndarray:
    """Without labels of fewer voxels, and without gaps in the ids."""
    counts = np.bincount(label.ravel())
    kept = [i for i in range(1, len(counts)) if counts[i] >= least]
    ids = np.zeros(len(counts), np.uint8)
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[label]
