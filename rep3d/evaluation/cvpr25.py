"""The protocol of the challenge "Foundation Models for Interactive 3D Biomedical Image Segmentation" of CVPR 2025.

A case is a .npz file with "imgs" and "gts", label ids, of one shape, "spacing" and in most cases "boxes", one for each
id. The first answer is to the boxes; five more follow a click for each id, which goes to the largest error of what was
answered before. Axes and spacing are taken as they stand in the file, as the challenge's own script does
(JunMa11/CVPR-MedSegFMCompetition at 748e862, CVPR25_iter_eval.py).
"""

from __future__ import annotations

import pickle
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from scipy import ndimage

from rep3d.evaluation.clicks import Segment
from rep3d.interactive.prompts import Prompt, box, point
from rep3d.interactive.voxel_regions import TOUCHING, region_of

CLICKS = 5
SEED = 42  # of the draw among the deepest voxels
TOLERANCE = 2.0  # mm, of the surface Dice
LEAST_DICE = 0.2  # the surface Dice counts as 0 up to it
MOST_VOXELS = 60_000_000  # of an error's box: larger ones are measured at half the resolution
SECONDS = 90.0  # for each id and all answers: a case that takes longer scores 0

COLUMNS = ("dsc_auc", "nsd_auc", "dsc_final", "nsd_final")
CORNERS = ("z_min", "z_max", "z_mid_y_min", "z_mid_y_max", "z_mid_x_min", "z_mid_x_max")


@dataclass(frozen=True)
class ChallengeCase:
    """A case as its file has it.

    Args:
        name: of the file, without suffix.
        image: (Z, Y, X) of float32.
        truth: label ids, (Z, Y, X) of int64.
        spacing: millimetres, in the order of the file.
        boxes: of the ids in ascending order, see `CORNERS`; None: the case has none.
    """

    name: str
    image: torch.Tensor
    truth: torch.Tensor
    spacing: tuple[float, float, float]
    boxes: Sequence[dict[str, int]] | None

    @property
    def ids(self) -> list[int]:
        """The labels."""
        return [i for i in self.truth.unique().tolist() if i != 0]


@dataclass(frozen=True)
class Scores:
    """Of a case.

    Args:
        dsc, nsd: means over labels after the boxes, 0 where there are none, and after each click.
        seconds: of all answers.
        labels: their number.
    """

    dsc: list[float]
    nsd: list[float]
    seconds: float
    labels: int

    @property
    def in_time(self) -> bool:
        return self.seconds <= SECONDS * self.labels

    @property
    def summary(self) -> dict[str, float]:
        """By `COLUMNS`: the areas below the curves of the clicks, from 0 to 4, and the last scores."""
        dsc, nsd = (np.array(scores[-CLICKS:]) for scores in (self.dsc, self.nsd))
        areas = [float(((scores[1:] + scores[:-1]) / 2).sum()) for scores in (dsc, nsd)]
        return dict(zip(COLUMNS, [*areas, float(dsc[-1]), float(nsd[-1])], strict=True))


