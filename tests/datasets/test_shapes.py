import numpy as np
import pytest
from scipy import ndimage

from rep3d.datasets.shapes import KINDS, mosaic

SHAPE = (48, 48, 48)
CENTRE = np.array([22.3, 25.1, 24.6])


@pytest.mark.parametrize("radius", [8, 14])
@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_voxels(kind, radius):
    for seed in range(3):
        for solid in KINDS[kind](np.random.default_rng(seed), SHAPE, CENTRE, float(radius)):
            sides = tuple(part.stop - part.start for part in solid.box)
            assert solid.distance.shape == sides
            assert all(0 <= part.start < part.stop <= side for part, side in zip(solid.box, SHAPE, strict=True))
            slope = np.sqrt(sum(part**2 for part in np.gradient(solid.distance)))
            near = np.abs(solid.distance) < 1
            if near.any():
                assert 0.5 < np.median(slope[near]) < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_outermost_surface_is_closed(kind):
    """Inside the volume no shape is cut by its box."""
    for seed in range(4):
        outer = KINDS[kind](np.random.default_rng(seed), (160, 160, 160), np.full(3, 80.2), 10.0)[0]
        assert (outer.distance < 0).any()
        for axis in range(3):
            faces = np.moveaxis(outer.distance, axis, 0)[[0, -1]]
            touches_volume = outer.box[axis].start == 0 or outer.box[axis].stop == 160
            assert touches_volume or faces.min() > 0


@pytest.mark.parametrize("kind", ["tube", "tree", "bent", "coil", "chamber", "blob", "ellipsoid"])
def test_shapes_hang_together(kind):
    for seed in range(4):
        outer = KINDS[kind](np.random.default_rng(seed), (96, 96, 96), np.full(3, 48.0), 12.0)[0]
        assert ndimage.label(outer.distance < 0, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("kind", ["shell", "coil"])
def test_inner_part_lies_inside(kind):
    for seed in range(4):
        outer, inner = KINDS[kind](np.random.default_rng(seed), SHAPE, CENTRE, 12.0)
        assert outer.box == inner.box
        assert (inner.distance > outer.distance).all()


def test_parcels_share_a_body_and_no_voxel():
    for seed in range(6):
        outer, *parts = KINDS["parcels"](np.random.default_rng(seed), SHAPE, CENTRE, 12.0)
        counts = sum((part.distance < 0).astype(int) for part in parts)
        assert counts.max() == 1
        assert not (counts[outer.distance > 0.01] > 0).any()
        assert counts[outer.distance < 0].mean() > 0.35


def test_mosaic_fills_the_volume():
    for seed in range(4):
        counts = np.zeros(SHAPE, int)
        for solid in mosaic(np.random.default_rng(seed), SHAPE):
            counts[solid.box] += solid.distance < 0
        assert counts.max() == 1
        assert counts.mean() > 0.6


@pytest.mark.parametrize("corner", [(0.0, 0.0, 0.0), (47.4, 47.4, 47.4), (0.0, 47.4, 20.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_may_begin_at_the_border(kind, corner):
    for solid in KINDS[kind](np.random.default_rng(0), SHAPE, np.array(corner), 9.0):
        assert np.isfinite(solid.distance).all()
        assert solid.distance.shape == tuple(part.stop - part.start for part in solid.box)
