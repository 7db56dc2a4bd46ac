"""A picture of cases of a data set: a slice of each, and the same with the outlines of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from rep3d.evaluation.montage import LABEL_COLOURS
from rep3d.evaluation.pictures import save_picture

TILE = 1.6  # inches
COLUMNS = 4  # cases in a row
GRAYS = colormaps["gray"].resampled(24)  # enough for the eye, and noise takes less space


def draw_gallery(cases: Sequence[tuple[Path, Path]], path: str | Path) -> Path:
    """Draw each case's sagittal slice with most labels, as a square, and return the path of the PNG.

    Args:
        cases: NIfTI files of image and label, (D, H, W), of one grid.
        path: of the PNG.
    """
    rows = -(-len(cases) // COLUMNS)
    figure = Figure((2 * COLUMNS * TILE, rows * TILE), dpi=100)
    tiles = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, 0.03, 0.03)
    for tile in tiles.flat:
        tile.set_axis_off()
    for index, pair in enumerate(cases):
        row, column = divmod(index, COLUMNS)
        image, label = map(_voxels, pair)
        _draw(tiles[row, 2 * column : 2 * column + 2], image, label)
    return save_picture(figure, path)


def _voxels(path: Path) -> np.ndarray:
    volume: Any = nib.load(path)  # nibabel has no types
    return np.asanyarray(volume.dataobj)


def _draw(tiles: np.ndarray, image: np.ndarray, label: np.ndarray) -> None:
    index = int(np.argmax([len(np.unique(ids)) for ids in label]))
    pixels, ids = image[index].T[::-1], label[index].T[::-1]
    low, high = np.percentile(pixels, (1, 99))
    for tile in tiles:
        tile.imshow(pixels, GRAYS, vmin=low, vmax=max(high, low + 1), interpolation="nearest", aspect="auto")
    for i in np.unique(ids[ids > 0]):
        tiles[1].contour(ids == i, [0.5], colors=[LABEL_COLOURS[i % len(LABEL_COLOURS)]], linewidths=0.8)
