"""Scores of label maps in the grid of the truth, per case and label: `scores.csv`, and their means: `summary.md`.

A label that is absent in truth and prediction has no score and counts in no mean. One that is absent in only one of
them has Dice and surface Dice 0 and, as its 95 % Hausdorff distance, the length of the image's diagonal. Surfaces have
no scores on a grid whose axes are not at right angles.
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import Workflow
from monai.metrics.utils import get_edge_surface_distance

from rep3d.console.tables import markdown_table
from rep3d.data.cases import Item, case_name, case_names, first_file
from rep3d.data.notes import warn_once
from rep3d.data.regions import Regions, scored_regions
from rep3d.files import write_csv, write_text
from rep3d.io.geometry import voxel_ml

logger = logging.getLogger(__name__)

SURFACE_TOLERANCE = 2.0  # millimetres
SHEAR = 0.01  # cosine between axes: a surface 100 mm long is 1 mm off
SHEARED = "its axes are not at right angles: surfaces are not scored, only Dice and volumes are"
PERCENTILE = 95  # of the Hausdorff distance
OF_SURFACES = ("hd95_mm", "surface_dice")
COLUMNS = ("dice", *OF_SURFACES, "volume_error_ml", "truth_ml")
Score = dict[str, float]
Name = TypeVar("Name", int, str)


def score_regions(
    prediction: np.ndarray,
    truth: np.ndarray,
    regions: Mapping[Name, Sequence[int]],
    affine: np.ndarray,
    ignored_label: int | None = None,
) -> dict[Name, Score]:
    """Scores of unions of labels.

    Args:
        prediction, truth: label ids of one grid, (D, H, W).
        regions: the ids of each.
        affine: of the grid, (4, 4), to millimetres.
        ignored_label: id in the truth of voxels that nobody judged: there both are taken for background.

    Returns:
        By region: "dice", "hd95_mm" (95th percentile of the distances from each surface to the other, the greater
        one), "surface_dice" (share of both surfaces that lies within 2 mm of the other), "volume_error_ml"
        (prediction - truth) and "truth_ml". Surfaces count by their area, as in DeepMind's `surface-distance`.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction has the shape {prediction.shape}, truth {truth.shape}: expected the same three axes"
        )
    judged = truth != ignored_label
    mask = lambda labels, ids: np.isin(labels, list(ids)) & judged  # noqa: E731
    spacing, ml = nib.affines.voxel_sizes(affine), voxel_ml(affine)
    scores = {name: _score(mask(prediction, ids), mask(truth, ids), spacing, ml) for name, ids in regions.items()}
    unknown = dict.fromkeys(OF_SURFACES, math.nan) if _is_sheared(affine) else {}
    return {name: score | unknown for name, score in scores.items()}


def _score(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], voxel: float) -> Score:
    predicted, true = int(prediction.sum()), int(truth.sum())
    volumes = {"volume_error_ml": (predicted - true) * voxel, "truth_ml": true * voxel}
    if not predicted and not true:
        return dict.fromkeys(COLUMNS, math.nan) | {"truth_ml": 0.0}
    if not predicted or not true:
        diagonal = math.hypot(*np.multiply(truth.shape, spacing))
        return {"dice": 0.0, "hd95_mm": diagonal, "surface_dice": 0.0, **volumes}
    distances, areas = _surfaces(prediction, truth, spacing)
    overlap = int((prediction & truth).sum())
    near = sum(area[distance <= SURFACE_TOLERANCE].sum() for distance, area in zip(distances, areas, strict=True))
    return {
        "dice": 2 * overlap / (predicted + true),
        "hd95_mm": max(map(_percentile, distances, areas)),
        "surface_dice": float(near / sum(area.sum() for area in areas)),
        **volumes,
    }


