"""Working grids to train on: one label of a label map against the rest, cut out as a correction would see it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

from rep3d.interactive.channels import standardize
from rep3d.interactive.grid import Grid, bounds, covered, resample
from rep3d.interactive.working_grid import SIZE, clamped_cube, finest_spacing

ZOOM = (0.5, 3.0)  # edge of the working grid as a multiple of the label's largest extent: from inside it to all round
CHANCE_OF_UNION = 0.1  # of two labels that touch are one
CHANCE_OF_PART = 0.15  # of a label is what is wanted, beyond a border that only prompts can tell
PART_RADIUS = (0.3, 0.8)  # of the ball that is wanted or not, as a share of the label's largest extent
CHANCE_OF_TAKEN = 0.5  # that some of the other labels are locked
MIN_VOXELS = 8  # of a label in its scan, and of its part on the working grid, for which it is drawn anew
ATTEMPTS = 10  # to draw such a grid; the last one is as fine as the scan


def cube_edge(patch_size: Sequence[int]) -> int:
    """The edge of a working grid in voxels.

    Raises:
        ValueError: it is no cube.
    """
    if len(set(patch_size)) != 1:
        raise ValueError(f"patch_size is {list(patch_size)}, expected equal numbers: a working grid is a cube")
    return patch_size[0]


class WorkingGridd(Randomizable, MapTransform):
    """Image and label map of a scan -> one label on a working grid, all (1, size, size, size).

    The label is drawn from those of the map, now and then the union of two that touch or a part of one; the grid's
    spacing and place are drawn round it. It writes:
        "image": float32, see `rep3d.interactive.resample`;
        "spacing": of the grid, millimetres;
        "inside": where the grid lies within the scan, bool;
        "target": the label, bool;
        "taken": other labels that are locked, bool, in about half of the cases;
        "prediction": what it says of the label, bool; nothing of it where there was none, or of a part.

    Args:
        keys: image, label map, and a label map that another network predicted, which a case may lack.
        size: voxels of the working grid along each axis.
        seed: None: as MONAI's other random transforms. A number: each case is always the same, for validation.

    Raises:
        ValueError: names the file: no label of at least `MIN_VOXELS` voxels.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label", "prediction"),
        size: int = SIZE,
        seed: int | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.size, self.seed = size, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, label = d[self.keys[0]], d[self.keys[1]]
        name = str(label.meta.get("filename_or_obj", self.keys[1]))
        rng = self.R if self.seed is None else _generator_of(name, self.seed)
        label_map = label.as_tensor()[0].to(torch.int32).numpy()
        scan = Grid.of_scan(label_map.shape, affine_to_spacing(label.affine))
        counts = np.bincount(label_map.ravel())
        counts[0] = 0
        ids = _draw_label(label_map, counts, rng, name)
        target = np.isin(label_map, ids)
        is_part = rng.uniform() < CHANCE_OF_PART
        if is_part:
            target = _part(target, scan.spacing, rng)
        grid = self._draw_grid(scan, torch.from_numpy(target), rng)
        on_grid = lambda mask: (resample(torch.from_numpy(mask), scan, grid) >= 0.5)[None]  # noqa: E731
        d["image"] = resample(image.as_tensor()[0], scan, grid)[None]
        d["spacing"] = grid.spacing[0]
        d["inside"] = covered(scan, grid)[None]
        d["target"] = on_grid(target)
        d["taken"] = on_grid(_draw_taken(label_map, counts, ids, rng)) & ~d["target"]  # half a voxel of each
        predicted = None if is_part else d.get(self.keys[2])
        d["prediction"] = (
            torch.zeros_like(d["target"])
            if predicted is None
            else on_grid(np.isin(predicted.as_tensor()[0].numpy(), ids))
        )
        return {key: value for key, value in d.items() if key != self.keys[1]}

    def _draw_grid(self, scan: Grid, target: torch.Tensor, rng: np.random.RandomState) -> Grid:
        """A grid with enough of the target on it, where the target is not scattered."""
        box = bounds(target)
        assert box is not None
        extent = max((part.stop - part.start) * s for part, s in zip(box, scan.spacing, strict=True))
        finest, voxels = finest_spacing(scan, self.size), np.argwhere(target[box].numpy())
        for attempt in range(ATTEMPTS):
            zoom = math.exp(rng.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
            spacing = extent / self.size * zoom if attempt < ATTEMPTS - 1 else finest
            spacing = min(max(spacing, finest), max(finest, max(scan.extent) / self.size))
            voxel = voxels[rng.randint(len(voxels))] + [part.start for part in box]
            centre = [float(v) * s for v, s in zip(voxel, scan.spacing, strict=True)]
            grid = clamped_cube(scan, centre, spacing, self.size)
            if int((resample(target, scan, grid) >= 0.5).sum()) >= MIN_VOXELS:
                break
        return grid


class StandardizeWorkingGridd(MapTransform):
    """The image on a comparable scale, see `standardize`; the key "inside" says where it is one."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        inside = _plain(d["inside"]).bool()
        for key in self.key_iterator(d):
            d[key] = standardize(_plain(d[key]).float(), inside)
        return d


def _plain(values: torch.Tensor) -> torch.Tensor:
    return values.as_tensor() if isinstance(values, MetaTensor) else values


def _generator_of(path: str, seed: int) -> np.random.RandomState:
    """The same for a file of this name in any folder."""
    return np.random.RandomState((zlib.crc32(Path(path).name.encode()) + seed) % 2**32)


def _draw_label(label_map: np.ndarray, counts: np.ndarray, rng: np.random.RandomState, name: str) -> list[int]:
    """Ids of the label to learn from; counts are the voxels of each id."""
    ids = np.flatnonzero(counts >= MIN_VOXELS)
    if not len(ids):
        raise ValueError(f"{name}: has no label of at least {MIN_VOXELS} voxels to learn from")
    chances = np.cbrt(counts[ids])  # there are many more small ones than large ones
    chosen = int(rng.choice(ids, p=chances / chances.sum()))
    if len(ids) > 1 and rng.uniform() < CHANCE_OF_UNION:
        neighbours = np.unique(label_map[ndimage.binary_dilation(label_map == chosen)])
        neighbours = [int(i) for i in neighbours if i in ids and i != chosen]
        if neighbours:
            return [chosen, neighbours[rng.randint(len(neighbours))]]
    return [chosen]


def _part(target: np.ndarray, spacing: Sequence[float], rng: np.random.RandomState) -> np.ndarray:
    """What lies beyond a plane through one of the target's voxels, or in a ball round it, or outside of that ball."""
    voxels = np.argwhere(target)
    offsets = (voxels - voxels[rng.randint(len(voxels))]) * spacing
    if rng.uniform() < 0.5:
        wanted = offsets @ rng.normal(size=3) >= 0
    else:
        radius = np.ptp(offsets, axis=0).max() * rng.uniform(*PART_RADIUS)
        wanted = (np.linalg.norm(offsets, axis=1) <= radius) == (rng.uniform() < 0.5)
    if wanted.sum() < MIN_VOXELS:
        return target
    part = np.zeros_like(target)
    part[tuple(voxels[wanted].T)] = True
    return part


def _draw_taken(
    label_map: np.ndarray, counts: np.ndarray, ids: Sequence[int], rng: np.random.RandomState
) -> np.ndarray:
    if rng.uniform() >= CHANCE_OF_TAKEN:
        return np.zeros(label_map.shape, bool)
    return np.isin(label_map, [i for i in np.flatnonzero(counts) if i not in ids and rng.uniform() < 0.5])
