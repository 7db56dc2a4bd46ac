"""What scanners make of anatomy: shading, blur, thick slices, noise, and a range of intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from rep3d.datasets.fields import random_field

HOUNSFIELD = (-1024, 3071)


class Scan(NamedTuple):
    """An image, (D, H, W), int16, its label map likewise, uint8, and millimetres along each axis."""

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


def acquire(rng: np.random.Generator, tissue: np.ndarray, label: np.ndarray) -> Scan:
    """Scan a volume of tissue by a CT or an MR scanner drawn at random.

    Args:
        tissue: (D, H, W), float32, between 0 and 1, about.
        label: (D, H, W), ids.
    """
    is_ct = rng.random() < 0.4
    image = tissue
    if not is_ct:
        if rng.random() < 0.2:
            image = 1 - image
        image = np.clip(image, 0, None) ** np.float32(np.exp(rng.normal(0, 0.25)))
        image = image * np.exp(np.float32(rng.uniform(0, 0.35)) * random_field(rng, image.shape, waves=2))
    if rng.random() < 0.6:
        image = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.9, 3) if rng.random() < 0.5 else rng.uniform(0.2, 0.9))
    if rng.random() < 0.15:
        image = _ring(rng, image)
    spacing = np.full(3, np.exp(rng.uniform(np.log(0.6), np.log(3.0))))
    axis, thickness = int(rng.integers(3)), int(rng.integers(2, 6)) if rng.random() < 0.35 else 1
    sides = image.shape
    image, label = _thicken(image, axis, thickness), _middle(label, axis, thickness)
    image = _add_noise(rng, image, is_rician=not is_ct)
    if thickness > 1 and rng.random() < 0.5:
        image, label = _stretch(image, axis, sides[axis], order=1), _stretch(label, axis, sides[axis], order=0)
    spacing[axis] *= sides[axis] / image.shape[axis]
    image = _ct_range(rng, image) if is_ct else _mr_range(rng, image)
    return Scan(image, label, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _ring(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Leave out the high frequencies along one axis, as a scanner does that samples few: borders are blurred and ring."""
    axis = int(rng.integers(3))
    spectrum = fft.rfft(image, axis=axis)
    kept = int(rng.uniform(0.5, 0.85) * spectrum.shape[axis])
    np.moveaxis(spectrum, axis, 0)[kept:] = 0
    return fft.irfft(spectrum, n=image.shape[axis], axis=axis).astype(np.float32)


def _thicken(image: np.ndarray, axis: int, thickness: int) -> np.ndarray:
    """Slices of so many voxels, averaged; what is left at the end is cut off."""
    count = image.shape[axis] // thickness
    if thickness == 1:
        return image
    moved = np.moveaxis(image, axis, 0)[: count * thickness]
    return np.moveaxis(moved.reshape(count, thickness, *moved.shape[1:]).mean(axis=1), 0, axis)


def _middle(label: np.ndarray, axis: int, thickness: int) -> np.ndarray:
    """The ids in the middle of each slice that `_thicken` makes."""
    count = label.shape[axis] // thickness
    return np.moveaxis(np.moveaxis(label, axis, 0)[: count * thickness][thickness // 2 :: thickness], 0, axis)


def _stretch(volume: np.ndarray, axis: int, side: int, order: int) -> np.ndarray:
    """Interpolate along an axis to another number of voxels, nearest (0) or linear (1)."""
    position = np.clip((np.arange(side) + 0.5) * volume.shape[axis] / side - 0.5, 0, volume.shape[axis] - 1)
    moved = np.moveaxis(volume, axis, 0)
    if order == 0:
        return np.moveaxis(moved[np.round(position).astype(int)], 0, axis)
    low = np.minimum(position.astype(int), volume.shape[axis] - 2)
    weight = (position - low).astype(np.float32).reshape(-1, 1, 1)
    return np.moveaxis(moved[low] * (1 - weight) + moved[low + 1] * weight, 0, axis)


def _add_noise(rng: np.random.Generator, image: np.ndarray, is_rician: bool) -> np.ndarray:
    level = np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.13))))
    noise = rng.standard_normal(image.shape, np.float32)
    if rng.random() < 0.4:  # reconstruction and interpolation correlate neighbours
        noise = ndimage.gaussian_filter(noise, rng.uniform(0.4, 0.9))
        noise /= noise.std()
    image = image + level * noise
    if is_rician:
        image = np.hypot(image, level * rng.standard_normal(image.shape, np.float32))
    return image


def _ct_range(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Hounsfield units; two out of three are already clipped to a window."""
    low = rng.uniform(-1000, -100)
    image = low + rng.uniform(200, 1200) * image
    if rng.random() < 0.67:
        image = np.clip(image, *np.percentile(image[::4, ::4], (rng.uniform(0, 15), rng.uniform(88, 100))))
    return np.round(np.clip(image, *HOUNSFIELD)).astype(np.int16)


def _mr_range(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A scanner's arbitrary unit."""
    top = np.exp(rng.uniform(np.log(200), np.log(8000)))
    return np.round(np.clip(image * top / max(float(image.max()), 1e-6), 0, None)).astype(np.int16)
