"""Inference case by case, where one broken case does not stop the others."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import monai.data
from ignite.engine import Events
from monai.data import list_data_collate
from monai.engines import Evaluator
from torch.utils.data import DataLoader, Dataset
from tqdm.contrib.logging import logging_redirect_tqdm

import rep3d
from rep3d.console.errors import first_line
from rep3d.console.logs import file_only
from rep3d.console.progress import Progress, tell
from rep3d.data.cases import case_names, first_file
from rep3d.data.scans import list_scans
from rep3d.process_group import is_first_process

__all__ = ["Failure", "list_scans", "raise_failures", "run_each", "segment_each"]  # where configs call them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A case that could not be processed."""

    image: str
    reason: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


def segment_each(evaluator: Evaluator, dataloader: DataLoader, output_dir: str | os.PathLike) -> None:
    """Run the evaluator on every scan by itself; report those that fail, and go on.

    Args:
        evaluator: MONAI evaluator whose postprocessing saves its results.
        dataloader: of items {"image": path} and their transform; an item reaches it with its name as "case". One with
            a "problem" fails for that.
        output_dir: where the results go, to say so at the end.

    Raises:
        ValueError: two items are one case.
        RuntimeError: after all items, when some have failed. Names each with its reason.
    """
    written: list[str] = []

    def remember() -> None:
        written.append(evaluator.state.output[0]["pred"].meta.get("saved_to", ""))  # type: ignore[index]

    items = dataloader.dataset.data  # type: ignore[attr-defined]
    problems = {first_file(item): item["problem"] for item in items if "problem" in item}
    failures = run_each(evaluator, _named(dataloader), "Segmenting", remember, problems)
    if len(written) == 1 and written[0]:
        logger.info("label map: %s", os.path.abspath(written[0]))
    elif written:
        logger.info("%d label maps in %s", len(written), os.path.abspath(output_dir))
    raise_failures(failures, len(dataloader), "segmented")


def run_each(
    evaluator: Evaluator,
    dataloader: DataLoader,
    doing: str,
    done: Callable[[], None] = lambda: None,
    problems: Mapping[str, str] | None = None,
) -> list[Failure]:
    """Run the evaluator on every item of a data loader by itself; log those that fail, and go on.

    Args:
        evaluator: MONAI evaluator.
        dataloader: its data set is one of MONAI, of items {"image": path, ...}; its sampler and workers are used.
        doing: the task in a word, for the progress.
        done: called after each item that did not fail.
        problems: why items are not to be run at all, by the path of their image.

    Returns:
        Which failed.
    """
    failures: list[Failure] = []
    errors: list[Exception] = []
    cases = DataLoader(
        _Cases(dataloader.dataset, problems or {}),
        batch_size=1,
        sampler=dataloader.sampler,
        num_workers=dataloader.num_workers,
        collate_fn=_only,
    )
    total = len(cases) if is_first_process() else 0
    # Caught by a handler, not around `run`: an engine that was left by an exception skips its next run silently.
    with (
        _quiet(evaluator),
        evaluator.add_event_handler(Events.EXCEPTION_RAISED, _remember, errors),
        logging_redirect_tqdm(),
        Progress(total, doing, "case") as progress,
    ):
        for image, loaded in cases:
            failure = loaded if isinstance(loaded, Failure) else _run(evaluator, image, loaded, errors)
            if failure:
                logger.error("skipped %s", failure)
                file_only.info(failure.trace)
                failures.append(failure)
            else:
                done()
                tell(f"{doing}: {image}, {progress.done + 1} of {len(cases)}")
            progress.update()
    return failures


def raise_failures(failures: Sequence[object], count: int, done: str) -> None:
    """End a run in which some of `count` cases failed.

    Raises:
        RuntimeError: names the failures, and what could not be done.
    """
    if failures:
        listed = "\n  ".join(map(str, failures))
        raise RuntimeError(f"{len(failures)} of {count} case(s) could not be {done}:\n  {listed}")


def _named(dataloader: DataLoader) -> DataLoader:
    """The data loader with items that have their name as "case"."""
    dataset: Any = dataloader.dataset
    items = [{**item, "case": name} for item, name in zip(dataset.data, case_names(dataset.data), strict=True)]
    return DataLoader(
        monai.data.Dataset(items, dataset.transform), sampler=dataloader.sampler, num_workers=dataloader.num_workers
    )


class _Cases(Dataset):
    """Pairs of an item's image and the item, loaded, or why it cannot be."""

    def __init__(self, dataset: Dataset, problems: Mapping[str, str]) -> None:
        self.dataset, self.problems = dataset, problems

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[str, Any]:
        image = first_file(self.dataset.data[index])  # type: ignore[attr-defined]
        if image in self.problems:
            return image, Failure(image, self.problems[image])
        try:
            return image, self.dataset[index]
        except Exception as error:
            return image, _failure(image, error)


def _run(evaluator: Evaluator, image: str, item: Mapping, errors: list[Exception]) -> Failure | None:
    evaluator.data_loader = [list_data_collate([item])]
    evaluator.state.epoch_length = 1
    errors.clear()
    evaluator.run()
    return _failure(image, errors[0]) if errors else None


def _failure(image: str, error: Exception) -> Failure:
    reason = first_line(error).removeprefix(f"{image}: ")
    return Failure(image, reason, "".join(traceback.format_exception(error)))


@contextmanager
def _quiet(evaluator: Evaluator) -> Iterator[None]:
    """The engine logs a traceback of what we report in one line."""
    logs, evaluator.logger.disabled = not evaluator.logger.disabled, True
    try:
        yield
    finally:
        evaluator.logger.disabled = not logs


def _remember(engine: Evaluator, error: BaseException, errors: list[Exception]) -> None:
    if not isinstance(error, Exception):  # KeyboardInterrupt
        raise error
    errors.append(error)


def _only(items: list) -> Any:
    return items[0]


def __getattr__(name: str) -> Any:
    """Where the configs of version 0.1.0 look for what is above this module now; until 0.3."""
    if name == "score_each":
        return vars(rep3d)["_score_each"]
    raise AttributeError(f"module 'rep3d.inference' has no attribute {name!r}")
