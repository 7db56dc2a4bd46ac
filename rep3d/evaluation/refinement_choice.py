"""Which refinement of label maps pays on the validation cases, label by label."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.engines import Evaluator
from scipy import ndimage
from torch.utils.data import DataLoader

from rep3d.data.cases import Item
from rep3d.data.checks import check_datalist
from rep3d.data.leakage import cases_among, item_digests, some
from rep3d.data.notes import Window
from rep3d.evaluation.kept_refinement import check_is_ours, write_refinement
from rep3d.evaluation.scores import CaseScores, means
from rep3d.inference import raise_failures, run_each
from rep3d.io.geometry import voxel_ml
from rep3d.process_group import is_distributed
from rep3d.refinement import Step, refine_label

logger = logging.getLogger(__name__)

GAIN = 0.001  # of a mean Dice: what a step must bring
SHARES = (0.01, 0.1, 0.5)  # of a label's median volume: what may be the least volume of a component
FEW = 5  # cases: what fewer of them choose is said to be uncertain


class Case(NamedTuple):
    """A validation case.

    Args:
        prediction, truth: label ids (D, H, W), cut to what either of them shows.
        voxel_ml: millilitres of a voxel.
    """

    prediction: np.ndarray
    truth: np.ndarray
    voxel_ml: float


def choose_refinement(
    evaluator: Evaluator,
    dataloader: DataLoader,
    scores: CaseScores,
    bundle_root: str | os.PathLike,
    label_names: Sequence[str],
    classes: int,
    memory: str | os.PathLike,
    window: Window,
    channel_names: Sequence[str],
    digests: str | os.PathLike | None = None,
) -> None:
    """Segment the validation cases, and write the refinement that gains on them into the bundle.

    Args:
        evaluator: MONAI evaluator, without refinement and handlers.
        dataloader: of validation items {"image": path, "label": path} and their transform.
        scores: tells what is scored, and which of the cases the weights were trained on.
        bundle_root: the bundle's folder.
        label_names: of the ids from 0 on.
        classes, memory, window, channel_names: as of `rep3d.data.check_datalist`.
        digests: as the memory of `chosen_on`.

    Raises:
        ValueError: there are several processes, the weights were trained on one of the cases, or a case is broken; or
            as `check_is_ours`.
        RuntimeError: a case could not be segmented. Nothing is written.
    """
    check_is_ours(Path(bundle_root))
    if is_distributed():
        raise ValueError("a refinement is chosen by one process, which sees all cases: run it without torchrun")
    if scores.trained_on:
        raise ValueError(
            f"the weights were trained on {len(scores.trained_on)} of the validation cases, "
            f"{some(scores.trained_on)}: expected weights that do not know the cases that choose"
        )
    items = dataloader.dataset.data  # type: ignore[attr-defined]
    check_datalist(items, classes, memory, window, channel_names)
    cases: list[Case] = []

    def remember() -> None:
        cases.extend(map(_case, evaluator.state.output))  # type: ignore[arg-type]

    raise_failures(run_each(evaluator, dataloader, "Segmenting", remember), len(items), "segmented")
    chosen = best_refinement(cases, label_names, scores.regions, scores.ignored_label)
    if chosen:
        _tell_count(len(cases))
        chosen = {**chosen, "chosen_on": sorted(item_digests(items, digests).values())}
    write_refinement(Path(bundle_root), chosen)


def _tell_count(count: int) -> None:
    logger.info("refinement: chosen by %d validation case(s)", count)
    if count < FEW:
        logger.warning(
            "refinement: %d case(s) are few to choose by, expected %d at least: new ones may lose by it; choose again "
            "when there are more",
            count,
            FEW,
        )


def chosen_on(
    refinement: Sequence[object], items: Sequence[Item], memory: str | os.PathLike | None = None
) -> list[str]:
    """The cases among {"image": path} that a refinement was chosen on, as a warning says.

    Args:
        refinement: transforms of label maps. Others than `rep3d.refinement.RefineLabelsd` were chosen on none.
        items: what is to be evaluated.
        memory: as for `rep3d.data.leakage.training_cases`.
    """
    known = {digest for one in refinement for digest in getattr(one, "chosen_on", ())}
    seen = cases_among(items, known, memory)
    if seen:
        logger.warning("the refinement was chosen on %d of the %d case(s): %s", len(seen), len(items), some(seen))
    return seen


def _case(item: Mapping[str, Any]) -> Case:
    prediction, truth = (item[key][0].cpu().numpy().astype(np.uint8) for key in ("pred", "label"))
    (box,) = ndimage.find_objects((prediction > 0) | (truth > 0)) or [(slice(1),) * 3]
    return Case(prediction[box].copy(), truth[box].copy(), voxel_ml(item["label"].affine.cpu().numpy()))


def best_refinement(
    cases: Sequence[Case],
    label_names: Sequence[str],
    regions: Mapping[str, Sequence[int]],
    ignored_label: int | None = None,
) -> dict[str, Any]:
    """The arguments of `RefineLabelsd` that pay: empty where nothing does.

    Label by label, in the order of their ids, a step is taken where a mean Dice gains `GAIN` and none falls: first of
    those that take components off the best one, then the filling of holes.

    Args:
        cases: predictions beside their truth.
        label_names: of the ids from 0 on.
        regions: the ids of what is scored, by name.
        ignored_label: id in the truth of voxels that nobody judged.
    """
    maps = [case.prediction for case in cases]
    before = _dice(maps, cases, regions, ignored_label)
    steps: dict[str, Step] = {}
    for label, name in enumerate(label_names[1:], 1):
        unrefined, step = maps, Step()
        for fills in (False, True):
            best = None
            for candidate in [step._replace(filled=True)] if fills else _less(cases, label):
                refined = _refined(unrefined, cases, label, candidate)
                after = _dice(refined, cases, regions, ignored_label)
                if _pays(before, after) and (best is None or np.nansum(after) > np.nansum(best[2])):
                    best = candidate, refined, after
            if best is not None:
                step, maps, after = best
                logger.info("refinement of %s, %s: Dice of %s", name, _words(step), _changes(regions, before, after))
                before, steps[name] = after, step
    if not steps:
        logger.info("refinement: nothing gains %g in Dice on %d validation case(s)", GAIN, len(cases))
        return {}
    return {
        "largest": [name for name, step in steps.items() if step.largest],
        "smallest_ml": {name: step.smallest_ml for name, step in steps.items() if step.smallest_ml},
        "filled": [name for name, step in steps.items() if step.filled],
    }


def _refined(maps: Sequence[np.ndarray], cases: Sequence[Case], label: int, step: Step) -> list[np.ndarray]:
    return [refine_label(labels, label, step, case.voxel_ml) for labels, case in zip(maps, cases, strict=True)]


def _less(cases: Sequence[Case], label: int) -> list[Step]:
    """Ways to take components off."""
    volumes = [case.voxel_ml * np.count_nonzero(case.truth == label) for case in cases]
    shown = [volume for volume in volumes if volume]
    least = [float(f"{share * np.median(shown):.2g}") for share in SHARES] if shown else []
    return [Step(largest=True), *(Step(smallest_ml=ml) for ml in least)]


def _dice(
    maps: Sequence[np.ndarray],
    cases: Sequence[Case],
    regions: Mapping[str, Sequence[int]],
    ignored_label: int | None,
) -> np.ndarray:
    """Mean over the cases of each region, as of `rep3d.evaluation.scores`."""
    rows = [
        [
            _overlap(*(np.isin(ids, list(of_region)) & judged for ids in (labels, case.truth)))
            for of_region in regions.values()
        ]
        for labels, case in zip(maps, cases, strict=True)
        for judged in [case.truth != ignored_label]
    ]
    return np.array(means(np.array(rows))[:-1])


def _overlap(prediction: np.ndarray, truth: np.ndarray) -> float:
    both = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / both if both else math.nan


def _pays(before: np.ndarray, after: np.ndarray) -> bool:
    gains = np.nan_to_num(after - before)
    return bool(gains.max() >= GAIN and gains.min() >= 0)


def _changes(names: Iterable[str], before: np.ndarray, after: np.ndarray) -> str:
    told = [
        f"{name} {old:.3f} -> {new:.3f}"
        for name, old, new in zip(names, before, after, strict=True)
        if abs(new - old) > 0
    ]
    return ", ".join(told)


def _words(step: Step) -> str:
    said = [
        "the largest component alone" if step.largest else "",
        f"components of {step.smallest_ml:g} ml at least" if step.smallest_ml else "",
        "holes filled" if step.filled else "",
    ]
    return ", ".join(filter(None, said))
