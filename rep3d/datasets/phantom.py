"""Synthetic volumes with label maps, to try the networks and bundles without any patient data.

Two scenes, both in RAS order (first axis towards the right, second to the front, third to the head). Two labels in MRI
give a hippocampus-like structure in brain tissue; anything else gives an abdomen, whose first organs are labelled and
whose other organs stay as unlabelled background. The anatomy fills the field of view, whatever its size; only the
ratios of the spacing matter, so that deformation and texture look alike along every axis in millimetres.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rep3d.data.dataset_json import FILE
from rep3d.datasets.decathlon import case_files, write_case, write_index
from rep3d.datasets.fields import random_field

MODALITIES = ("MRI", "CT")
MIN_SIDE = 8  # voxels along an axis
MIN_VOXELS = 8  # of each structure, so that no label is empty on a coarse grid: 15 structures need 120 of 8^3 voxels


class Structure(NamedTuple):
    """A thick path: an ellipsoid for one point, a tube for more. The grid spans -1 to 1 along each axis."""

    path: tuple[tuple[float, float, float], ...]
    radii: tuple[float, float, float]
    hu: float = 0.0  # CT, Hounsfield units
    mr: float = 0.0  # MRI, relative to the brightest tissue


# In the order of the AMOS labels, whose places and sizes they imitate.
ORGANS = (
    Structure(((-0.58, -0.2, 0.6), (-0.52, -0.34, 0.42)), (0.17, 0.24, 0.22), 120, 0.30),  # spleen
    Structure(((0.33, -0.36, 0.3), (0.37, -0.3, 0.06)), (0.15, 0.18, 0.18), 180, 0.40),  # right kidney
    Structure(((-0.33, -0.36, 0.36), (-0.37, -0.3, 0.12)), (0.15, 0.18, 0.18), 170, 0.40),  # left kidney
    Structure(((0.36, 0.34, 0.3), (0.3, 0.3, 0.12)), (0.10, 0.12, 0.11), 12, 0.90),  # gall bladder
    Structure(((-0.04, -0.08, 0.95), (-0.1, 0.02, 0.72)), (0.07, 0.08, 0.07), 42, 0.45),  # oesophagus
    Structure(((0.48, 0.0, 0.62), (0.05, 0.34, 0.68)), (0.34, 0.42, 0.30), 105, 0.50),  # liver
    Structure(((-0.4, 0.12, 0.8), (-0.42, 0.3, 0.5), (-0.12, 0.4, 0.26)), (0.17, 0.17, 0.16), 30, 0.58),  # stomach
    Structure(((-0.09, -0.13, 1.2), (-0.08, -0.13, -0.3)), (0.08, 0.085, 0.1), 200, 0.12),  # aorta
    Structure(((0.12, -0.08, 1.0), (0.12, -0.12, -0.3)), (0.09, 0.075, 0.1), 150, 0.20),  # postcava
    Structure(((0.16, 0.14, 0.12), (-0.04, 0.12, 0.26), (-0.36, -0.06, 0.38)), (0.1, 0.09, 0.09), 85, 0.65),  # pancreas
    Structure(((0.24, -0.2, 0.5), (0.22, -0.12, 0.5)), (0.045, 0.06, 0.08), 70, 0.42),  # right adrenal gland
    Structure(((-0.24, -0.2, 0.52), (-0.22, -0.12, 0.54)), (0.045, 0.06, 0.08), 70, 0.42),  # left adrenal gland
    Structure(((0.22, 0.3, 0.16), (0.3, 0.12, 0.06), (0.0, 0.06, -0.16)), (0.09, 0.09, 0.09), 50, 0.55),  # duodenum
    Structure(((0.0, 0.14, -0.7),), (0.26, 0.24, 0.17), 8, 0.95),  # bladder
    Structure(((0.0, -0.16, -0.8),), (0.22, 0.15, 0.14), 60, 0.35),  # prostate or uterus
)
SPINE = Structure(((0.0, -0.44, 1.5), (0.0, -0.44, -1.5)), (0.16, 0.17, 0.2))
AIR, FAT, MUSCLE, BOWEL, BONE = (-1000.0, 0.0), (-100.0, 0.85), (50.0, 0.25), (35.0, 0.50), (350.0, 0.30)  # (HU, MR)

HIPPOCAMPUS = (
    Structure(((0.0, 0.46, -0.34), (-0.06, 0.1, -0.12)), (0.46, 0.18, 0.24)),  # head
    Structure(((-0.06, 0.1, -0.12), (-0.08, -0.2, 0.08), (0.08, -0.6, 0.48)), (0.38, 0.15, 0.19)),  # body and tail
)
VENTRICLE = Structure(((0.48, 0.3, -0.34), (0.44, 0.0, -0.16), (0.44, -0.5, 0.3)), (0.1, 0.18, 0.2))
GRAY, WHITE, FLUID = 0.45, 0.9, 0.1  # relative T1 intensities; the hippocampus is gray matter too
HEAD_BEGIN = 0.15  # on the second axis: the front third of the hippocampus

# Unit of MRI intensities: as wild as in the Decathlon's hippocampus set, and fit for the window [0, 1000] of AMOS MRI.
BRAIN_SCALE, ABDOMEN_SCALE = (1e2, 1e6), (300.0, 1200.0)


def make_phantom(
    labels: Sequence[int] | int,
    *,
    shape: Sequence[int] = (36, 50, 36),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    modality: str = "MRI",
    seed: int | Sequence[int] = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, float32, and its label map, uint8, both of `shape` (D, H, W: the array axes, RAS).

    Args:
        labels: the label ids, at most 15, or their number for 1, 2, ...; in ascending order they name the structures.
        shape: voxels along each axis.
        spacing: millimetres between voxels along each axis.
        modality: "MRI" (Rician noise, bias field, arbitrary scale) or "CT" (Hounsfield units).
        seed: the same seed and arguments give the same phantom.

    Raises:
        ValueError: an argument is out of range; the message names it and its value.
    """
    ids = _check_labels(labels)
    _check_scan(shape, spacing, modality)
    rng = np.random.default_rng(seed)
    if len(ids) == 2 and modality == "MRI":
        structures, image = _draw_brain(rng, shape, spacing)
        scale_range = BRAIN_SCALE
    else:
        structures, image = _draw_abdomen(rng, shape, spacing, modality)
        scale_range = ABDOMEN_SCALE
    id_of_structure = np.zeros(len(ORGANS) + 1, np.uint8)
    id_of_structure[1 : len(ids) + 1] = ids
    image = _blur(image)  # partial volume at the borders
    image = _acquire_ct(rng, image) if modality == "CT" else _acquire_mri(rng, image, spacing, scale_range)
    return image.astype(np.float32), id_of_structure[structures]


