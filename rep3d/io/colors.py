"""Colours of labels: red, green, blue from 0 to 1."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

# Each as far as can be from all before it, for normal and for colour-blind eyes (protan, deutan, tritan) alike, and
# neither too dark nor too grey for a scan.
PALETTE = (
    "2d87e1 ff871e 00ffc3 c3003c 780fff b40f78 f0c3ff d2f087 e19678 e1001e a51ea5 4bc3b4 e13c78 f0e100 a587c3 695af0"
).split()
GOLDEN_ANGLE = 0.381966  # of the colour circle: neighbouring labels beyond the palette get distant hues

Color = tuple[float, float, float]


def distinct_colors(labels: Mapping[str, int]) -> dict[str, Color]:
    """A colour for each label by name, which depends on its id alone; the first sixteen suit colour-blind eyes, too."""
    return {name: _color(index) for name, index in labels.items()}


def _color(index: int) -> Color:
    if not 1 <= index <= len(PALETTE):
        return colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1, 0.65, 0.9)
    red, green, blue = (part / 255 for part in bytes.fromhex(PALETTE[index - 1]))
    return red, green, blue
