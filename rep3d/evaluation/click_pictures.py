"""A strip of one case: image, truth, prompts, and the mask after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from rep3d.evaluation.clicks import dice
from rep3d.evaluation.montage import PLANES
from rep3d.evaluation.okabe_ito import SKY_BLUE, VERMILION, YELLOW
from rep3d.evaluation.pictures import save_picture
from rep3d.interactive.prompts import Prompt

MASK, POSITIVE, NEGATIVE = SKY_BLUE, YELLOW, VERMILION
MARKERS = {True: "o", False: "X"}  # colour alone is not enough
MARGIN = 12.0  # millimetres round what is shown
WIDTH = 2.1  # inches of a panel

State = tuple[Sequence[Prompt], torch.Tensor]  # all prompts so far, and the mask after them


def click_strip(
    image: torch.Tensor,
    spacing: Sequence[float],
    truth: torch.Tensor,
    states: Sequence[State],
    path: Path,
    *,
    plane: str = "axial",
    title: str = "",
) -> Path:
    """Draw a column per state, and return the path of the PNG.

    The upper row shows the slice with most of the truth, the lower one that of the newest prompt. Truth is outlined in
    white, the mask is blue; positive prompts are yellow circles and solid lines, negative ones red crosses and dashed
    lines. The patient's right, in sagittal slices the front, is on the left.

    Args:
        image: (D, H, W), with axes to the right, to the front and up.
        spacing: millimetres between voxels along each axis.
        truth: (D, H, W) of bool.
        states: at the start, and after each prompt.
        path: of the PNG.
        plane: "axial", "coronal" or "sagittal".
        title: above all.

    Raises:
        ValueError: no such plane, or no states.
    """
    if plane not in PLANES or not states:
        raise ValueError(f"expected states and one of {', '.join(PLANES)}, got {len(states)} state(s), {plane!r}")
    axis = PLANES[plane]
    window = _window(truth | torch.stack([mask for _, mask in states]).any(0), spacing, axis)
    fullest = int(truth.sum(dim=[other for other in range(3) if other != axis]).argmax())
    height = WIDTH * _shape(window, axis)[0] / _shape(window, axis)[1] * _aspect(spacing, axis)
    figure = Figure((WIDTH * len(states), 2 * height + 0.9), dpi=110, layout="compressed")
    grid = figure.subplots(2, len(states), squeeze=False)
    for column, (prompts, mask) in zip(grid.T, states, strict=True):
        newest = round(np.mean([p[axis] for p in prompts[-1].positions]) / spacing[axis]) if prompts else fullest
        for axes, index in zip(column, (fullest, newest), strict=True):
            _draw(axes, image, spacing, truth, mask, prompts, axis, index, window)
        count = f"{len(prompts)} prompt" + "s" * (len(prompts) != 1)
        column[0].set_title(f"{count}, Dice {dice(mask, truth):.2f}", fontsize=9)
    grid[0, 0].set_ylabel("most of the label", fontsize=8)
    grid[1, 0].set_ylabel("newest prompt", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save_picture(figure, path)


def _legend() -> list[Line2D]:
    shown = {"markeredgecolor": "black", "linestyle": "none", "markersize": 7}
    return [
        Line2D([], [], color="#808080", marker="s", markerfacecolor="none", linestyle="none", label="truth (white)"),
        Line2D([], [], color=MASK, marker="s", linestyle="none", label="mask"),
        Line2D([], [], color=POSITIVE, marker=MARKERS[True], label="positive", **shown),  # type: ignore[arg-type]
        Line2D([], [], color=NEGATIVE, marker=MARKERS[False], label="negative", **shown),  # type: ignore[arg-type]
    ]


def _window(mask: torch.Tensor, spacing: Sequence[float], axis: int) -> tuple[slice, ...]:
    """The part of each slice that is shown: what is true in any of them, and a margin."""
    sides = []
    for other in range(3):
        indices = mask.any(dim=tuple(one for one in range(3) if one != other)).nonzero().flatten().tolist()
        margin = round(MARGIN / spacing[other])
        first = max(0, indices[0] - margin) if indices else 0
        last = min(mask.shape[other], indices[-1] + 1 + margin) if indices else mask.shape[other]
        sides.append(slice(None) if other == axis else slice(first, last))
    return tuple(sides)


def _shape(window: Sequence[slice], axis: int) -> tuple[int, int]:
    """Rows and columns of what is shown."""
    across, up = (side for other, side in enumerate(window) if other != axis)
    return up.stop - up.start, across.stop - across.start


def _aspect(spacing: Sequence[float], axis: int) -> float:
    across, up = (one for other, one in enumerate(spacing) if other != axis)
    return up / across


def _draw(
    axes: Axes,
    image: torch.Tensor,
    spacing: Sequence[float],
    truth: torch.Tensor,
    mask: torch.Tensor,
    prompts: Sequence[Prompt],
    axis: int,
    index: int,
    window: tuple[slice, ...],
) -> None:
    def upright(volume: torch.Tensor) -> np.ndarray:
        return volume[window].select(axis, index).numpy().T[::-1, ::-1]

    shown = upright(image)
    low, high = np.percentile(shown, (1, 99))
    aspect = _aspect(spacing, axis)
    axes.imshow(shown, "gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    axes.autoscale(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.imshow(upright(mask)[..., None] * to_rgba(MASK, 0.45), aspect=aspect)
    for voxels, colour in ((upright(mask), MASK), (upright(truth), "white")):
        if voxels.any():
            extent = (-1, voxels.shape[1], -1, voxels.shape[0])
            axes.contour(np.pad(voxels, 1), [0.5], colors=[colour], linewidths=1.1, extent=extent)
    for prompt in prompts:
        low_corner, high_corner = (corner[axis] / spacing[axis] for corner in prompt.bounds)
        if low_corner - 0.5 <= index <= high_corner + 0.5:
            _draw_prompt(axes, prompt, spacing, axis, window, newest=prompt is prompts[-1])


def _draw_prompt(
    axes: Axes, prompt: Prompt, spacing: Sequence[float], axis: int, window: tuple[slice, ...], *, newest: bool
) -> None:
    colour = POSITIVE if prompt.positive else NEGATIVE
    across, up = (other for other in range(3) if other != axis)
    positions = np.array(prompt.positions) / spacing
    x = window[across].stop - 1 - positions[:, across]
    y = window[up].stop - 1 - positions[:, up]
    if prompt.kind in ("point", "scribble"):
        size = 9 if newest and prompt.kind == "point" else 5
        axes.plot(x, y, MARKERS[prompt.positive], color=colour, markeredgecolor="black", markersize=size)
        return
    corners = np.stack([x, y], 1)
    if prompt.kind == "box":
        (left, top), (right, bottom) = corners
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    style = "-" if prompt.positive else "--"
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=colour, linestyle=style, linewidth=1.8))
