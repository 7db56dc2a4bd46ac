"""A volume that is being drawn: intensities, and which structure is where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rep3d.datasets.fields import random_field
from rep3d.datasets.shapes import Box, Solid

TISSUE = 0  # the number of what all structures lie in


@dataclass(frozen=True)
class Look:
    """How a structure looks.

    Args:
        mean: its intensity; those of a volume lie between 0 and 1, about.
        texture: number of the scene's texture.
        strength: of the texture, in units of intensity.
        depth: how much brighter the inside is, from 8 voxels below the border on.
        slope: change of the intensity from end to end of the volume along each axis.
        softness: voxels over which the border fades; 1 is sharp, as far as voxels are.
        rim: width in voxels and intensity of a layer inside the border.
        gap: likewise outside the border, which belongs to no structure.
        patchiness: rim and gap are missing where the coarsest texture is lower.
    """

    mean: float
    texture: int
    strength: float
    depth: float
    slope: tuple[float, float, float]
    softness: float
    rim: tuple[float, float] | None
    gap: tuple[float, float] | None
    patchiness: float


class Scene:
    """A cube of tissue, to draw structures into.

    Args:
        rng: draws everything.
        size: voxels along each axis.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.shape = (size, size, size)
        self.means = rng.uniform(0.1, 1, rng.integers(3, 8))  # that many structures share
        self.grain = rng.uniform(0, 0.05)  # strength of the texture that all have
        self.textures = (
            random_field(rng, self.shape, waves=size // 2),
            random_field(rng, self.shape, waves=size // 4, decay=1.2),
            random_field(rng, self.shape, waves=size // 8, decay=1.0),
        )
        self.structures = np.full(self.shape, TISSUE, np.uint16)
        self.labelled = [False]  # by number
        self.image = np.full(self.shape, rng.choice(self.means), np.float32)
        self.image += np.float32(self.grain) * self.textures[0]
        for _ in range(rng.integers(0, 4)):
            self._add_patches()

    def look(self, below: float) -> Look:
        """A look at random; `below` is the intensity of what lies there."""
        rng = self.rng
        choice = rng.random()
        if choice < 0.25:  # hardly to be told from its surroundings
            mean = below + rng.choice([-1, 1]) * rng.uniform(0.05, 0.15)
        elif choice < 0.75:
            mean = rng.choice(self.means) + rng.normal(0, 0.025)
        else:
            mean = rng.uniform(0, 1.1)
        is_alike = abs(mean - below) < 0.06
        has_gap = rng.random() < (0.9 if is_alike else 0.25)
        between = max(rng.choice(self.means, 2), key=lambda other: abs(other - mean))
        return Look(
            mean=mean,
            texture=int(rng.integers(len(self.textures))),
            strength=self.grain + (rng.exponential(0.04) if rng.random() < 0.6 else 0),
            depth=rng.normal(0, 0.12) if rng.random() < 0.2 else 0.0,
            slope=tuple(rng.normal(0, 0.15, 3)) if rng.random() < 0.25 else (0.0, 0.0, 0.0),
            softness=rng.uniform(2, 6) if rng.random() < 0.12 and not is_alike else 1.0,
            rim=(rng.uniform(0.7, 2.5), rng.uniform(0, 1.2)) if rng.random() < 0.15 else None,
            gap=(rng.uniform(0.5, 2.0), between) if has_gap else None,
            patchiness=rng.uniform(-1.5, 0) if rng.random() < 0.5 else -np.inf,
        )

    def add(
        self, solid: Solid, look: Look, *, is_labelled: bool = False, inside: int | None = None, is_own: bool = True
    ) -> int:
        """Draw a structure and return its number.

        Args:
            is_labelled: whether it has a label.
            inside: draw only where this structure is: TISSUE spares all others. None draws over what is there.
            is_own: whether it counts as a structure, or belongs to what it is drawn on.
        """
        number = len(self.labelled)
        self.labelled.append(is_labelled)
        box, distance = solid
        free = np.True_ if inside is None else self.structures[box] == inside
        present = self.textures[-1][box] > look.patchiness
        if look.gap is not None:
            width, mean = look.gap
            self._blend(box, np.clip(0.5 + width - distance, 0, 1) * (free & present), np.float32(mean))
            if is_own:
                self.structures[box][(distance < width) & free & present] = TISSUE
        values = self._values(solid, look)
        if look.rim is not None:
            width, mean = look.rim
            values += np.clip(0.5 + width + distance, 0, 1) * present * (np.float32(mean) - values)
        self._blend(box, np.clip(0.5 - distance / np.float32(look.softness), 0, 1) * free, values)
        if is_own:
            self.structures[box][(distance < 0) & free] = number
        return number

    def cover(self, depth: np.ndarray, mean: float) -> None:
        """Draw over all that lies deeper than 0 voxels, and let no structure be there; (D, H, W)."""
        everywhere = (slice(None), slice(None), slice(None))
        self._blend(everywhere, np.clip(0.5 + depth, 0, 1), np.float32(mean))
        self.structures[depth > 0] = TISSUE

    def label_map(self, most: int, least: int) -> np.ndarray:
        """Label ids, (D, H, W), uint8, in no order: the largest piece of each structure with a label, where it is seen.

        Args:
            most: number of labels; of more structures some get none.
            least: voxels of a label.
        """
        found = []
        for number, box in enumerate(ndimage.find_objects(self.structures), 1):
            if box is None or not self.labelled[number]:
                continue
            pieces, _ = ndimage.label(self.structures[box] == number, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())[1:]
            if sizes.max() >= least:
                found.append((box, pieces == sizes.argmax() + 1))
        label = np.zeros(self.shape, np.uint8)
        for index, choice in enumerate(self.rng.permutation(len(found))[:most], 1):
            box, piece = found[choice]
            label[box][piece] = index
        return label

    def _add_patches(self) -> None:
        """Lay another tissue over the volume, in patches or ribbons, such as bowel in fat or gray matter in white."""
        rng = self.rng
        field = random_field(rng, self.shape, waves=int(rng.integers(3, 16)), decay=rng.uniform(0, 1))
        if rng.random() < 0.4:
            field = np.abs(field)  # ribbons
        cover = np.clip(0.5 + np.float32(rng.uniform(2, 8)) * (field - np.float32(rng.uniform(0.2, 1.0))), 0, 1)
        mean = rng.choice(self.means) + rng.normal(0, 0.03)
        strength = self.grain + rng.exponential(0.02)
        self.image += cover * (np.float32(mean) + np.float32(strength) * self.textures[1] - self.image)

    def _values(self, solid: Solid, look: Look) -> np.ndarray:
        """The intensities of a structure in its box."""
        values = np.float32(look.mean) + np.float32(look.strength) * self.textures[look.texture][solid.box]
        if look.depth:
            values += np.float32(look.depth) * np.clip(solid.distance / -8, 0, 1)
        for axis in np.flatnonzero(look.slope):
            line = np.arange(solid.box[axis].start, solid.box[axis].stop) / self.shape[axis] - 0.5
            values += np.expand_dims((look.slope[axis] * line).astype(np.float32), [a for a in range(3) if a != axis])
        return values

    def _blend(self, box: Box, cover: np.ndarray, values: np.ndarray | np.float32) -> None:
        part = self.image[box]
        part += cover * (values - part)
