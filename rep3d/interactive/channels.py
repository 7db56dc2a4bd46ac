"""What the network sees of a working grid: the image as prompts and mask bring it out, and the prompts themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, draw

CHANNELS = ("image", "previous mask", "positive prompts", "negative prompts", "taken")
QUANTILES = (0.005, 0.995)  # of the image within which it is clipped
NEIGHBOURHOOD = 12  # voxels round the newest positive prompt whose spread is the width of the window
LEAST_WIDTH = 0.1  # of the window, in standard deviations of the whole image


def input_channels(
    image: torch.Tensor,
    inside: torch.Tensor,
    mask: torch.Tensor,
    prompts: Sequence[Prompt],
    taken: torch.Tensor,
    grid: Grid,
) -> torch.Tensor:
    """The five `CHANNELS` of a working grid, (5, *grid.shape) of float32.

    Args:
        image: on the working grid, as `standardize` gives it.
        inside: where the grid lies within the scan, bool.
        mask, taken: on the working grid, bool.
        prompts: oldest first.
        grid: the working grid.
    """
    return torch.cat([focus(image, inside, mask, prompts, grid)[None], mask[None], draw(prompts, grid), taken[None]])


def standardize(image: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Clipped to `QUANTILES`, with mean 0 and standard deviation 1 inside the scan, and 0 outside."""
    values = image[inside]
    if not values.numel():
        return torch.zeros_like(image)
    low, high = torch.quantile(values[:: max(1, values.numel() // 100_000)], torch.tensor(QUANTILES)).tolist()
    values = values.clamp(low, high)
    deviation = values.std(correction=0).clamp(min=1e-6 * (high - low) + 1e-12)
    return (image.clamp(low, high) - values.mean()) / deviation * inside


def focus(
    image: torch.Tensor, inside: torch.Tensor, mask: torch.Tensor, prompts: Sequence[Prompt], grid: Grid
) -> torch.Tensor:
    """The image in the window that a radiologist would choose: its level at what is shown, as wide as what is near.

    What looks like the newest positive prompt, or without one like the mask, is near 0; what does not tends to -1 or 1.
    """
    shown = _shown(mask, prompts, grid) & inside
    if not shown.any():
        shown = inside
    if not shown.any():
        return torch.zeros_like(image)
    near = tuple(
        slice(max(int(indices.min()) - NEIGHBOURHOOD, 0), int(indices.max()) + NEIGHBOURHOOD + 1)
        for indices in shown.nonzero().unbind(1)
    )
    level = image[shown].median()
    width = image[near][inside[near]].std(correction=0).clamp(min=LEAST_WIDTH)
    return torch.tanh((image - level) / width) * inside


def _shown(mask: torch.Tensor, prompts: Sequence[Prompt], grid: Grid) -> torch.Tensor:
    """The core of the newest positive prompt that lies on the grid; without one, the mask."""
    for prompt in reversed(prompts):
        if prompt.positive:
            drawn = draw([prompt], grid)[0]
            if drawn.any():
                return drawn > 0.5 * drawn.max()
    return mask
