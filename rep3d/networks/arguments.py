"""Checks of what blocks and networks are built from. Errors name the argument, its value and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

STAGES = 4  # of the encoders, each with its own number of channels
KERNEL_SIZES = range(3, 32, 2)  # of large depthwise kernels, their edge in voxels


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of the choices; 3.0 is not 3."""
    if value not in choices or isinstance(value, float):
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Refuse what is no integer above 0."""
    if not _is_positive(value):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_stages(name: str, values: Sequence[object]) -> None:
    """Refuse what is not one positive integer for each stage."""
    if not isinstance(values, Sequence) or len(values) != STAGES or not all(map(_is_positive, values)):
        raise ValueError(f"{name} must be {STAGES} positive integers, got {values!r}")


def _is_positive(value: object) -> bool:
    return isinstance(value, Integral) and int(value) > 0