def write_decathlon(
    folder: str | Path,
    *,
    labels: Mapping[int, str],
    count: int = 12,
    shape: Sequence[int] = (36, 50, 36),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    modality: str = "MRI",
    name: str = "Phantom",
    seed: int = 0,
    shape_jitter: int = 4,
    orientation: str = "RAS",
) -> Path:
    """Write phantoms in the layout of the Medical Segmentation Decathlon and return the folder.

    Args:
        folder: receives imagesTr, labelsTr and dataset.json; phantoms that are there already are replaced.
        labels: name of each label id.
        count: number of volumes.
        shape: voxels along the right, anterior and superior axis; each side varies by up to `shape_jitter` voxels.
        spacing: millimetres along the same axes.
        modality: "MRI" or "CT".
        name: of the data set; in lower case it begins the file names.
        seed: the same seed and arguments give the same volumes.
        orientation: axis codes of the written arrays, such as "LPS"; the anatomy stays the same in world space.

    Raises:
        ValueError: an argument is out of range; the message names it and its value.
        FileExistsError: the folder holds a dataset.json that this function did not write.
    """
    _check_labels(tuple(labels))
    _check_scan(shape, spacing, modality)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if shape_jitter < 0:
        raise ValueError(f"shape_jitter must be at least 0, got {shape_jitter}")
    if not re.fullmatch(r"[\w -]+", name):
        raise ValueError(f"name must consist of letters, digits, '_', '-' or spaces, got {name!r}")
    if not re.fullmatch("[RL][AP][SI]", "".join(sorted(orientation, key="RLAPSI".find))):
        raise ValueError(f"orientation must hold one of R/L, A/P and S/I each, such as 'RAS', got {orientation!r}")

    folder = Path(folder)
    _clear(folder)
    file_names = [f"{name.lower()}_{case:03d}.nii.gz" for case in range(count)]
    for case, file_name in enumerate(file_names):
        rng = np.random.default_rng([seed, case])
        sides = [max(MIN_SIDE, int(n + rng.integers(-shape_jitter, shape_jitter + 1))) for n in shape]
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = rng.uniform(-100, 100, 3).round(1)
        volumes = make_phantom(tuple(labels), shape=sides, spacing=spacing, modality=modality, seed=[seed, case])
        write_case(folder, file_name, volumes, affine, orientation)
    write_index(folder, file_names, name=name, modality=modality, labels=labels, phantom=True)
    return folder


