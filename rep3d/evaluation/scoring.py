"""Evaluation case by case, where one broken case does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from monai.engines import Evaluator
from torch.utils.data import DataLoader

from rep3d.console.errors import describe
from rep3d.data.cases import ONE_CHANNEL, Item, first_file
from rep3d.data.checks import check_datalist
from rep3d.data.notes import Window
from rep3d.evaluation.scores import CaseScores
from rep3d.inference import raise_failures, run_each


def score_each(
    evaluator: Evaluator,
    dataloader: DataLoader,
    scores: CaseScores,
    classes: int,
    memory: str | os.PathLike,
    window: Window,
    channel_names: Sequence[str] = ONE_CHANNEL,
) -> None:
    """Score every case by itself; leave the scores of those that can be scored, and name the others.

    Args:
        evaluator: MONAI evaluator with `scores` among its handlers.
        dataloader: of items {"image": path, "label": path} and their transform.
        scores: what collects and writes the scores.
        classes: as of `rep3d.data.check_datalist`.
        memory: likewise.
        window: likewise.
        channel_names: likewise.

    Raises:
        RuntimeError: after all cases, when some have failed. Names each with its reason.
    """
    check = partial(check_datalist, classes=classes, memory=memory, window=window, channel_names=channel_names)
    problems = find_problems(dataloader.dataset.data, check)  # type: ignore[attr-defined]
    failures = run_each(evaluator, dataloader, "Scoring", problems=problems)
    everywhere = scores.write([str(failure) for failure in failures])
    raise_failures(everywhere, len(dataloader.dataset), "scored")  # type: ignore[arg-type]


def find_problems(items: Sequence[Item], check: Callable[[Sequence[Item]], None]) -> dict[str, str]:
    """What a check finds wrong with each case, by the path of its image.

    Args:
        check: `rep3d.data.checks.check_datalist` with its arguments.
    """
    try:
        check(items)
        return {}
    except ValueError:
        return {first_file(item): problem for item in items if (problem := _problem(item, check))}


def _problem(item: Item, check: Callable[[Sequence[Item]], None]) -> str:
    try:
        check([item])
        return ""
    except ValueError as error:
        _, *found = describe(error).splitlines()  # the first line counts them
        return "; ".join(line.strip() for line in found).removeprefix(f"{first_file(item)}: ")
