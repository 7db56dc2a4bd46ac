"""What the network sees where little is to be seen, against slower ways to compute it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rep3d.interactive.channels import (
    FAR,
    NEIGHBOURHOOD,
    STEP,
    _window,
    input_channels,
    mirrored,
    prompt_channels,
    spread,
    standardize,
)
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.prompts import point


@pytest.mark.parametrize("value", [0.0, 0.1, -1000.0, 1e6])
def test_a_constant_image_shows_nothing(value):
    """Not the roundings of its resampling, made large."""
    scan, grid = Grid.of_scan((40, 40, 40), (0.7, 0.7, 1.3)), Grid.cube((14, 14, 26), 1.1, 24)
    inside = torch.ones(grid.shape, dtype=torch.bool)
    image = standardize(resample(torch.full(scan.shape, value), scan, grid), inside)
    assert image.abs().max() < 0.05
    empty = torch.zeros_like(inside)
    shown = input_channels(image, inside, empty, [point((20, 20, 20), scan.spacing)], empty, grid)[0]
    assert shown.abs().max() < 0.5


@pytest.mark.parametrize("box", [(2, 7, 0, 9, 4, 9), (0, 1, 3, 8, 0, 2), (3, 5, 8, 9, 0, 9), (0, 9, 0, 9, 0, 9)])
def test_beyond_the_scan_it_goes_on_mirrored(box):
    inside = torch.zeros(9, 9, 9, dtype=torch.bool)
    part = tuple(slice(*box[2 * axis : 2 * axis + 2]) for axis in range(3))
    inside[part] = True
    values = torch.randn(2, 9, 9, 9, generator=torch.manual_seed(0))
    widths = [(0, 0), *((side.start, 9 - side.stop) for side in part)]
    expected = np.pad(values[(slice(None), *part)].numpy(), widths, mode="reflect")
    np.testing.assert_array_equal(mirrored(values, inside).numpy(), expected)


def test_the_edge_of_a_scan_does_not_show():
    """A scan that ends shows what the same scan shows that goes on symmetrically."""
    grid = Grid.of_scan((24, 24, 24), (1.0, 1.0, 1.0))
    half = torch.randn(24, 24, 12, generator=torch.manual_seed(0))
    inside = torch.zeros(grid.shape, dtype=torch.bool)
    inside[..., :12] = True
    image = torch.cat([half, torch.zeros_like(half)], 2)
    mask = (image > 0.5) & inside
    channels = input_channels(
        standardize(image, inside), inside, mask, [point((12, 12, 6), grid.spacing)], ~mask & inside, grid
    )
    torch.testing.assert_close(channels[..., 12:23], channels[..., :11].flip(-1), atol=0, rtol=0)
    assert (channels.flatten(1).amax(1) - channels.flatten(1).amin(1) > 0)[[0, 1, 2, 4]].all()


def test_distances_are_those_of_a_pool():
    """`spread` with torch's maximum over neighbours."""
    image = F.avg_pool3d(torch.randn(1, 1, 26, 25, 24, generator=torch.manual_seed(0)), 3, 1, 1)[0, 0]
    inside, core = torch.ones_like(image, dtype=torch.bool), torch.zeros_like(image, dtype=torch.bool)
    inside[:4], core[12:14, 12, 12] = False, True
    small, seeds, within = (
        pool[0, 0]
        for pool in (
            F.avg_pool3d(image[None, None], 2, ceil_mode=True),
            F.max_pool3d(core[None, None].float(), 2, ceil_mode=True) > 0,
            F.max_pool3d(inside[None, None].float(), 2, ceil_mode=True) > 0,
        )
    )
    cost = _window(small, within, seeds, NEIGHBOURHOOD // 2).square() + STEP
    cost[~within] = FAR
    distance = torch.full_like(cost, FAR).masked_fill(seeds, 0)
    for _ in range(100):
        distance = torch.minimum(distance, cost - F.max_pool3d(-distance[None], 3, 1, 1)[0])
    expected = F.interpolate(torch.exp(-distance)[None, None], image.shape, mode="trilinear")[0, 0] * inside
    torch.testing.assert_close(spread(image, inside, core[None]), expected, atol=1e-6, rtol=0)


def test_where_the_image_says_nothing_the_nearer_prompt_is_the_larger():
    """So that a click far from the others does not outvote them; also those before the newest count."""
    grid = Grid.of_scan((40, 40, 40), (1.0, 1.0, 1.0))
    inside = torch.ones(grid.shape, dtype=torch.bool)
    prompts = [point((x, 20, 20), grid.spacing, x < 30) for x in (4, 12, 36)]
    positive, negative = prompt_channels(torch.zeros(grid.shape), inside, prompts, grid)
    line = (positive - negative)[:, 20, 20]
    assert (line[:22] > 0).all() and (line[27:] < 0).all()
    assert float(line[4]) == pytest.approx(float(line[12]), abs=0.1)
