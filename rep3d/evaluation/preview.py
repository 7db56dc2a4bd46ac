"""A look at a label map: three planes of the scan with the labels on them, and all of it as seen from the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rep3d.evaluation.correction_picture import WINDOW, in_plane, panels_of
from rep3d.evaluation.montage import PLANES, fullest_slice
from rep3d.evaluation.pictures import save_picture
from rep3d.io.colors import distinct_colors

FRONT = PLANES["coronal"]  # the axis that the projection looks along
OPACITY, PROJECTED_OPACITY = 0.4, 0.75
FAR = 0.45  # of its brightness keeps what lies at the back
LEGEND_COLUMN, LEGEND_LINE, NOTES = 2.2, 0.17, 0.35  # inches
SHOWN = 40  # labels in the legend, the largest ones


def draw_preview(
    image: np.ndarray,
    affine: np.ndarray,
    voxels: np.ndarray,
    labels: Mapping[str, int],
    volumes: Mapping[str, float],
    path: Path,
    *,
    window: Sequence[float] | None = None,
) -> Path:
    """Draw the axial, coronal and sagittal slices with most labelled voxels, and a projection; the path of the PNG.

    A millimetre is as long in all panels. The colours are those of `.seg.nrrd` files. The projection is the mean of the
    intensities, with the labels that are met first from the front, the darker the further away. The patient's right, in
    the sagittal plane the front, is on the left.

    Args:
        image: (D, H, W), of any orientation.
        affine: (4, 4), from its voxels to RAS millimetres.
        voxels: (D, H, W) label ids.
        labels: ids by name, without the background.
        volumes: millilitres by name, for the legend.
        path: of the PNG.
        window: intensities that are black and white; None: percentiles of each slice.
    """
    to_ras = nib.orientations.io_orientation(affine)
    scan, ids = (nib.orientations.apply_orientation(one, to_ras) for one in (image, voxels))
    spacing = np.empty(3)
    spacing[to_ras[:, 0].astype(int)] = nib.affines.voxel_sizes(affine)
    colors = {labels[name]: color for name, color in distinct_colors(labels).items()}
    shown = sorted((name for name in labels if volumes.get(name)), key=lambda name: -volumes[name])[:SHOWN]
    planes = [*reversed(PLANES.items()), ("from the front", FRONT)]
    extent = np.array(scan.shape) * spacing  # millimetres
    columns = max(1, int(12 / LEGEND_COLUMN))
    below = NOTES + LEGEND_LINE * max(1, math.ceil(len(shown) / columns))
    figure, panels = panels_of([tuple(extent[list(in_plane(axis))]) for _, axis in planes], below)
    for axes, (name, axis) in zip(panels[:-1], planes[:-1], strict=True):
        index, count = fullest_slice(ids, axis)
        overlay = _colored(np.take(ids, index, axis), colors, OPACITY)
        _draw(axes, np.take(scan, index, axis), overlay, window)
        axes.set_title(f"{name}, slice {index + 1} of {count}", fontsize=9)
        axes.set_xlabel("front on the left" if name == "sagittal" else "right on the left", fontsize=8)
    _draw(panels[-1], scan.mean(FRONT, dtype=np.float32), _seen_from_the_front(ids, colors), None)
    panels[-1].set_title("from the front", fontsize=9)
    panels[-1].set_xlabel("right on the left", fontsize=8)
    _add_legend(figure, [(f"{name}, {_millilitres(volumes[name])}", colors[labels[name]]) for name in shown], columns)
    return save_picture(figure, path)


def _millilitres(volume: float) -> str:
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.3g} ml"


def _colored(ids: np.ndarray, colors: Mapping[int, tuple[float, float, float]], opacity: float) -> np.ndarray:
    """Label ids (...) as colours with opacity, (..., 4); the background is transparent."""
    table = np.zeros((256, 4), np.float32)
    for index, color in colors.items():
        table[index] = to_rgba(color, opacity)
    return table[ids]


def _seen_from_the_front(ids: np.ndarray, colors: Mapping[int, tuple[float, float, float]]) -> np.ndarray:
    """The first label along each line of sight, (D, W, 4)."""
    from_front = np.flip(ids, FRONT)
    depth = (from_front != 0).argmax(FRONT)
    first = np.take_along_axis(from_front, np.expand_dims(depth, FRONT), FRONT).squeeze(FRONT)
    overlay = _colored(first, colors, PROJECTED_OPACITY)
    near, far = (depth[first != 0].min(), depth[first != 0].max()) if first.any() else (0, 0)
    overlay[..., :3] *= 1 - (1 - FAR) * ((depth - near) / max(1, far - near)).clip(0, 1)[..., None]
    return overlay


def _draw(axes: Axes, values: np.ndarray, overlay: np.ndarray, window: Sequence[float] | None) -> None:
    """A plane (across, up), upright, with colours over it."""
    low, high = window or np.nanpercentile(values, WINDOW)
    axes.imshow(values.T[::-1, ::-1], "gray", vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
    axes.imshow(overlay.swapaxes(0, 1)[::-1, ::-1], aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _add_legend(figure: Figure, entries: Sequence[tuple[str, tuple[float, float, float]]], columns: int) -> None:
    if not entries:
        figure.text(0.5, 0.02, "no label was found", ha="center", fontsize=8)
        return
    patches = [Patch(color=color, label=text) for text, color in entries]
    figure.legend(handles=patches, loc="lower center", ncols=min(columns, len(patches)), frameon=False, fontsize=8)
