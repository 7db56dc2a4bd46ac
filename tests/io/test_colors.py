"""Colours of labels, as normal and colour-blind eyes see them."""

from itertools import combinations

import numpy as np
import pytest

from rep3d.io.colors import PALETTE, distinct_colors

# How linear RGB looks to who lacks a cone (Machado, Oliveira and Fernandes, 2009).
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = [0.9505, 1, 1.089]


def lab(color, eyes):
    """CIELAB, where a distance of 2 is just seen."""
    linear = np.where(
        np.less_equal(color, 0.04045), np.divide(color, 12.92), ((np.array(color) + 0.055) / 1.055) ** 2.4
    )
    xyz = np.array(TO_XYZ) @ np.clip(np.array(eyes) @ linear, 0, 1) / WHITE
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("count, apart", [(2, 90), (4, 30), (len(PALETTE), 16)])
def test_colors_can_be_told_apart(eyes, count, apart):
    colors = distinct_colors({str(index): index for index in range(1, count + 1)}).values()
    seen = [lab(color, EYES[eyes]) for color in colors]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > apart


def test_a_color_depends_on_the_id_alone():
    some = distinct_colors({"left kidney": 3, "right kidney": 2, "more": 40, "no id": 0})
    assert distinct_colors({"kidney": 2}) == {"kidney": some["right kidney"]} and len(set(some.values())) == 4
    assert all(0 <= part <= 1 for color in some.values() for part in color)