def _surfaces(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each mask's surface elements the distance to the other surface, in millimetres, and the area, in their square.

    An element is a block of 2x2x2 voxels that the surface crosses, its area that of the marching cubes in it.
    """
    box = tuple(_extent(prediction | truth, axis) for axis in range(3))
    predicted, true = (torch.from_numpy(np.pad(mask[box], 1)) for mask in (prediction, truth))
    edges, distances, areas = get_edge_surface_distance(
        predicted, true, spacing=[float(step) for step in spacing], use_subvoxels=True, symmetric=True
    )
    return (
        [distance.numpy().astype(float) for distance in distances],
        [area[edge].numpy().astype(float) for edge, area in zip(edges, areas, strict=True)],
    )


def _percentile(distances: np.ndarray, areas: np.ndarray) -> float:
    """The distance below which 95 % of the area lie."""
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[np.searchsorted(share, PERCENTILE / 100)]])


def _extent(mask: np.ndarray, axis: int) -> slice:
    """Where the mask is along an axis."""
    (indices,) = np.nonzero(np.any(mask, axis=tuple(other for other in range(3) if other != axis)))
    return slice(int(indices[0]), int(indices[-1]) + 1)


class CaseScores:
    """Handler of a MONAI evaluator that scores "pred" against "label"; `write` leaves scores.csv and summary.md.

    Args:
        folder: receives the files. The evaluation of several processes leaves one of each, with all cases.
        label_names: of the ids 0, 1, ...; 0 is the background and not scored.
        regions: ids by name, which are scored in place of the labels; None: each label by itself.
        ignored_label: id of voxels that nobody judged, which count neither way; None: all count.
        items: the evaluator's data, {"image": path}, to name the cases by; without, by their files.
        trained_on: cases that the weights were trained on, which the summary says.
        chosen_on: cases that its refinement was chosen on, likewise.

    Raises:
        ValueError: two items are one case.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        label_names: Sequence[str],
        items: Sequence[Item] = (),
        trained_on: Sequence[str] = (),
        regions: Regions | None = None,
        ignored_label: int | None = None,
        chosen_on: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.regions = scored_regions(label_names, regions)
        self.ignored_label = ignored_label
        self.case_of = {
            str(Path(first_file(item)).expanduser()): case for item, case in zip(items, case_names(items), strict=True)
        }
        self.trained_on, self.chosen_on = trained_on, chosen_on
        self.rows: list[dict[str, object]] = []

    def attach(self, engine: Workflow) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)

    def _score(self, engine: Workflow) -> None:
        for item in engine.state.output:
            prediction, truth = (item[key][0].cpu().numpy() for key in ("pred", "label"))
            affine = np.asarray(item["label"].affine, dtype=np.float64)
            image = item["image"].meta["filename_or_obj"]
            case = self.case_of[image] if self.case_of else case_name(image)
            warn_once(image, SHEARED if _is_sheared(affine) else "")
            scores = score_regions(prediction, truth, self.regions, affine, self.ignored_label)
            self.rows += [{"case": case, "label": name, **score} for name, score in scores.items()]

    def write(self, failures: Sequence[str] = ()) -> list[str]:
        """Leave the files, unless no case has scores.

        Args:
            failures: cases that have none, and why, to be named in the summary.

        Returns:
            The failures of all processes.
        """
        rows, failed = self.rows, list(failures)
        if dist.is_initialized():
            parts: list = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (rows, failed))
            rows, failed = (sum(lists, []) for lists in zip(*parts, strict=True))
        if rows and not (dist.is_initialized() and dist.get_rank()):
            write_scores(rows, self.folder, trained_on=self.trained_on, chosen_on=self.chosen_on, failures=failed)
            scores = read_scores(self.folder)
            dice = means(table(scores, "dice"))[-1]
            logger.info("mean Dice %.3f over %d case(s): %s", dice, len(scores), (self.folder / "summary.md").resolve())
        return failed


def _is_sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=SHEAR)


