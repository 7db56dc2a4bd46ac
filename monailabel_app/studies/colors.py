"""The colours of labels that 3D Slicer and OHIF show."""

from __future__ import annotations

from collections.abc import Mapping

from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS

from rep3d.io.colors import Color, distinct_colors


def anatomy_colors(labels: Mapping[str, int]) -> dict[str, Color]:
    """A colour for each label by name: the anatomical one where the name is known."""
    known = {name.lower(): color for name, color in GENERIC_ANATOMY_COLORS.items()}
    colors = distinct_colors(labels)
    for name in labels:
        if name.lower() in known:
            red, green, blue = known[name.lower()]
            colors[name] = (red / 255, green / 255, blue / 255)
    return colors
