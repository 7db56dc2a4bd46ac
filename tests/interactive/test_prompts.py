"""Prompts as channels, against loops over voxels."""

import itertools
import math

import numpy as np
import pytest
import torch

from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import AREA_VALUE, FADING, Prompt, box, draw, lasso, point, radius, scribble

GRID = Grid.cube((8.0, 9.0, 10.0), 1.25, 14)
UNIT = (1.0, 1.0, 1.0)


def centres(grid):
    for voxel in itertools.product(*map(range, grid.shape)):
        yield voxel, [o + s * v for o, s, v in zip(grid.origin, grid.spacing, voxel, strict=True)]


def balls(positions, grid):
    """Brute force."""
    reach, channel = radius(grid.spacing[0]), np.zeros(grid.shape, np.float32)
    for voxel, centre in centres(grid):
        channel[voxel] = max(0.0, *(1 - math.dist(centre, position) / reach for position in positions))
    return channel


@pytest.mark.parametrize("position", [(8.0, 9.0, 10.0), (0.4, 2.2, 3.7), (16.9, 17.8, 18.8)])
def test_points(position):
    drawn = draw([Prompt("point", (position,))], GRID)
    np.testing.assert_allclose(drawn[0], balls([position], GRID), atol=1e-5)
    assert not drawn[1].any()


def test_scribbles_in_any_order():
    positions = tuple((4 + 0.8 * i, 6 + 0.3 * i, 9.0 + 0.1 * i * i) for i in range(9))
    drawn = draw([Prompt("scribble", positions, False)], GRID)
    np.testing.assert_allclose(drawn[1], balls(positions, GRID), atol=1e-5)
    torch.testing.assert_close(draw([Prompt("scribble", positions[::-1], False)], GRID), drawn, atol=0, rtol=0)


def test_long_scribbles_are_thinned_without_being_seen():
    positions = tuple((5 + 6 * t / 2000, 8.0 + math.sin(t / 300), 10.0) for t in range(2000))
    drawn = draw([Prompt("scribble", positions)], GRID)
    np.testing.assert_allclose(drawn[0], balls(positions[::10], GRID), atol=0.2)


@pytest.mark.parametrize("corners", [((4, 5, 6), (9, 11, 12)), ((9, 5, 12), (4, 11, 6)), ((7, 7, 10), (7, 9, 10))])
def test_boxes_in_any_order(corners):
    drawn = draw([box(*corners, UNIT)], GRID)[0]
    low, high = np.min(corners, 0) - 0.5, np.max(corners, 0) + 0.5
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, GRID.spacing[0] / 2 + 1e-6)
    expected = np.zeros(GRID.shape)
    for voxel, centre in centres(GRID):
        expected[voxel] = AREA_VALUE * all(abs(c - m) <= h for c, m, h in zip(centre, middle, half, strict=True))
    np.testing.assert_allclose(drawn, expected)
    assert drawn.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lassos_fill_their_slice(axis):
    """By counting what lies left of each voxel on every edge: the even-odd rule, on a star with hollows."""
    first, second = (other for other in range(3) if other != axis)
    outline = []
    for i in range(10):
        corner, angle, far = [0.0, 0.0, 0.0], 2 * math.pi * i / 10, (6.3, 2.9)[i % 2]
        corner[axis] = GRID.positions(axis)[6].item() + 0.2
        corner[first] = GRID.origin[first] + 8.1 + far * math.cos(angle)
        corner[second] = GRID.origin[second] + 7.9 + far * math.sin(angle)
        outline.append(corner)
    drawn = draw([lasso(outline, UNIT)], GRID)[0]
    expected = np.zeros(GRID.shape)
    for voxel, centre in centres(GRID):
        crossings = 0
        for a, b in zip(outline, outline[1:] + outline[:1], strict=True):
            if (a[first] < centre[first]) != (b[first] < centre[first]):
                share = (centre[first] - a[first]) / (b[first] - a[first])
                crossings += a[second] + share * (b[second] - a[second]) > centre[second]
        expected[voxel] = AREA_VALUE * (crossings % 2 and voxel[axis] == 6)
    np.testing.assert_allclose(drawn, expected)
    assert drawn.any()