def _check_labels(labels: Sequence[int] | int) -> list[int]:
    """Return the ids in ascending order."""
    ids = list(range(1, labels + 1) if isinstance(labels, int) else labels)
    valid = all(isinstance(i, int | np.integer) and 1 <= i <= 255 for i in ids)
    if not valid or not 1 <= len(set(ids)) == len(ids) <= len(ORGANS):
        raise ValueError(f"labels must be 1 to {len(ORGANS)} different ids between 1 and 255, got {labels!r}")
    return sorted(ids)


def _check_scan(shape: Sequence[int], spacing: Sequence[float], modality: str) -> None:
    if len(shape) != 3 or not all(isinstance(n, int | np.integer) and n >= MIN_SIDE for n in shape):
        raise ValueError(f"shape must be three whole numbers of at least {MIN_SIDE} voxels, got {shape!r}")
    if len(spacing) != 3 or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"spacing must be three positive numbers of millimetres, got {spacing!r}")
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {MODALITIES}, got {modality!r}")


def _warped_grid(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], warp: float) -> list:
    """Return the three coordinates of every voxel, -1 to 1, shifted, scaled and deformed a little by chance."""
    coordinates = []
    for axis, side in enumerate(shape):
        centres = ((np.arange(side) + 0.5) * 2 / side - 1) * rng.uniform(0.93, 1.07) + rng.uniform(-0.05, 0.05)
        line = np.expand_dims(centres.astype(np.float32), [a for a in range(3) if a != axis])
        coordinates.append(line + np.float32(warp) * random_field(rng, shape, spacing, waves=3))
    return coordinates


def _distance(grid: list, structure: Structure) -> np.ndarray:
    """Return the squared distance of every voxel from the structure's path, in units of its radii: inside below 1."""
    scaled = [c / np.float32(r) for c, r in zip(grid, structure.radii, strict=True)]
    nearest = np.full(grid[0].shape, np.inf, np.float32)
    for ends in zip(structure.path, structure.path[1:] or structure.path, strict=False):
        start, end = np.divide(ends, structure.radii).astype(np.float32)
        step = end - start
        offsets = [c - s for c, s in zip(scaled, start, strict=True)]
        along = sum(o * s for o, s in zip(offsets, step, strict=True)) / max(step @ step, np.float32(1e-6))
        along = np.clip(along, 0, 1)
        square = sum((o - along * s) ** 2 for o, s in zip(offsets, step, strict=True))
        nearest = np.minimum(nearest, square)
    return nearest


