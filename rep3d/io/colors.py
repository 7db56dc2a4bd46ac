"""Colours of labels: red, green, blue from 0 to 1."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

GOLDEN_ANGLE = 0.381966  # of the colour circle: neighbouring labels get distant hues

Color = tuple[float, float, float]


def distinct_colors(labels: Mapping[str, int]) -> dict[str, Color]:
    """A colour for each label by name, of another hue than its neighbours' by id."""
    return {name: colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1, 0.65, 0.9) for name, index in labels.items()}
