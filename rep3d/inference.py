"""Inference over many files, where one broken file does not stop the others."""

from __future__ import annotations

import logging

from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import Evaluator
from tqdm import tqdm

from rep3d.cases import case_names
from rep3d.errors import root_cause

logger = logging.getLogger(__name__)


def run_each(evaluator: Evaluator, dataset: Dataset) -> None:
    """Run the evaluator on every item by itself; report those that fail, and go on.

    Args:
        evaluator: MONAI evaluator whose postprocessing saves its results.
        dataset: items {"image": path} and their transform; an item reaches it with its name as "case".

    Raises:
        ValueError: two items are one case.
        RuntimeError: after all items, when some have failed. Names each with its reason.
    """
    items = [{**item, "case": name} for item, name in zip(dataset.data, case_names(dataset.data), strict=True)]
    failures: list[str] = []
    errors: list[Exception] = []
    # The engine logs a traceback of what we report in one line.
    logs, evaluator.logger.disabled = not evaluator.logger.disabled, True
    try:
        # Caught by a handler, not around `run`: an engine that was left by an exception skips its next run silently.
        with evaluator.add_event_handler(Events.EXCEPTION_RAISED, _remember, errors):
            for item in tqdm(items, desc="Segmenting", unit="volume"):
                evaluator.data_loader = DataLoader(Dataset([item], dataset.transform), batch_size=1)
                evaluator.state.epoch_length = 1
                errors.clear()
                evaluator.run()
                if errors:
                    reason = _first_line(root_cause(errors[0]))
                    logger.error("skipped %s: %s", item["image"], reason)
                    failures.append(f"{item['image']}: {reason}")
    finally:
        evaluator.logger.disabled = not logs
    if failures:
        listed = "\n  ".join(failures)
        raise RuntimeError(f"{len(failures)} of {len(items)} file(s) could not be segmented:\n  {listed}")


def _remember(engine: Evaluator, error: BaseException, errors: list[Exception]) -> None:
    if not isinstance(error, Exception):  # KeyboardInterrupt
        raise error
    errors.append(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
