"""Pictures of segmentations: a slice of each case with image, truth, prediction and where these differ."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rep3d.evaluation.okabe_ito import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW
from rep3d.evaluation.pictures import existing_file, save_picture

RED, GRAY = "#FF2020", "#999999"
LABEL_COLOURS = [ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE]
LABEL_COLOURS += "#7CFC5A #FF3B5C #9A7BFF #8B5A2B #00E5D4 #FFC9B5 #C026D3 #A3B18A".split()  # distinct on a gray image
COLUMNS = ("image", "truth", "prediction", "difference")
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the RAS axis that is perpendicular to the plane
AXIS = PLANES["axial"]  # of the slices


Volume = Any  # nibabel's image, in RAS order, of which the library has no types


@dataclass(frozen=True)
class Row:
    """What is drawn of a case: slices, upright, as on a screen.

    Args:
        title: for people.
        image: intensities, (height, width).
        truth: label ids, likewise, or None.
        prediction: label ids, likewise.
        aspect: ratio of a pixel's height to its width.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    aspect: float


def overlay_montage(
    cases: Sequence[tuple[str, str | Path, str | Path | None, str | Path]],
    labels: Mapping[int, str],
    path: str | Path,
) -> Path:
    """Draw the axial slice with most labelled voxels of each case, in true proportions, and return the path of the PNG.

    As radiologists do, the patient's right (R) is shown on the left. The Dice is that of the volume, the mean over the
    labels that its truth contains. Red is where truth, outlined in white, and prediction differ.

    Args:
        cases: name and NIfTI files of image, truth or None, and prediction: (D, H, W), or (D, H, W, 1), of one grid,
            in any orientation. The truth chooses the slice; where there is none or it is empty, the prediction.
        labels: names of up to 15 label ids; 0 is background, other ids are drawn in gray.
        path: of the PNG, about 1300 pixels wide.

    Raises:
        ValueError: no cases, no labels or too many of them, or a label map of another grid or of numbers that are not
            whole.
        FileNotFoundError: one of the files is not there.
    """
    names = {i: labels[i] for i in sorted(labels) if i != 0}
    if not 1 <= len(names) <= len(LABEL_COLOURS):
        raise ValueError(f"labels must name 1 to {len(LABEL_COLOURS)} ids other than 0, got {dict(labels)}")
    if not cases:
        raise ValueError("expected cases, got none")
    rows = [_load_row(*case, names=names) for case in cases]
    colours = dict(zip(names, LABEL_COLOURS, strict=False))
    patches = [Patch(color=colours[i], label=name) for i, name in names.items()]
    patches.append(Patch(color=RED, label="difference"))
    per_line = min(len(patches), max(1, 32 * len(COLUMNS) // (6 + max(map(len, names.values())))))
    heights = [row.image.shape[0] / row.image.shape[1] * row.aspect for row in rows]
    height = 2.5 * sum(heights) + 0.25 * math.ceil(len(patches) / per_line) + 0.1 * len(rows) + 0.4  # inches
    figure = Figure((2.5 * len(COLUMNS) + 1.4, height), dpi=115, layout="compressed")
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False, height_ratios=heights)
    for axes, column in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(column, fontsize=11)
    for line, row in zip(grid, rows, strict=True):
        for axes, column in zip(line, COLUMNS, strict=True):
            _draw(axes, column, row, colours)
        line[0].set_ylabel(row.title, rotation=0, ha="right", va="center", fontsize=9)
        mark = line[0].text(0.03, 0.5, "R", transform=line[0].transAxes)
        mark.set(color="white", fontsize=8, va="center", bbox={"color": "black", "pad": 1.5})
    figure.legend(handles=patches, loc="outside lower center", ncols=per_line, frameon=False)
    return save_picture(figure, path)


def _load_row(
    name: str,
    image: str | Path,
    truth: str | Path | None,
    prediction: str | Path,
    *,
    names: Mapping[int, str],
) -> Row:
    """Read a case and choose its slice."""
    scan = _load_canonical(image, f"the image of {name}")
    intensities = _voxels(scan)
    predicted = _load_label(prediction, f"the prediction of {name}", scan, image)
    true = None if truth is None else _load_label(truth, f"the truth of {name}", scan, image)
    index, count = fullest_slice(predicted if true is None or not true.any() else true, AXIS)
    title = f"{textwrap.fill(name, 20)}\nslice {index + 1} of {count}"
    if true is not None:
        title += f"\n{_dice_in_words(true, predicted, names)}"

    def upright(volume: np.ndarray) -> np.ndarray:
        return np.take(volume, index, AXIS).T[::-1, ::-1]

    across, up = (spacing for side, spacing in enumerate(scan.header.get_zooms()[:3]) if side != AXIS)  # mm
    shown = None if true is None else upright(true)
    return Row(title, upright(intensities), shown, upright(predicted), up / across)


def _load_canonical(path: str | Path, what: str) -> Volume:
    return nib.as_closest_canonical(nib.load(existing_file(path, f"{what}, a NIfTI file")))


def _voxels(volume: Volume) -> np.ndarray:
    array = np.asanyarray(volume.dataobj)
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array


def _load_label(path: str | Path, what: str, scan: Volume, image: str | Path) -> np.ndarray:
    """Label ids on the grid of the scan that was read from `image`."""
    label = _load_canonical(path, what)
    ids, shape = _voxels(label), _voxels(scan).shape
    if (ids != np.round(ids)).any():
        raise ValueError(f"{path}: expected label ids, got numbers that are not whole")
    corners = np.array([[0, 0, 0, 1], [*shape[:3], 1]]).T
    shift = np.abs((label.affine - scan.affine) @ corners).max()  # mm
    if ids.ndim != 3 or ids.shape != shape or shift > min(scan.header.get_zooms()[:3]):
        grid = f"the volume and grid of {image}, {shape} in RAS order"
        raise ValueError(f"{path}: expected {grid}, got {ids.shape}, up to {shift:.1f} mm away")
    return ids


def fullest_slice(label: np.ndarray, axis: int) -> tuple[int, int]:
    """The slice with most labelled voxels, the middle one where there are none, and how many there are."""
    counts = np.count_nonzero(label, axis=tuple(side for side in range(3) if side != axis))
    return int(counts.argmax()) if counts.any() else len(counts) // 2, len(counts)


def _dice_in_words(truth: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> str:
    """Of the volume, the mean over the labels that the truth contains."""
    pair = np.stack((truth, prediction))[:, (truth != 0) | (prediction != 0)]
    masks = [pair == i for i in names if i in pair[0]]
    dice = [2 * np.count_nonzero(mask.all(axis=0)) / np.count_nonzero(mask) for mask in masks]
    return f"Dice {np.mean(dice):.3f}" if dice else "no label in truth"


def _draw(axes: Axes, column: str, row: Row, colours: Mapping[int, str]) -> None:
    hidden = row.truth is None and column in ("truth", "difference")
    low, high = np.nanpercentile(row.image, (1, 99))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.imshow(row.image, "gray", vmin=low, vmax=high, aspect=row.aspect, alpha=0.0 if hidden else 1.0)
    axes.autoscale(False)
    if hidden:
        axes.text(0.5, 0.5, "no truth", color=GRAY, ha="center", va="center", transform=axes.transAxes)
        return
    for mask, colour, opacity in _layers(column, row, colours):
        axes.imshow(mask[..., None] * to_rgba(colour, opacity), aspect=row.aspect)
        if mask.any():  # the border of background lets outlines close at the edge of the image
            extent = (-1, mask.shape[1], -1, mask.shape[0])
            axes.contour(np.pad(mask, 1), [0.5], colors=[colour], linewidths=1, extent=extent)


def _layers(column: str, row: Row, colours: Mapping[int, str]) -> list[tuple[np.ndarray, str, float]]:
    """What lies over the image: mask, colour, opacity."""
    if column == "image":
        return []
    if column == "prediction":
        return _layers_of_label(row.prediction, colours)
    assert row.truth is not None
    if column == "truth":
        return _layers_of_label(row.truth, colours)
    return [(row.prediction != row.truth, RED, 0.5), (row.truth != 0, "white", 0.0)]


def _layers_of_label(label: np.ndarray, colours: Mapping[int, str]) -> list[tuple[np.ndarray, str, float]]:
    return [(label == i, colours.get(i, GRAY), 0.4) for i in np.unique(label) if i != 0]
