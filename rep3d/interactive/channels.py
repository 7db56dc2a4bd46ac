"""What the network sees of a working grid: the image as prompts and mask bring it out, and the prompts themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from rep3d.interactive.grid import Grid, bounds
from rep3d.interactive.prompts import AREA_VALUE, Prompt, draw, reaches

CHANNELS = ("image", "previous mask", "positive prompts", "negative prompts", "taken")
QUANTILES = (0.001, 0.999)  # of the image within which it is clipped
FLAT = 1e-5  # of the image's values: what deviates less is rounding
NEIGHBOURHOOD = 12  # voxels round the newest positive prompt whose spread is the width of the window
LEAST_WIDTH = 0.1  # of the window, in standard deviations of the whole image

STEP = 0.4  # what the way through one voxel costs that looks like the prompt; one that does not costs 1 more
FAR = 1e3
SPREADING = 3  # newest prompts of either sign of which it is told what looks like them


def input_channels(
    image: torch.Tensor,
    inside: torch.Tensor,
    mask: torch.Tensor,
    prompts: Sequence[Prompt],
    taken: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """The five `CHANNELS` of a working grid, (5, *grid.shape) of float32; beyond the scan it goes on mirrored.

    Args:
        image: on the working grid, as `standardize` gives it.
        inside: where the grid lies within the scan, bool.
        mask, taken: on the working grid, bool.
        prompts: oldest first.
        grid: the working grid.
    """
    shown = focus(image, inside, mask, prompts, grid)
    channels = torch.cat([shown[None], mask[None], prompt_channels(image, inside, prompts, grid), taken[None]])
    return mirrored(channels, inside)


def mirrored(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Values (..., *inside.shape) whose outside is replaced by reflections of the box `inside` in its outer voxels.

    A network that meets nothing but anatomy need not learn what the edge of a scan looks like.
    """
    for axis, side in zip(range(-3, 0), bounds(inside) or (), strict=False):
        count, last = values.shape[axis], side.stop - side.start - 1
        if last + 1 < count:
            steps = (torch.arange(count) - side.start) % (2 * last or 1)
            values = values.index_select(axis, side.start + torch.minimum(steps, 2 * last - steps))
    return values


def standardize(image: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Clipped to `QUANTILES`, with mean 0 and standard deviation 1 inside the scan, and 0 outside."""
    values = torch.from_numpy(image.numpy()[inside.numpy()])  # many times as fast as torch's own indexing
    if not values.numel():
        return torch.zeros_like(image)
    low, high = np.quantile(values[:: max(1, values.numel() // 100_000)].numpy(), QUANTILES).tolist()
    values = values.clamp(low, high)
    # A constant image stays 0: what differs in it are roundings.
    deviation = values.std(correction=0).clamp(min=FLAT * max(abs(low), abs(high)) + 1e-12)
    return (image.clamp(low, high) - values.mean()) / deviation * inside


def focus(
    image: torch.Tensor, inside: torch.Tensor, mask: torch.Tensor, prompts: Sequence[Prompt], grid: Grid
) -> torch.Tensor:
    """The image in the window that a radiologist would choose: its level at what is shown, as wide as what is near.

    What looks like the newest positive prompt, or without one like the mask, is near 0; what does not tends to -1 or 1.
    """
    core = _cores(prompts, True, inside, grid, 1)
    return _window(image, inside, core[0] if core else mask & inside)


def prompt_channels(image: torch.Tensor, inside: torch.Tensor, prompts: Sequence[Prompt], grid: Grid) -> torch.Tensor:
    """`draw`, and round the newest prompts of either sign the area that they are likely to speak for: (2, *grid.shape).

    Where nothing in the image tells them apart, the larger of the two channels says which sign is nearer.
    """
    channels = draw(prompts, grid)
    for channel, positive in zip(channels, (True, False), strict=True):
        cores = _cores(prompts, positive, inside, grid, SPREADING)
        if cores:
            torch.maximum(channel, AREA_VALUE * spread(image, inside, torch.stack(cores)), out=channel)
    return channels


def spread(image: torch.Tensor, inside: torch.Tensor, cores: torch.Tensor) -> torch.Tensor:
    """How easily one comes from any core to each voxel through what looks like that core: 1 to 0, of the image's shape.

    exp(-d) of a geodesic distance d whose steps cost more, the less the voxel looks like the core; on voxels of twice
    the edge. The idea of encoding clicks so is that of MIDeepSeg (Luo et al., 2021).

    Args:
        image, inside: of the working grid.
        cores: (n, *grid.shape), bool.
    """
    small = F.avg_pool3d(image[None, None], 2, ceil_mode=True)[0, 0]
    seeds = F.max_pool3d(cores[None].float(), 2, ceil_mode=True)[0] > 0
    within = F.max_pool3d(inside[None, None].float(), 2, ceil_mode=True)[0, 0] > 0
    cost = torch.stack([_window(small, within, core, NEIGHBOURHOOD // 2).square() + STEP for core in seeds])
    cost[:, ~within] = FAR
    distance = torch.full_like(cost, FAR).masked_fill(seeds, 0)
    for _ in range(2 * max(small.shape)):
        closer = torch.minimum(distance, cost + _least_nearby(distance))
        if torch.equal(closer, distance):
            break
        distance = closer
    near = torch.exp(-distance.amin(0))
    return F.interpolate(near[None, None], image.shape, mode="trilinear")[0, 0] * inside


def _least_nearby(values: torch.Tensor) -> torch.Tensor:
    """The smallest value of each voxel and its 26 neighbours, several times as fast as `max_pool3d` gives it."""
    for axis in range(-3, 0):
        least, count = values.clone(), values.shape[axis] - 1
        for there, here in ((0, 1), (1, 0)):
            part = least.narrow(axis, here, count)
            torch.minimum(part, values.narrow(axis, there, count), out=part)
        values = least
    return values


def _window(
    image: torch.Tensor, inside: torch.Tensor, shown: torch.Tensor, neighbourhood: int = NEIGHBOURHOOD
) -> torch.Tensor:
    if not shown.any():
        shown = inside
    box = bounds(shown)
    if box is None:
        return torch.zeros_like(image)
    near = tuple(slice(max(side.start - neighbourhood, 0), side.stop + neighbourhood) for side in box)
    level = torch.from_numpy(image.numpy()[shown.numpy()]).median()
    width = image[near][inside[near]].std(correction=0).clamp(min=LEAST_WIDTH)
    return torch.tanh((image - level) / width) * inside


def _cores(
    prompts: Sequence[Prompt], positive: bool, inside: torch.Tensor, grid: Grid, most: int
) -> list[torch.Tensor]:
    """The middles, bool, of the newest prompts of that sign that lie on the grid and in the scan; the newest first."""
    cores: list[torch.Tensor] = []
    for prompt in reversed(prompts):
        if len(cores) == most:
            break
        if prompt.positive == positive and reaches(prompt, grid):
            drawn = draw([prompt], grid).amax(0) * inside
            if drawn.any():
                cores.append(drawn > 0.5 * drawn.max())
    return cores
