"""Segmentation by clicks without learning, to compare with: graph cut and seeded region growing.

Both see the whole scan on a grid of equal spacing along all axes, both take the intensities at the clicks' balls as
samples, and with both the clicks' own voxels are what the clicks say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from rep3d.interactive.channels import QUANTILES
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.prompts import Prompt, draw

MOST_VOXELS = 500_000  # of the grid: larger scans are seen with less detail
BINS, BIN_WIDTH = 64, 2.0  # of the histograms; standard deviation in bins by which they are smoothed
# numpymaxflow's lamda and sigma, the best of some thirty settings on eight training cases of the hippocampus
SMOOTHNESS, CONTRAST = 10.0, 0.05
# Millimetres from the positive prompts over which likelihoods fall to 1 / e: of the best among forty settings the one
# of the longest reach and the least smoothness, with which larger objects seldom collapse into their clicks.
NEAR, NEAR_SMOOTHNESS, NEAR_CONTRAST = 40.0, 3.0, 0.05
LIMITS = (3.0, 2.5, 2.0, 1.5, 1.0)  # standard deviations that region growing tries

# By these results are told from those of other parameters.
_SIGHT = {"voxels": MOST_VOXELS, "quantiles": QUANTILES}
_HISTOGRAMS = {**_SIGHT, "bins": BINS, "bin width": BIN_WIDTH}
SETTINGS: dict[str, Mapping[str, Any]] = {
    "graph_cut": {**_HISTOGRAMS, "smoothness": SMOOTHNESS, "contrast": CONTRAST},
    "graph_cut_near": {**_HISTOGRAMS, "near": NEAR, "smoothness": NEAR_SMOOTHNESS, "contrast": NEAR_CONTRAST},
    "region_growing": {**_SIGHT, "limits": LIMITS},
}


def graph_cut(
    image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt], previous: torch.Tensor
) -> torch.Tensor:
    """The cheapest cut between positive and negative prompts; needs numpymaxflow, of the extra `label`.

    A voxel's likelihood comes from the histograms of the positive prompts, and of the whole scan with the negative
    ones. Of the cut's parts those remain that hold a positive prompt.

    Arguments and result: `rep3d.evaluation.clicks.Segment`.
    """
    return _cut(image, spacing, prompts, previous, None, SMOOTHNESS, CONTRAST)


def graph_cut_near(
    image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt], previous: torch.Tensor
) -> torch.Tensor:
    """`graph_cut` whose likelihoods fall with the distance from the positive prompts, over `NEAR` millimetres.

    It thus knows something of the size of what is segmented, which the other methods do not.
    """
    return _cut(image, spacing, prompts, previous, NEAR, NEAR_SMOOTHNESS, NEAR_CONTRAST)


def _cut(
    image: torch.Tensor,
    spacing: Sequence[float],
    prompts: Sequence[Prompt],
    previous: torch.Tensor,
    near: float | None,
    smoothness: float,
    contrast: float,
) -> torch.Tensor:
    from numpymaxflow import maxflow_interactive  # not before: it is in an extra

    scan, grid, values, shown, hidden = _seen(image, spacing, prompts)
    if not shown.any():
        return previous
    inside, outside = _histogram(values[shown]), _histogram(values)
    if hidden.any():
        outside = (outside + _histogram(values[hidden])) / 2
    bins = (values * (BINS - 1)).round().astype(int)
    likely = (inside / (inside + outside))[bins]
    if near is not None:
        likely *= np.exp(-ndimage.distance_transform_edt(~shown) * grid.spacing[0] / near)
    probabilities = np.stack([1 - likely, likely]).astype(np.float32)
    seeds = np.stack([hidden, shown]).astype(np.float32)
    cut = maxflow_interactive(values[None].astype(np.float32), probabilities, seeds, smoothness, contrast, 6) > 0.5
    return _answer(cut, grid, scan, shown, prompts)


def region_growing(
    image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt], previous: torch.Tensor
) -> torch.Tensor:
    """What is connected with the positive prompts and alike; needs SimpleITK, of the extras `dicom` and `label`.

    Alike is what lies within some standard deviations of the positive balls' mean: the most of `LIMITS` with which no
    negative prompt is reached. Where one is with the fewest, too, what lies nearer to it than to a positive one is cut
    off. Arguments and result: `rep3d.evaluation.clicks.Segment`.
    """
    import SimpleITK as sitk  # not before: it is in an extra

    scan, grid, values, shown, hidden = _seen(image, spacing, prompts)
    if not shown.any():
        return previous
    mean, deviation = values[shown].mean(), max(values[shown].std(), 0.01)
    volume = sitk.GetImageFromArray(values)
    seeds = [tuple(map(int, voxel[::-1])) for voxel in np.argwhere(shown)]
    for limit in LIMITS:
        low, high = float(mean - limit * deviation), float(mean + limit * deviation)
        grown = sitk.GetArrayFromImage(sitk.ConnectedThreshold(volume, seeds, low, high)) > 0
        if not (grown & hidden).any():
            break
    else:
        nearer = ndimage.distance_transform_edt(~shown) <= ndimage.distance_transform_edt(~hidden)
        grown &= nearer
    return _answer(grown | shown, grid, scan, shown, prompts)


def _seen(
    image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt]
) -> tuple[Grid, Grid, np.ndarray, np.ndarray, np.ndarray]:
    """The scan's voxels, the grid, on it the image from 0 to 1 and the balls of positive and of negative prompts."""
    scan = Grid.of_scan(image.shape, spacing)
    grid = _whole(scan)
    values = resample(image, scan, grid).numpy()
    low, high = np.quantile(values, QUANTILES)
    values = (np.clip(values, low, high) - low) / max(high - low, 1e-12)
    positive, negative = (draw(prompts, grid) > 0).numpy()
    return scan, grid, values, positive & ~negative, negative & ~positive


def _whole(scan: Grid) -> Grid:
    """The whole scan in voxels of equal edges: the scan's finest, or larger ones where those are too many."""
    edge = max(min(scan.spacing), (math.prod(scan.extent) / MOST_VOXELS) ** (1 / 3))
    shape = [max(1, math.ceil(extent / edge - 1e-6)) for extent in scan.extent]
    return Grid(tuple((edge - s) / 2 for s in scan.spacing), (edge,) * 3, tuple(shape))  # type: ignore[arg-type]


def _histogram(values: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(values, BINS, (0, 1))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), BIN_WIDTH, mode="nearest") + 1e-6 * len(values)
    return smooth / smooth.sum()


def _answer(mask: np.ndarray, grid: Grid, scan: Grid, shown: np.ndarray, prompts: Sequence[Prompt]) -> torch.Tensor:
    """On the scan, without parts that hold no positive prompt, and with what the points say."""
    labels, _ = ndimage.label(mask)
    kept = np.isin(labels, np.setdiff1d(labels[shown], 0))
    answer = resample(torch.from_numpy(kept), grid, scan) >= 0.5
    for prompt in prompts:
        if prompt.kind in ("point", "scribble"):
            for position in prompt.positions:
                answer[scan.voxel(position)] = prompt.positive
    return answer
