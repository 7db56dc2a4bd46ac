"""What scanners make of anatomy: shading, blur, thick slices, noise, and a range of intensities."""

from __future__ import annotations

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
    low, high = np.percentile(tissue[::4, ::4, ::2], (1, 99))
    image = (tissue - low) / max(high - low, np.float32(1e-3))
    if not is_ct:
        if rng.random() < 0.2:
            image = 1 - image
        image = np.clip(image, 0, None) ** np.float32(np.exp(rng.normal(0, 0.25)))
        image = image * np.exp(np.float32(rng.uniform(0, 0.25)) * random_field(rng, image.shape, waves=2))
    if rng.random() < 0.6:
        image = ndimage.gaussian_filter(
            image, rng.uniform(0.2, 0.9, 3) if rng.random() < 0.5 else rng.uniform(0.2, 0.9)
        )
    if rng.random() < 0.15:
        image = _ring(rng, image)
    spacing = np.full(3, np.exp(rng.uniform(np.log(0.6), np.log(3.0))))
    axis, thickness = int(rng.integers(3)), int(rng.integers(2, 6)) if rng.random() < 0.35 else 1
    image, label = _slices(image, axis, thickness).mean(axis=axis + 1), _cut(label, axis, thickness)
    image = _add_noise(rng, image, is_rician=not is_ct)
    if rng.random() < 0.5:
        image = _stretch(image, axis, thickness)
    else:
        label = np.take(_slices(label, axis, thickness), thickness // 2, axis=axis + 1)
        spacing[axis] *= thickness
    image = _ct_range(rng, image) if is_ct else _mr_range(rng, image)
    return Scan(image, label, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _ring(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Leave out the high frequencies along one axis, as scanners do that sample few: borders blur and ring."""
    axis = int(rng.integers(3))
    spectrum = fft.rfft(image, axis=axis)
    kept = int(rng.uniform(0.5, 0.85) * spectrum.shape[axis])
    np.moveaxis(spectrum, axis, 0)[kept:] = 0
    return fft.irfft(spectrum, n=image.shape[axis], axis=axis).astype(np.float32)


def _cut(volume: np.ndarray, axis: int, thickness: int) -> np.ndarray:
    """Without what does not fill a slice of so many voxels at the end of the axis."""
    whole = volume.shape[axis] // thickness * thickness
    return np.take(volume, range(whole), axis) if whole < volume.shape[axis] else volume


def _slices(volume: np.ndarray, axis: int, thickness: int) -> np.ndarray:
    """The axis in two: slices, and the voxels of each."""
    shape = volume.shape
    return _cut(volume, axis, thickness).reshape(*shape[:axis], -1, thickness, *shape[axis + 1 :])


def _stretch(image: np.ndarray, axis: int, thickness: int) -> np.ndarray:
    """Interpolate linearly from slices to their voxels."""
    if thickness == 1:
        return image
    count = image.shape[axis]
    position = np.clip((np.arange(count * thickness) + 0.5) / thickness - 0.5, 0, count - 1)
    low = np.minimum(position.astype(int), count - 2)
    weight = np.expand_dims((position - low).astype(np.float32), [a for a in range(3) if a != axis])
    return np.take(image, low, axis) * (1 - weight) + np.take(image, low + 1, axis) * weight


def _add_noise(rng: np.random.Generator, image: np.ndarray, is_rician: bool) -> np.ndarray:
    level = np.float32(np.exp(rng.uniform(np.log(0.005), np.log(0.12))))
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
