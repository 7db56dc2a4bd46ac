"""The same scribble in three planes, at equal and at thick voxels: what is drawn, and what comes of it."""

import numpy as np
import pytest
import torch

from rep3d.evaluation.click_methods import ours
from rep3d.evaluation.scribble_planes import MOST, SPACINGS, dice_by_plane, strokes, turn
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.prompts import draw

UNIT = (1.0, 1.0, 1.0)
CENTRE, RADII = (34.0, 36.0, 33.0), (17.0, 24.0, 14.0)
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def scan():
    """An ellipsoid of three lengths that is brighter than the noise round it."""
    shape = (70, 80, 66)
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).float()
    offsets = places - torch.tensor(CENTRE).view(3, 1, 1, 1)
    truth = (offsets / torch.tensor(RADII).view(3, 1, 1, 1)).norm(dim=0) <= 1
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 8, shape)).float()
    return torch.where(truth, 300.0, 100.0) + noise, truth


def alike(channels):
    return 0.8 - channels[:, :1].abs()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_dice_is_the_same(spacing):
    found = dice_by_plane(ours(alike, 64), *scan(), UNIT, spacing)
    assert set(found) == set(PLANES) and min(found.values()) > 0.8
    assert max(found.values()) - min(found.values()) <= MOST


@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_much_is_drawn(spacing):
    """The channel's sum on a working grid, and its middle."""
    image, truth = scan()
    views = turn(image, truth, UNIT, spacing)
    channels = {}
    for plane, stroke in strokes(views, truth, UNIT).items():
        axes, origin = views[plane].axes, views[plane].grid.origin
        middle = [CENTRE[axis] - start for axis, start in zip(axes, origin, strict=True)]
        channels[plane] = draw([stroke], Grid.cube(middle, 1.0, 64))[0]
        assert channels[plane][28:36, 28:36, 28:36].amax() > 0.65
    sums = [float(channel.sum()) for channel in channels.values()]
    assert max(sums) < 1.25 * min(sums)  # a stroke on thick slices goes down in steps


def test_the_stroke_stays_the_same_in_the_structure_and_lies_in_the_plane():
    image, truth = scan()
    views, lengths = turn(image, truth, UNIT, UNIT), []
    drawn = strokes(views, truth, UNIT)
    for plane, across in PLANES.items():
        positions, view = np.array(drawn[plane].positions), views[plane]
        assert np.ptp(positions[:, across]) == 0
        as_it_was = positions[:, np.argsort(view.axes)]
        np.testing.assert_array_equal(as_it_was, drawn["axial"].positions)
        torch.testing.assert_close(view.image, image.permute(view.axes))
        assert torch.equal(view.truth, truth.permute(view.axes)) and truth[tuple(as_it_was.astype(int).T)].all()
        lengths.append(np.linalg.norm(np.ptp(positions, axis=0)))
    assert max(lengths) == min(lengths) > 20


@pytest.mark.parametrize("plane", PLANES)
def test_thick_slices_lie_where_the_scan_has_them(plane):
    image, truth = scan()
    view = turn(image, truth, UNIT, SPACINGS[1])[plane]
    whole = Grid.of_scan(image.permute(view.axes).shape, UNIT)
    again = resample(view.truth.float(), view.grid, whole).permute(np.argsort(view.axes).tolist()) >= 0.5
    assert 2 * int((again & truth).sum()) / int(again.sum() + truth.sum()) > 0.93


def test_too_small():
    truth = torch.zeros(9, 9, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match="the structure is empty"):
        strokes(turn(truth, truth, UNIT, UNIT), truth, UNIT)
    truth[4, 4, 4] = True
    with pytest.raises(ValueError, match="too small for a scribble"):
        strokes(turn(truth, truth, UNIT, UNIT), truth, UNIT)
