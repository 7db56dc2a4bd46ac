"""What is odd about a scan's intensities and yet no reason to refuse it, and how it is said: once for each file."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

AIR = -200.0  # Hounsfield units: an image whose darkest percent lies below is a CT
OUTSIDE = 0.9  # of the voxels: more of them outside the window are said
NARROW = 0.05  # of the window: an image of a smaller range is said
ONE_VOXEL = 0.5  # of the variance: a voxel that makes up more is said
FEWEST_VALUES = 16  # of a scan: air or a drawing has fewer, and many look alike
SAMPLES = 1_000_000  # voxels of an image that are looked at

Window = Sequence[float] | Sequence[Sequence[float] | None] | None

_said: set[str] = set()


def warn_once(path: str, note: str) -> None:
    """Log what is odd about a file, unless this process has done so."""
    text = f"{path}: {note}"
    if note and text not in _said:
        _said.add(text)
        logger.warning("%s", text)


def channel_windows(window: Window, channels: int) -> list[Any]:
    """The window of each channel: (lowest, highest) or None.

    Args:
        window: that of all channels; None, the z-score of each; or a list with either for each channel.

    Raises:
        ValueError: a list of another length, or a window that is not two finite numbers, the lower first.
    """
    by_channel = isinstance(window, Sequence) and not all(isinstance(value, Real) for value in window)
    windows: list[Any] = list(window or ()) if by_channel else [window] * channels
    if len(windows) != channels:
        raise ValueError(
            f"intensity_window is {window!r}, expected [lowest, highest] or null for {channels} channel(s)"
        )
    if not all(one is None or _is_window(one) for one in windows):
        raise ValueError(f"intensity_window is {window!r}, expected the lower first, of two finite numbers")
    return windows


def _is_window(value: Any) -> bool:
    """Whether it is [lowest, highest]."""
    if not isinstance(value, Sequence) or len(value) != 2 or not all(isinstance(one, Real) for one in value):
        return False
    low, high = value
    return -math.inf < low < high < math.inf


def image_note(channels: np.ndarray, windows: Sequence[Any]) -> str:
    """What `intensity_note` says of the channels (C, D, H, W) of an image, of which each has its window."""
    if channels.min() < channels.max() and all(map(is_drawn, channels)):
        return f"fewer than {FEWEST_VALUES} values, all of them whole numbers: is it a label map?"
    found = [intensity_note(voxels, window) for voxels, window in zip(channels, windows, strict=True)]
    if len(found) > 1:
        found = [f"channel {i}: {note}" if note else "" for i, note in enumerate(found)]
    return "; ".join(filter(None, found))


def modality_note(channels: np.ndarray, modality: str | None) -> str:
    """Whether the channels (C, D, H, W) of an image look like CT, and the bundle is of another modality.

    Args:
        modality: of the bundle; None: any.
    """
    if modality is None or "CT" in modality.upper():
        return ""
    darkest = min(float(np.percentile(_some(channel), 1)) for channel in channels)
    if darkest >= AIR:
        return ""
    return f"a hundredth of the voxels lies below {darkest:g}, as the air of a CT does: the bundle is of {modality}"


def has_few_values(channel: np.ndarray) -> bool:
    """Whether a channel is air, a drawing, or the like."""
    return _some_values(channel).size < FEWEST_VALUES


def is_drawn(channel: np.ndarray) -> bool:
    """Whether there are few values, all of them whole numbers."""
    values = _some_values(channel)
    return values.size < FEWEST_VALUES and bool(np.all(values == np.round(values)))


def _some_values(channel: np.ndarray) -> np.ndarray:
    """The values that some of the voxels have."""
    return np.unique(_some(channel))


def _some(channel: np.ndarray) -> np.ndarray:
    """SAMPLES of the voxels at most."""
    return channel.ravel(order="K")[:: 1 + channel.size // SAMPLES]


def intensity_note(voxels: np.ndarray, window: Sequence[float] | None) -> str:
    """Whether an image's intensities are none that a bundle expects, or an empty text.

    Args:
        voxels: finite ones.
        window: the intensities (lowest, highest) that the bundle maps to 0 and 1; None: it takes the z-score.
    """
    return _z_score_note(voxels) if window is None else _window_note(voxels, *window)


def _window_note(voxels: np.ndarray, low: float, high: float) -> str:
    smallest, largest = float(voxels.min()), float(voxels.max())
    told = f"the bundle's window is {low:g} to {high:g}, and the voxels go from {smallest:g} to {largest:g}"
    if largest - smallest < NARROW * (high - low):
        return f"{told}: nearly all contrast is lost"
    # Air and padding say nothing: most of a CT may be air. So only what is brighter than the mean counts.
    some = _some(voxels)
    bright = some[some >= some.mean(dtype=np.float64)]
    share = np.count_nonzero((bright < low) | (bright > high)) / max(bright.size, 1)
    return f"{told}: more than {OUTSIDE:.0%} of those above the mean lie outside the window" if share > OUTSIDE else ""


def _z_score_note(voxels: np.ndarray) -> str:
    mean, variance = voxels.mean(dtype=np.float64), voxels.var(dtype=np.float64)
    smallest, largest = float(voxels.min()), float(voxels.max())
    farthest = max(largest - mean, mean - smallest)
    if variance == 0 or farthest**2 <= ONE_VOXEL * variance * voxels.size:
        return ""
    extreme = largest if largest - mean == farthest else smallest
    return f"one voxel of {extreme:g} has more than half of the variance, on which a z-score rests"