def write_scores(
    rows: Sequence[Mapping[str, object]],
    folder: Path,
    *,
    trained_on: Sequence[str] = (),
    chosen_on: Sequence[str] = (),
    failures: Sequence[str] = (),
) -> None:
    """Leave scores.csv and summary.md, whole or not at all.

    Args:
        trained_on: cases that the weights were trained on; the summary names them.
        chosen_on: cases that the refinement was chosen on, likewise.
        failures: cases without scores, and why; the summary names them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_case = sorted(rows, key=lambda row: str(row["case"]))  # keeps the order of the labels
    write_csv(folder / "scores.csv", [{key: _cell(row[key]) for key in ("case", "label", *COLUMNS)} for row in by_case])
    text = summary(read_scores(folder), trained_on, chosen_on)
    if failures:
        text += f"\n\n{len(failures)} more case(s) could not be scored:\n\n" + "\n".join(f"- {one}" for one in failures)
    write_text(folder / "summary.md", text)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return value


Scores = dict[str, dict[str, Score]]


def read_scores(folder: str | os.PathLike) -> Scores:
    """The scores of an evaluation by case and label; NaN where there is none.

    Raises:
        FileNotFoundError: the folder has no scores.csv.
        ValueError: the file is damaged or has no cases, other columns, a score twice, or a case with other labels.
    """
    path = Path(folder) / "scores.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the output folder of an evaluation")
    scores: Scores = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != ["case", "label", *COLUMNS]:
                raise ValueError(f"columns {reader.fieldnames}, expected case, label, {', '.join(COLUMNS)}")
            for row in reader:
                _add_row(scores, row, f"line {reader.line_num}")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    if not scores:
        raise ValueError(f"{path}: holds no scores")
    try:
        labels_of(scores)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return scores


def _add_row(scores: Scores, row: Mapping[str, str | None], where: str) -> None:
    """Raises ValueError: there are other values than the columns ask for, or the score is there already."""
    cells = {column: value for column, value in row.items() if isinstance(value, str)}
    if len(cells) < len(row):
        raise ValueError(f"{where} has other values than the columns")
    case, label = cells["case"], cells["label"]
    if label in scores.setdefault(case, {}):
        raise ValueError(f"{where} has label {label!r} of case {case!r} once more")
    try:
        scores[case][label] = {column: float(cells[column] or math.nan) for column in COLUMNS}
    except ValueError as error:
        raise ValueError(f"{where} has other values than numbers ({error})") from None


def labels_of(scores: Scores) -> list[str]:
    """The labels, the same for every case; none without cases.

    Raises:
        ValueError: a case has others, or in another order.
    """
    labels = list(next(iter(scores.values()), ()))
    for case, of_case in scores.items():
        if list(of_case) != labels:
            raise ValueError(f"case {case!r} has the labels {list(of_case)}, expected {labels}")
    return labels


def table(scores: Scores, column: str) -> np.ndarray:
    """One column, (cases, labels), without signs: in a mean, what is too large would make up for what is too small.

    Raises:
        ValueError: a case has other labels.
    """
    labels = labels_of(scores)
    return np.abs([[of_case[label][column] for label in labels] for of_case in scores.values()])


def case_means(scores: Scores, column: str) -> np.ndarray:
    """Mean over the labels that a case has, (cases,); NaN for a case that has none. What a paired test compares."""
    values = table(scores, column)
    counted = np.isfinite(values).sum(axis=1)
    return np.where(counted, np.nansum(values, axis=1) / np.maximum(counted, 1), np.nan)


def means(values: np.ndarray) -> list[float]:
    """Mean over the cases of each label, and the mean of those: "Mean" in all tables, as in the paper's.

    It is not the mean over cases of their means: a label that few cases have counts as much as the others.

    Args:
        values: (cases, labels), NaN where a case has no score.
    """
    counted = np.isfinite(values).sum(axis=0)
    of_label = np.where(counted, np.nansum(values, axis=0) / np.maximum(counted, 1), np.nan)
    return [*map(float, of_label), float(np.nanmean(of_label)) if counted.any() else math.nan]


def summary(scores: Scores, trained_on: Sequence[str] = (), chosen_on: Sequence[str] = ()) -> str:
    """Markdown in the layout of the paper's tables: one column per label and the mean, one row per score.

    Args:
        trained_on: cases that the weights were trained on, which it says.
        chosen_on: cases that the refinement was chosen on, likewise.
    """
    labels = labels_of(scores)
    lines = [f"Means over {len(scores)} case(s)", ""]
    for told, of_them, names in (
        ("The weights were trained on", "the means say", trained_on),
        ("The refinement was chosen on", "what it gains there says", chosen_on),
    ):
        if names:
            known = f"**{told} {len(names)} of these cases**, so that {of_them} little about new ones"
            lines += [f"{known}: {', '.join(names)}", ""]
    titles = {
        "dice": ("Dice", 3),
        "hd95_mm": ("95 % Hausdorff distance (mm)", 2),
        "surface_dice": (f"Surface Dice at {SURFACE_TOLERANCE:g} mm", 3),
        "volume_error_ml": ("Volume error, absolute (ml)", 2),
    }
    rows = [
        [title, *(f"{mean:.{digits}f}" for mean in means(table(scores, column)))]
        for column, (title, digits) in titles.items()
    ]
    return "\n".join([*lines, markdown_table(["score", *labels, "Mean"], rows)])