def _claim(distance: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the free voxels inside a structure, or the nearest free ones where the grid is too coarse for it."""
    inside = (distance < 1) & free
    if inside.sum() < MIN_VOXELS:
        ranked = np.where(free, distance, np.inf).ravel()
        inside.ravel()[np.argpartition(ranked, MIN_VOXELS)[:MIN_VOXELS]] = True
    return inside


def _draw_abdomen(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], modality: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the organ's number, from 1, and the intensity of every voxel."""
    air, fat, muscle, bowel, bone = (pair[modality == "MRI"] for pair in (AIR, FAT, MUSCLE, BOWEL, BONE))
    x, y, _ = grid = _warped_grid(rng, shape, spacing, 0.025)
    radius = (x / 0.92) ** 2 + (y / 0.82) ** 2
    image = np.full(shape, air, np.float32)
    image[radius < 1] = fat
    image[radius < 0.85] = muscle
    cavity = (radius < 0.74) & ((x / 0.7) ** 2 + ((y + 0.75) / 0.34) ** 2 > 1)  # less the muscles of the back
    image[cavity] = fat
    image[cavity & (random_field(rng, shape, spacing, waves=14) > 0.5)] = bowel
    image[_distance(grid, SPINE) < 1] = bone
    structures = np.zeros(shape, np.uint8)
    outside = np.where(cavity, np.float32(0), np.float32(100))
    # Small organs come first and keep their voxels: the large ones cannot swallow them.
    for index in sorted(range(len(ORGANS)), key=lambda i: math.prod(ORGANS[i].radii)):
        inside = _claim(_distance(grid, ORGANS[index]) + outside, structures == 0)
        structures[inside] = index + 1
        image[inside] = ORGANS[index].mr if modality == "MRI" else ORGANS[index].hu
    return structures, image


def _draw_brain(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the hippocampus, 1 in front and 2 behind, and the intensity of every voxel."""
    grid = _warped_grid(rng, shape, spacing, 0.06)
    distance = np.minimum(*(_distance(grid, part) for part in HIPPOCAMPUS))
    # Cortical ribbons below and around, mostly white matter above.
    folds = np.abs(random_field(rng, shape, spacing, waves=9) + np.clip(2 * grid[2], 0, 2))
    image = np.full(shape, WHITE, np.float32)
    image[folds < 0.7] = GRAY
    image[folds < 0.2] = FLUID  # a sulcus between two ribbons
    image[distance < 1.7] = WHITE
    image[_distance(grid, VENTRICLE) < 1] = FLUID
    front = grid[1] > HEAD_BEGIN
    structures = np.zeros(shape, np.uint8)
    for number, part in ((1, front), (2, ~front)):
        inside = _claim(np.where(part, distance, distance + 100), structures == 0)
        structures[inside] = number
        image[inside] = GRAY
    return structures, image


def _blur(image: np.ndarray) -> np.ndarray:
    """Smooth by a binomial filter of three voxels along each axis."""
    for axis in range(3):
        padded = np.moveaxis(np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], "edge"), axis, 0)
        image = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return image


def _acquire_ct(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add correlated noise and return whole Hounsfield units in a scanner's range."""
    noise = _blur(rng.standard_normal(image.shape, np.float32))
    image = image + rng.uniform(15, 25) * noise / noise.std()
    return np.clip(np.round(image), -1024, 3071)


def _acquire_mri(
    rng: np.random.Generator, image: np.ndarray, spacing: Sequence[float], scale_range: tuple[float, float]
) -> np.ndarray:
    """Add texture, a bias field and Rician noise, in the arbitrary unit of a scanner."""
    image = image * (1 + 0.07 * random_field(rng, image.shape, spacing, waves=20))
    image = image * np.exp(0.1 * random_field(rng, image.shape, spacing, waves=2))
    real, imaginary = rng.uniform(0.02, 0.05) * rng.standard_normal((2, *image.shape), np.float32)
    scale = np.exp(rng.uniform(*np.log(scale_range)))
    return scale * np.hypot(image + real, imaginary)


def _clear(folder: Path) -> None:
    """Remove the phantoms that an earlier call wrote into the folder, its dataset.json first."""
    index = folder / FILE
    if not index.exists():
        return
    try:
        dataset = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        dataset = None
    if not isinstance(dataset, dict) or dataset.get("phantom") is not True:
        raise FileExistsError(f"{folder} holds a data set that is not a phantom; choose another folder")
    index.unlink()
    for case in dataset["training"]:
        for path in case_files(folder, Path(case["image"]).name):
            path.unlink(missing_ok=True)
