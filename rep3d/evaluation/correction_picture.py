"""Three planes of a scan through the newest prompt, with the mask and all prompts on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from rep3d.evaluation.click_pictures import MARKERS, MASK, NEGATIVE, POSITIVE
from rep3d.evaluation.montage import PLANES
from rep3d.evaluation.pictures import save_picture
from rep3d.interactive.prompts import Prompt

WIDTH = 12.0  # inches of all panels, and their greatest height
LEAST_COLUMN, GAP, ABOVE, BELOW = 1.8, 0.15, 0.3, 0.6  # inches round them, for what is written there
LARGE, SMALL = 9, 5  # of prompts in a plane, and of those before or behind it
WINDOW = (1, 99)  # percentiles of a slice that are black and white


def draw_planes(
    image: torch.Tensor, affine: np.ndarray, mask: torch.Tensor, prompts: Sequence[Prompt], path: Path
) -> Path:
    """Draw the axial, the coronal and the sagittal plane, and return the path of the PNG.

    The mask is blue; positive prompts are yellow circles and solid boxes, negative ones red crosses and dashed boxes:
    large where they lie in the plane, small where they lie before or behind it. The patient's right, in the sagittal
    plane the front, is on the left.

    Args:
        image: (D, H, W), of any orientation.
        affine: (4, 4), from its voxels to RAS millimetres.
        mask: (D, H, W) of bool.
        prompts: oldest first; their positions are millimetres along the axes of `image`.
        path: of the PNG.
    """
    sizes = nib.affines.voxel_sizes(affine)
    to_ras = nib.orientations.io_orientation(affine)
    voxels, shown = (nib.orientations.apply_orientation(one.numpy(), to_ras) for one in (image, mask))
    places = [_reoriented(np.array(prompt.positions) / sizes, to_ras, image.shape) for prompt in prompts]
    spacing = _reordered(sizes, to_ras)
    centre = np.clip(np.round(places[-1].mean(0)).astype(int), 0, np.array(voxels.shape) - 1)
    planes = list(reversed(PLANES.items()))
    extent = np.array(voxels.shape) * spacing  # millimetres
    figure, panels = panels_of([tuple(extent[list(in_plane(axis))]) for _, axis in planes])
    for axes, (name, axis) in zip(panels, planes, strict=True):
        _draw_slice(axes, voxels, shown, axis, int(centre[axis]))
        for prompt, place in zip(prompts, places, strict=True):
            _draw_prompt(axes, prompt, place, voxels.shape, axis, int(centre[axis]))
        axes.set_title(f"{name}, slice {centre[axis] + 1} of {voxels.shape[axis]}", fontsize=9)
        axes.set_xlabel("front on the left" if name == "sagittal" else "right on the left", fontsize=8)
    figure.legend(handles=_legend(), loc="lower center", ncols=4, frameon=False, fontsize=8)
    return save_picture(figure, path)


def panels_of(sizes: Sequence[tuple[float, float]], below: float = BELOW) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of these millimetres across and up, of which each is as long in all panels.

    Args:
        sizes: (across, up) of each panel.
        below: inches under the panels, for a legend.
    """
    inches = min(WIDTH / sum(across for across, _ in sizes), WIDTH / max(up for _, up in sizes))  # of a millimetre
    columns = [max(across * inches, LEAST_COLUMN) + GAP for across, _ in sizes]
    width, height = sum(columns), max(up for _, up in sizes) * inches + ABOVE + below
    figure = Figure((width, height), dpi=110)
    panels, left = [], 0.0
    for (across, up), column in zip(sizes, columns, strict=True):
        x = left + (column - across * inches) / 2
        y = below + (height - ABOVE - below - up * inches) / 2
        panels.append(figure.add_axes((x / width, y / height, across * inches / width, up * inches / height)))
        left += column
    return figure, panels


def _reordered(values: np.ndarray, to_ras: np.ndarray) -> np.ndarray:
    """What belongs to the axes of a scan, in the order of the RAS axes."""
    ordered = np.empty_like(values)
    ordered[..., to_ras[:, 0].astype(int)] = values
    return ordered


def _reoriented(voxels: np.ndarray, to_ras: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Positions (n, 3) in voxels, after `nibabel.orientations.apply_orientation`."""
    return _reordered(np.where(to_ras[:, 1] > 0, voxels, np.array(shape) - 1 - voxels), to_ras)


def _draw_slice(axes: Axes, image: np.ndarray, mask: np.ndarray, axis: int, index: int) -> None:
    values, inside = (np.take(volume, index, axis).T[::-1, ::-1] for volume in (image, mask))
    low, high = np.percentile(values, WINDOW)
    axes.imshow(values, "gray", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
    axes.imshow(inside[..., None] * to_rgba(MASK, 0.4), aspect="auto")
    if inside.any():
        axes.contour(np.pad(inside, 1), [0.5], colors=[MASK], linewidths=1.1,
                     extent=(-1, inside.shape[1], -1, inside.shape[0]))  # fmt: skip
    axes.set(xticks=[], yticks=[], xlim=(-0.5, inside.shape[1] - 0.5), ylim=(inside.shape[0] - 0.5, -0.5))


def _draw_prompt(axes: Axes, prompt: Prompt, place: np.ndarray, shape: Sequence[int], axis: int, index: int) -> None:
    across, up = in_plane(axis)
    x, y = shape[across] - 1 - place[:, across], shape[up] - 1 - place[:, up]
    cut = place[:, axis].min() - 0.5 <= index <= place[:, axis].max() + 0.5
    colour = POSITIVE if prompt.positive else NEGATIVE
    if prompt.kind == "box":
        style = "-" if prompt.positive else "--"
        corner, extent = (x.min(), y.min()), (np.ptp(x), np.ptp(y))
        axes.add_patch(Rectangle(corner, *extent, fill=False, edgecolor=colour, linestyle=style, linewidth=1 + cut))
    else:
        axes.plot(
            x, y, MARKERS[prompt.positive], color=colour, markeredgecolor="black", markersize=LARGE if cut else SMALL
        )


def in_plane(axis: int) -> tuple[int, int]:
    """The axes that go across the picture and up."""
    across, up = (other for other in range(3) if other != axis)
    return across, up


def _legend() -> list[Line2D]:
    marks = {"linestyle": "none", "markeredgecolor": "black"}
    return [
        Line2D([], [], color=MASK, marker="s", linestyle="none", label="mask"),
        Line2D([], [], color=POSITIVE, marker=MARKERS[True], label="foreground", **marks),  # type: ignore[arg-type]
        Line2D([], [], color=NEGATIVE, marker=MARKERS[False], label="background", **marks),  # type: ignore[arg-type]
        Line2D([], [], color="none", marker=MARKERS[True], markersize=SMALL, label="small: in another slice", **marks),  # type: ignore[arg-type]
    ]