def test_sizes_are_millimetres():
    """A ball is as large on two grids, as far as both can show it; on others it is as small or large as they can."""
    volumes = [float((draw([Prompt("point", ((0.0, 0.0, 0.0),))], Grid.cube((0, 0, 0), s, 31)) > 0).sum()) * s**3
               for s in (0.8, 1.2)]  # fmt: skip
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    assert radius(1.0) == radius(1.4) == 3.0
    assert (radius(0.1), radius(5.0)) == (pytest.approx(0.4), 10.0)


def test_positions_are_those_of_the_scan():
    spacing = (0.7, 0.7, 5.0)
    assert point((10, 20, 3), spacing).positions == ((pytest.approx(7.0), pytest.approx(14.0), pytest.approx(15.0)),)
    drawn = draw([point((10, 14, 2), spacing)], Grid.cube((7.0, 9.8, 10.0), 1.0, 9))[0]
    assert float(drawn[4, 4, 4]) == float(drawn.max()) == pytest.approx(1)


def test_older_prompts_fade():
    prompts = [Prompt("point", ((2.0 + 6 * i, 9.0, 10.0),)) for i in range(3)]
    drawn = draw(prompts, Grid.cube((8.0, 9.0, 10.0), 1.0, 21))[0]
    peaks = [float(drawn[4 + 6 * i, 10, 10]) for i in range(3)]
    assert peaks == [pytest.approx(FADING**2), pytest.approx(FADING), pytest.approx(1.0)]


def test_the_largest_value_holds():
    area, dot = box((4, 5, 6), (12, 13, 14), UNIT), Prompt("point", ((8.0, 9.0, 10.0),))
    for prompts in ([area, dot], [dot, area]):
        drawn, alone = draw(prompts, GRID)[0], [draw([one], GRID)[0] for one in prompts]
        torch.testing.assert_close(drawn, torch.maximum(alone[0] * FADING, alone[1]))


def test_nothing_is_drawn_of_what_lies_elsewhere():
    assert not draw([], GRID).any()
    assert not draw([Prompt("point", ((90.0, 9.0, 10.0),)), scribble([(0, 0, 90)], UNIT)], GRID).any()


@pytest.mark.parametrize(
    ("kind", "positions", "said"),
    [
        ("circle", ((1, 2, 3),), "kind must be one of point, scribble, box, lasso"),
        ("point", ((1, 2),), "three finite numbers"),
        ("point", ((1, 2, float("nan")),), "three finite numbers"),
        ("scribble", ((1, 2, float("inf")),), "three finite numbers"),
        ("point", ((1, 2, 3), (4, 5, 6)), "a point has 1 positions, got 2"),
        ("box", ((1, 2, 3),), "a box has 2 positions, got 1"),
        ("scribble", (), "a scribble has 1 to"),
        ("lasso", ((1, 2, 3), (4, 5, 3)), "a lasso has 3 to"),
        ("lasso", ((1, 2, 3), (4, 5, 6), (7, 9, 8)), "must lie in a slice across one axis"),
        ("lasso", ((1, 2, 3), (4, 5, 3), (7, 8, 3), (2, 3, 3)), "must enclose an area"),
        ("lasso", ((1, 2, 3), (1, 2, 3), (1, 2, 3)), "must enclose an area"),
    ],
)
def test_prompts_that_are_none(kind, positions, said):
    with pytest.raises(ValueError, match=said):
        Prompt(kind, positions)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.55])
def test_a_lasso_smaller_than_a_voxel_is_drawn(shift):
    corners = [(8 + shift, 9 + shift, 10.0), (8.4 + shift, 9 + shift, 10.0), (8 + shift, 9.4 + shift, 10.0)]
    assert draw([Prompt("lasso", tuple(corners))], Grid.cube((8, 9, 10), 2.0, 9))[0].sum() in (0.5, 1.0)


def test_a_lasso_of_many_corners():
    """A circle, in more corners than are looked at together."""
    angles = [2 * math.pi * i / 3000 for i in range(3000)]
    circle = Prompt("lasso", tuple((8 + 6 * math.sin(a), 9 + 6 * math.cos(a), 10.0) for a in angles))
    area = float((draw([circle], Grid.cube((8, 9, 10), 0.5, 40))[0] > 0).any(2).sum()) / 4
    assert area == pytest.approx(math.pi * 36, rel=0.02)
