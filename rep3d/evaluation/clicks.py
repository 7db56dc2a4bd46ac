"""What clicks achieve: a simulated user corrects a method's masks of held-out cases, and each mask is scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rep3d.console.progress import Progress
from rep3d.data.cases import Item, item_name
from rep3d.evaluation.case_records import CaseRecords
from rep3d.evaluation.click_cases import Case, Labels, load_case
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.users import correction, deepest_click, first_prompt

CLICKS = (0, 1, 2, 3, 5, 10)  # after which the tables show Dice
AIMS = (0.85, 0.90)  # Dice; the tables show after how many clicks it is reached
MOST = 20  # clicks; what does not reach an aim with so many has failed, and counts as so many

# From the image, (D, H, W) of float32, millimetres between its voxels, the prompts of one label, oldest first, and the
# mask before the newest of them, (D, H, W) of bool: the mask after it.
Segment = Callable[[torch.Tensor, Sequence[float], Sequence[Prompt], torch.Tensor], torch.Tensor]
# From the truth, the mask, spacing and the prompts so far: the next one, or None where nothing is wrong.
User = Callable[[torch.Tensor, torch.Tensor, Sequence[float], Sequence[Prompt]], Prompt | None]


@dataclass(frozen=True)
class Method:
    """What is evaluated.

    Args:
        segment: follows prompts; None: it takes none, and only its start is scored.
        start: the masks by label from which a case starts; None: empty.
        settings: by which its results are told from those of other weights or parameters.
    """

    segment: Segment | None
    start: Callable[[Case, Labels], Mapping[str, torch.Tensor]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """How the mask of one label of one case got better.

    Args:
        dice: at the start, and after each click.
        seconds: of each click's answer.
    """

    dice: list[float]
    seconds: list[float]

    def after(self, clicks: int) -> float:
        """The Dice after so many; a user who finds nothing wrong any more has stopped."""
        return self.dice[min(clicks, len(self.dice) - 1)]

    def clicks_for(self, aim: float) -> int:
        """How many it takes to reach a Dice; `MOST` where they do not."""
        return next((clicks for clicks, dice in enumerate(self.dice) if dice >= aim), MOST)

    def reaches(self, aim: float) -> bool:
        return max(self.dice) >= aim


Records = dict[str, dict[str, Series]]  # by case and label


def deepest_user(
    truth: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt]
) -> Prompt | None:
    """`rep3d.interactive.users.deepest_click`, from the first on."""
    return deepest_click(truth, mask, spacing)


class MixedUser:
    """A user who draws like those of the training: prompts of all kinds, not always in the best place.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(
        self, truth: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt]
    ) -> Prompt | None:
        if not prompts and not mask.any():
            return first_prompt(truth, spacing, self.generator)
        return correction(truth, mask, spacing, self.generator)


def dice(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """Of two masks, of which one is not empty."""
    return 2 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()))


def follow(
    segment: Segment | None,
    image: torch.Tensor,
    spacing: Sequence[float],
    truth: torch.Tensor,
    user: User,
    *,
    start: torch.Tensor | None = None,
    most: int = MOST,
    watch: Callable[[Sequence[Prompt], torch.Tensor], None] = lambda prompts, mask: None,
) -> Series:
    """Correct one label's mask until the user finds nothing wrong, or has clicked often enough for all that is shown.

    Args:
        segment: the method; None: only the start is scored.
        image: (D, H, W) of float32.
        spacing: millimetres.
        truth: (D, H, W) of bool, not empty.
        user: shows what is wrong.
        start: (D, H, W) of bool; None: empty.
        most: clicks.
        watch: is told the prompts and the mask after each click, and at the start.

    Raises:
        ValueError: the truth is empty, or an answer is no mask of the scan.
    """
    if not truth.any():
        raise ValueError("the truth is empty: nothing can be shown")
    mask = torch.zeros_like(truth) if start is None else start
    series = Series([dice(mask, truth)], [])
    prompts: list[Prompt] = []
    watch(prompts, mask)
    while segment is not None and len(prompts) < most and not _shown_enough(series):
        prompt = user(truth, mask, spacing, prompts)
        if prompt is None:
            break
        prompts.append(prompt)
        begin = time.perf_counter()
        mask = segment(image, spacing, prompts, mask)
        series.seconds.append(time.perf_counter() - begin)
        if mask.shape != truth.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"expected a mask of bool and of shape {tuple(truth.shape)}, got {mask.dtype}, {mask.shape}"
            )
        series.dice.append(dice(mask, truth))
        watch(prompts, mask)
    return series


def _shown_enough(series: Series) -> bool:
    return len(series.dice) > max(CLICKS) and series.reaches(max(AIMS))


def evaluate(
    method: Method,
    items: Sequence[Item],
    labels: Labels,
    record: Path,
    settings: Mapping[str, Any],
    user: Callable[[str], User],
    *,
    doing: str,
) -> Records:
    """Follow each label of each case; what an earlier call finished is read from its record.

    A label that is absent from a case is left out there.

    Args:
        method: what is evaluated.
        items: {"image": path, "label": path} of the cases.
        labels: what is followed, one after the other.
        record: JSON file of the method's results.
        settings: of the evaluation, by which its results are told from others.
        user: makes the user of a case.
        doing: in words, for the progress.

    Raises:
        ValueError: the record is of other settings.
    """
    records, results = CaseRecords(record, {**settings, **method.settings}), Records()
    with Progress(len(items), doing, "case") as progress:
        for item in items:
            name, files = item_name(item), (Path(item["image"]), Path(item["label"]))
            told = records.result(name, files)
            if told is None:
                series = _follow_case(method, load_case(item), labels, user(name))
                told = {label: asdict(one) for label, one in series.items()}
                records.add(name, files, told)
            results[name] = {label: Series(**one) for label, one in told.items()}
            progress.update()
    return results


def _follow_case(method: Method, case: Case, labels: Labels, user: User) -> dict[str, Series]:
    starts = {} if method.start is None else method.start(case, labels)
    series = {}
    for label, ids in labels.items():
        truth = torch.isin(case.label, torch.tensor(list(ids)))
        if truth.any():
            series[label] = follow(method.segment, case.image, case.spacing, truth, user, start=starts.get(label))
    return series
