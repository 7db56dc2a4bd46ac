"""Prompts from voxels, half-open boxes and masks of a part."""

import numpy as np
import pytest

from monailabel_app.errors import RequestError
from monailabel_app.interaction.prompting import box_of, check_sides, lasso_round, point_at, scribble_over
from rep3d.interactive import draw
from rep3d.interactive.grid import Grid

SCAN = Grid.of_scan((12, 20, 16), (1.0, 1.0, 1.0))
UNEVEN = Grid.of_scan((12, 20, 16), (3.0, 0.7, 1.3))


def drawn(prompt, sign=0) -> np.ndarray:
    """Where it is drawn on the scan's own voxels."""
    return (draw([prompt], SCAN)[sign] > 0).numpy()


def part(sides) -> np.ndarray:
    area = np.zeros(SCAN.shape, bool)
    area[tuple(slice(*side) for side in sides)] = True
    return area


def test_points():
    prompt = point_at([3, 4.2, 5], UNEVEN, False)
    assert not prompt.positive and UNEVEN.voxel(prompt.positions[0]) == (3, 4, 5)
    for voxel in ([12, 0, 0], [0, -1, 0], [0, 0, 15.6]):
        with pytest.raises(RequestError, match="lies outside the scan") as raised:
            point_at(voxel, SCAN, True)
        assert raised.value.status == 400 and str(round(voxel[0])) in raised.value.message


@pytest.mark.parametrize(
    ("sides", "voxels"),
    [
        ([[2, 6], [3, 5], [4, 12]], [[2, 6], [3, 5], [4, 12]]),  # 3D
        ([[2, 3], [3, 15], [4, 12]], [[2, 3], [3, 15], [4, 12]]),  # of one slice
        ([[2.2, 6.3], [2.8, 5.1], [4, 4.3]], [[2, 6], [3, 5], [4, 5]]),  # napari draws between voxels
        ([[-5, 4], [3, 100], [4, 12]], [[0, 4], [3, 20], [4, 12]]),  # what of it lies in the scan
        ([[11, 12], [19, 20], [15, 16]], [[11, 12], [19, 20], [15, 16]]),
    ],
)
def test_boxes_are_half_open(sides, voxels):
    np.testing.assert_array_equal(drawn(box_of(sides, SCAN, True)), part(voxels))


@pytest.mark.parametrize("side", [[5, 5], [6, 5], [-3, 0], [12, 14], [1e300, 1e301]])
def test_boxes_without_voxels(side):
    with pytest.raises(RequestError, match="holds no voxel of the scan"):
        box_of([side, [1, 2], [1, 2]], SCAN, True)


@pytest.mark.parametrize("side", [[5, 5], [6, 5], [-1, 3], [10, 13], [-(10**30), 10**30]])
def test_parts_outside_the_scan(side):
    assert check_sides([[0, 12], [3, 5], [0, 1]], SCAN) == (12, 2, 1)
    with pytest.raises(RequestError, match="lies outside the scan"):
        check_sides([side, [1, 2], [1, 2]], SCAN)


def test_scribbles():
    mask = np.zeros((4, 1, 6), bool)
    mask[1:3, 0, 2:6] = True
    prompt = scribble_over(mask, [[5, 9], [7, 8], [10, 16]], UNEVEN, False)
    assert {UNEVEN.voxel(position) for position in prompt.positions} == {
        (i, 7, k) for i in (6, 7) for k in (12, 13, 14, 15)
    }
    assert drawn(scribble_over(mask, [[5, 9], [7, 8], [10, 16]], SCAN, False), 1).any()
    with pytest.raises(RequestError, match="the scribble has no voxels"):
        scribble_over(np.zeros((2, 2, 2), bool), [[0, 2]] * 3, SCAN, True)
    with pytest.raises(RequestError, match="100000 positions, got"):
        wide = Grid.of_scan((50, 50, 50), (1.0, 1.0, 1.0))
        scribble_over(np.ones((50, 50, 50), bool), [[0, 50]] * 3, wide, True)


@pytest.mark.parametrize("across", range(3))
@pytest.mark.parametrize("density", [0.05, 0.5, 0.95])
def test_lassos_enclose_exactly_their_area(across, density):
    """Of any form: with holes, islands, and what touches at corners."""
    rng = np.random.default_rng(across)
    sides = [[2, 11], [4, 17], [1, 16]]
    sides[across] = [sides[across][0], sides[across][0] + 1]
    mask = rng.random([stop - start for start, stop in sides]) < density
    expected = np.zeros(SCAN.shape, bool)
    expected[tuple(slice(*side) for side in sides)] = mask
    np.testing.assert_array_equal(drawn(lasso_round(mask, sides, SCAN, True)), expected)
    whole = [[0, voxels] for voxels in SCAN.shape]
    np.testing.assert_array_equal(drawn(lasso_round(expected, whole, SCAN, False), 1), expected)


def test_lassos_of_one_slice_only():
    with pytest.raises(RequestError, match="expected one slice"):
        lasso_round(np.ones((2, 3, 4), bool), [[0, 2], [0, 3], [0, 4]], SCAN, True)
    with pytest.raises(RequestError, match="the lasso has no voxels"):
        lasso_round(np.zeros((1, 3, 4), bool), [[0, 1], [0, 3], [0, 4]], SCAN, True)
