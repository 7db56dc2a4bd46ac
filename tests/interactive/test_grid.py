"""Boxes of voxels, and values carried from one to another, against SciPy and loops."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from rep3d.interactive.grid import Grid, bounds, covered, resample

SCAN = Grid.of_scan((14, 11, 9), (1.0, 1.5, 3.0))


def noise(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def indices_in(source, target):
    """The target's centres in voxels of the source, (3, *target.shape)."""
    axes = [(target.positions(a).numpy() - source.origin[a]) / source.spacing[a] for a in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


@pytest.mark.parametrize("spacing", [0.4, 0.7, 1.0])
def test_finer_grids_interpolate_linearly(spacing):
    target = Grid.cube((6.0, 7.0, 12.0), spacing, 12)
    values, expected_at = noise(SCAN.shape), indices_in(SCAN, target)
    expected = ndimage.map_coordinates(values.numpy(), expected_at, order=1, mode="nearest")
    np.testing.assert_allclose(
        resample(values, SCAN, target).numpy(), expected * covered(SCAN, target).numpy(), atol=1e-5
    )


def test_the_same_grid_changes_nothing():
    values = noise(SCAN.shape)
    torch.testing.assert_close(resample(values, SCAN, SCAN), values)


def test_nothing_is_missed_between_larger_voxels():
    """A single bright voxel weighs the same wherever it lies between the centres of the coarse voxels."""
    scan, target = Grid.of_scan((32, 32, 32), (1, 1, 1)), Grid.cube((15.5, 15.5, 15.5), 4.0, 8)
    for place in range(10, 20):
        values = torch.zeros(scan.shape)
        values[place, 15, 13] = 1
        assert float(resample(values, scan, target).sum()) == pytest.approx(1 / 64, rel=0.01)


def test_coarser_grids_keep_constants_and_means():
    scan, target = Grid.of_scan((24, 24, 24), (1, 1, 1)), Grid.cube((11.5, 11.5, 11.5), 3.0, 8)
    torch.testing.assert_close(resample(torch.full(scan.shape, 7), scan, target), torch.full(target.shape, 7.0))
    values = noise(scan.shape)
    values[:6] = values[-6:] = values[:, :6] = values[:, -6:] = values[:, :, :6] = values[:, :, -6:] = 0
    assert float(resample(values, scan, target).mean()) == pytest.approx(float(values.mean()), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.int16, torch.bool, torch.uint8, torch.float64])
def test_any_type_of_number(dtype):
    values = (noise(SCAN.shape) * 100).to(dtype)
    torch.testing.assert_close(resample(values, SCAN, SCAN), values.float())


def test_outside_is_zero():
    target = Grid.cube((0.0, 0.0, 0.0), 1.0, 8)
    inside = covered(SCAN, target)
    at = indices_in(SCAN, target)
    expected = ((at >= -0.5) & (at <= np.array(SCAN.shape)[:, None, None, None] - 0.5)).all(0)
    np.testing.assert_array_equal(inside.numpy(), expected)
    values = resample(torch.ones(SCAN.shape), SCAN, target)
    torch.testing.assert_close(values, inside.float())


def test_a_grid_that_does_not_touch_the_scan():
    target = Grid.cube((500.0, 0.0, 0.0), 1.0, 4)
    assert not covered(SCAN, target).any() and not resample(torch.ones(SCAN.shape), SCAN, target).any()


def test_part():
    part = bounds(covered(Grid.cube((6.0, 6.0, 9.0), 1.0, 6), SCAN))
    centres = [SCAN.part(part).positions(axis) for axis in range(3)]
    for axis, middle in enumerate((6.0, 6.0, 9.0)):
        all_of_them = SCAN.positions(axis)
        expected = all_of_them[(all_of_them - middle).abs() <= 3 + 1e-6]
        torch.testing.assert_close(centres[axis], expected)


def test_voxels_and_positions():
    assert SCAN.voxel((3.4, 2.2, 8.9)) == (3, 1, 3) and SCAN.contains((13, 10, 8)) and not SCAN.contains((14, 0, 0))
    assert SCAN.extent == (14.0, 16.5, 27.0)
    assert not SCAN.contains((-1, 0, 0))


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [((4, 4), (1, 1, 1), "shape"), ((4, 0, 4), (1, 1, 1), "shape"), ((4, 4, 4), (1, 1), "spacing"),
     ((4, 4, 4), (1, 0, 1), "spacing"), ((4, 4, 4), (1, float("nan"), 1), "spacing"),
     ((4, 4, 4), (1, float("inf"), 1), "spacing")],
)  # fmt: skip
def test_scans_that_are_none(shape, spacing, said):
    with pytest.raises(ValueError, match=f"{said} must be three"):
        Grid.of_scan(shape, spacing)