def read_case(path: Path) -> ChallengeCase:
    """Read a case.

    Raises:
        ValueError: names the file and what was expected.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ("imgs", "gts", "spacing") if key not in file.files]
            if missing:
                raise ValueError(f"has no {missing[0]!r}, only {', '.join(file.files)}")
            image, truth, spacing = file["imgs"], file["gts"], file["spacing"]
            has_boxes = "boxes" in file.files
        boxes = _read_boxes(path) if has_boxes else None
    except (ValueError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path}: no case of the challenge: {error}") from error
    _check(path, image, truth, spacing, boxes)
    z, y, x = map(float, spacing)
    image = torch.from_numpy(image.astype(np.float32))
    return ChallengeCase(path.stem, image, torch.from_numpy(truth.astype(np.int64)), (z, y, x), boxes)


def _check(path: Path, image: np.ndarray, truth: np.ndarray, spacing: np.ndarray, boxes: Any) -> None:
    problem = ""
    if image.ndim != 3 or image.shape != truth.shape:
        problem = f'"imgs" has the shape {image.shape}, "gts" {truth.shape}, expected the same three axes'
    elif truth.dtype.kind not in "iu" or not truth.any() or truth.min() < 0:
        problem = f'"gts" of {truth.dtype} holds no label ids'
    elif np.shape(spacing) != (3,) or not (np.asarray(spacing, dtype=float) > 0).all():
        problem = f'"spacing" is {spacing}, expected three positive numbers of millimetres'
    elif not np.isfinite(image).all():
        problem = '"imgs" holds values that are NaN or infinite'
    elif boxes is not None:
        count = len(np.unique(truth[truth > 0]))
        if len(boxes) != count or not all(isinstance(one, dict) and set(CORNERS) <= set(one) for one in boxes):
            problem = f'"boxes" are {boxes}, expected one with {", ".join(CORNERS)} for each of {count} label(s)'
    if problem:
        raise ValueError(f"{path}: {problem}")


def _read_boxes(path: Path) -> list[Any]:
    """The pickled array "boxes", of nothing but dictionaries of numbers: other pickles could run programs."""
    with zipfile.ZipFile(path) as archive, archive.open("boxes.npy") as file:
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        version, _ = np.lib.format.read_magic(file)
        read_header[version](file)
        return list(_NumbersOnly(file).load())


class _NumbersOnly(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'"boxes" holds {module}.{name}, expected dictionaries of numbers')


def evaluate_case(case: ChallengeCase, segment: Segment) -> Scores:
    """Answer to the boxes, where there are any, and to five clicks for each label.

    Where two labels claim a voxel, the one that held it before keeps it, and otherwise the lower id has it.
    """
    prompts: dict[int, list[Prompt]] = {i: [] for i in case.ids}
    answer = torch.zeros_like(case.truth)
    dsc, nsd, seconds = [], [], 0.0
    for step in range(CLICKS + 1):
        if step == 0 and case.boxes is None:
            dsc.append(0.0)
            nsd.append(0.0)
            continue
        new = _box_prompts(case) if step == 0 else _clicks(case, answer)
        for i, prompt in new.items():
            prompts[i].append(prompt)
        begin = time.perf_counter()
        masks = {i: segment(case.image, case.spacing, prompts[i], answer == i) for i in new}
        answer = _merge(answer, masks)
        seconds += time.perf_counter() - begin
        dsc.append(mean_dice(case.truth, answer))
        enough = dsc[-1] > LEAST_DICE
        nsd.append(mean_surface_dice(case.truth, answer, case.spacing) if enough else 0.0)
    return Scores(dsc, nsd, seconds, len(case.ids))


def _merge(answer: torch.Tensor, masks: dict[int, torch.Tensor]) -> torch.Tensor:
    merged = answer.clone()
    for i, mask in masks.items():
        merged[(answer == i) & ~mask] = 0
    for i, mask in masks.items():
        merged[mask & (merged == 0)] = i
    return merged


def _box_prompts(case: ChallengeCase) -> dict[int, Prompt]:
    assert case.boxes is not None
    prompts = {}
    for i, corners in zip(case.ids, case.boxes, strict=True):
        z, last_z, y, last_y, x, last_x = (int(corners[name]) for name in CORNERS)
        prompts[i] = box((z, y, x), (last_z, last_y, last_x), case.spacing)
    return prompts


def _clicks(case: ChallengeCase, answer: torch.Tensor) -> dict[int, Prompt]:
    """The next click of each label that is not perfect yet."""
    clicks = {}
    for i in case.ids:
        truth = (case.truth == i).numpy()
        voxel = next_click(truth, (answer == i).numpy())
        if voxel is not None:
            clicks[i] = point(voxel, case.spacing, bool(truth[voxel]))
    return clicks


def next_click(truth: np.ndarray, mask: np.ndarray, most_voxels: int = MOST_VOXELS) -> tuple[int, int, int] | None:
    """The voxel that the challenge's user clicks: the deepest one, in voxels, of the largest error.

    Missed voxels and those that are too many make one error where they touch, with 26 neighbours. Of errors of one size
    the first counts; among the deepest voxels one is drawn, with the same seed each time.

    Args:
        truth, mask: (D, H, W) of bool.
        most_voxels: of the error's box with its margin, before it is measured at half the resolution.

    Returns:
        None where nothing is wrong.
    """
    labels, count = ndimage.label(truth != mask, TOUCHING)
    if not count:
        return None
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
    region = region_of(labels == largest)
    assert region is not None
    depth = _depth(region.inside, most_voxels) * region.inside
    deepest = np.argwhere(depth == depth.max() if depth.any() else region.inside)
    i, j, k = deepest[np.random.RandomState(SEED).choice(len(deepest))] + region.start
    return int(i), int(j), int(k)


def _depth(inside: np.ndarray, most_voxels: int) -> np.ndarray:
    """Voxels to where the error ends, with a quarter of its size, or a voxel, around it."""
    margins = [max(1, int(size * 0.25)) for size in inside.shape]
    padded = np.pad(inside, [(margin, margin) for margin in margins])
    if padded.size > most_voxels:
        even = np.pad(padded, [(0, size % 2) for size in padded.shape])
        blocks = even.reshape([length for size in even.shape for length in (size // 2, 2)])
        depth = ndimage.distance_transform_edt(blocks.max(axis=(1, 3, 5)))
        depth = depth.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    else:
        depth = ndimage.distance_transform_edt(padded)
    return depth[tuple(slice(margin, margin + size) for margin, size in zip(margins, inside.shape, strict=True))]


def mean_dice(truth: torch.Tensor, answer: torch.Tensor) -> float:
    """Over the labels of the truth."""
    dices = []
    for i in truth.unique().tolist():
        if i != 0:
            one, other = truth == i, answer == i
            dices.append(2 * int((one & other).sum()) / (int(one.sum()) + int(other.sum())))
    return float(np.mean(dices))


def mean_surface_dice(truth: torch.Tensor, answer: torch.Tensor, spacing: Sequence[float]) -> float:
    """Share of the surfaces' areas within 2 mm of each other; over the labels of the truth."""
    dices = []
    for i in truth.unique().tolist():
        if i != 0:
            one, other = truth == i, answer == i
            region = region_of((one | other).numpy())
            assert region is not None
            part = tuple(slice(a, a + n) for a, n in zip(region.start, region.inside.shape, strict=True))
            found, expected = (torch.nn.functional.pad(mask[part], (1,) * 6)[None, None] for mask in (other, one))
            share = compute_surface_dice(
                found, expected, [TOLERANCE], include_background=True, spacing=list(spacing), use_subvoxels=True
            )
            dices.append(float(share) if other.any() else 0.0)
    return float(np.mean(dices))
