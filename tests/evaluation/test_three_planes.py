"""The same scribble in three planes, at equal and at thick voxels: what is drawn, and what comes of it."""

import numpy as np
import pytest
import torch

from rep3d.evaluation.click_methods import ours
from rep3d.evaluation.three_planes import MOST, SPACINGS, dice_by_plane, strokes, with_spacing
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import draw

SHAPE = (90, 90, 90)


def scan():
    """A ball of 22 mm that is brighter than the noise round it."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")).float()
    truth = (places - torch.tensor([44.0, 46.0, 45.0]).view(3, 1, 1, 1)).norm(dim=0) <= 22
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 8, SHAPE)).float()
    return torch.where(truth, 300.0, 100.0) + noise, truth


def alike(channels):
    return 0.8 - channels[:, :1].abs()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_dice_is_the_same(spacing):
    image, truth = with_spacing(*scan(), (1, 1, 1), spacing)
    found = dice_by_plane(ours(alike, 32), image, spacing, truth)
    assert set(found) == {"axial", "coronal", "sagittal"} and min(found.values()) > 0.8
    assert max(found.values()) - min(found.values()) <= MOST


@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_much_is_drawn(spacing):
    """The channel's sum on a working grid, and its middle."""
    _, truth = with_spacing(*scan(), (1, 1, 1), spacing)
    drawn = {
        plane: draw([stroke], Grid.cube((44, 46, 45), 1.0, 64))[0] for plane, stroke in strokes(truth, spacing).items()
    }
    sums = [float(channel.sum()) for channel in drawn.values()]
    assert max(sums) < 1.25 * min(sums)  # a stroke on thick slices goes down in steps
    for channel in drawn.values():
        assert channel[28:36, 28:36, 28:36].amax() > 0.65


def test_the_stroke_lies_in_its_plane_and_in_the_structure():
    _, truth = scan()
    lengths = []
    for axis, plane in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        positions = np.array(strokes(truth, (1, 1, 1))[plane].positions)
        assert np.ptp(positions[:, axis]) == 0 and truth[tuple(positions.astype(int).T)].all()
        lengths.append(np.linalg.norm(np.ptp(positions, axis=0)))
    assert max(lengths) - min(lengths) < 1.5 and min(lengths) > 30


def test_too_small():
    truth = torch.zeros(9, 9, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match="the structure is empty"):
        strokes(truth, (1, 1, 1))
    truth[4, 4, 4] = True
    with pytest.raises(ValueError, match="too small for a scribble"):
        strokes(truth, (1, 1, 1))
