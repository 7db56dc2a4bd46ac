"""How long a bundle's training takes on this computer, and how many epochs end within a time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from ignite.engine import Engine, Events

from rep3d.data.lists import load_datalist
from rep3d.datasets.planning.plan import VALIDATIONS, Schedule
from rep3d.files import read_json
from rep3d.study.run import BundleRun, initialize_here, scratch_folder
from rep3d.training.time_limit import VALIDATING

WARM_UP, TIMED = 3, 12  # steps
EPOCHS = 10  # at least, of fewer steps where the time is short: it is used up to a few steps then
CASES, VALIDATED = 8, 3  # that are looked at, of the training and of the validation part


@dataclass(frozen=True)
class Timing:
    """Seconds of a training.

    Args:
        start: before the first step.
        epoch: of an epoch's steps, and of what follows them but for the validation.
        validation: of all validation cases.
        steps: of an epoch.
        rest: what of an epoch follows its steps.
    """

    start: float
    epoch: float
    validation: float
    steps: int = 50
    rest: float = 0.0

    def seconds(self, epochs: int, val_interval: int, steps: int | None = None) -> float:
        """Of a training of so many epochs, which is validated after its last one in any case."""
        validations = math.ceil(epochs / val_interval)
        return self.start + epochs * self._epoch(steps or self.steps) + validations * self.validation

    def _epoch(self, steps: int) -> float:
        return self.rest + (self.epoch - self.rest) * steps / self.steps

    def schedule(self, limit: float) -> Schedule:
        """As many epochs as end within a time, of which validations take a fifth at most.

        Args:
            limit: seconds.

        Raises:
            ValueError: not even a few steps end within it.
        """
        least = self.seconds(EPOCHS, EPOCHS, 1)
        if least > limit:
            took = f"{EPOCHS} steps and a validation end after {least:.0f} s"
            raise ValueError(f"{limit:.0f} s are too short: {took}, expected --hours {math.ceil(least / 36) / 100:g}")
        room = limit - self.start
        most = VALIDATIONS if self.validation == 0 else int(VALIDATING * room / self.validation)
        validations = max(1, min(VALIDATIONS, most))
        room -= validations * self.validation
        steps = self.steps
        if room < EPOCHS * self.epoch:
            steps = max(1, int((room / EPOCHS - self.rest) / (self._epoch(1) - self.rest)))
        epochs = int(room / self._epoch(steps))
        interval = math.ceil(epochs / validations)
        while epochs < interval * validations and self.seconds(epochs + 1, interval, steps) <= limit:
            epochs += 1
        hours = self.seconds(epochs, interval, steps) / 3600
        told = f"an epoch of {steps} steps takes {self._epoch(steps):.1f} s, a validation {self.validation:.1f} s"
        why = f"end within {limit / 3600:g} h: {told}; together {hours:.2g} h"
        return Schedule(epochs, interval, why, steps)


def time_training(bundle: Path) -> Timing:
    """Train a bundle of `rep3d new` for some steps on its own data, and validate some cases; all of it is thrown away.

    Args:
        bundle: its folder.
    """
    config = read_json(bundle / "configs/train.json")
    training = load_datalist(bundle / "data", "training")
    validation = load_datalist(bundle / "data", "validation") if config["val_interval"] else []
    share = len(training) / min(CASES, len(training))
    with scratch_folder() as folder:
        settings = {
            "ckpt_dir": f"{folder}/models",
            "output_dir": f"{folder}/eval",
            "train#dataset#data": _first("training", CASES),
            "validate#dataset#data": _first("validation", VALIDATED) if validation else [],
            "cache_num": round(config["cache_num"] / share),
            "epochs": 1,
            "val_interval": 1,
            "steps_per_epoch": WARM_UP + TIMED,
        }
        began = time.perf_counter()
        workflow = initialize_here(BundleRun(bundle, "training", ["train.json"], settings))
        start = time.perf_counter() - began
        engines = map(workflow.parser.get_parsed_content, ("train#trainer", "validate#evaluator"))
        steps, cases = map(_ends, engines)
        workflow.run()
        ended = time.perf_counter()
        workflow.finalize()
    step = (steps[-1] - steps[WARM_UP - 1]) / TIMED
    times = [steps[-1], *cases]  # the first case makes ready for the others
    case = (times[-1] - times[-2]) if len(times) > 1 else 0.0
    return Timing(
        start=start * share if config["cache_num"] else start,
        epoch=config["steps_per_epoch"] * step + ended - times[-1],
        validation=case * len(validation),
        steps=config["steps_per_epoch"],
        rest=ended - times[-1],
    )


def _first(part: str, count: int) -> str:
    """The first cases of a part of the data, as an expression: MONAI takes each # of a path in a config for ::."""
    return f"$rep3d.data.load_datalist(@dataset_dir, {part!r}, @fold, @label_names, @channel_names, @regions)[:{count}]"


def _ends(engine: Engine) -> list[float]:
    """Takes the times at which iterations end."""
    times: list[float] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: times.append(time.perf_counter()))
    return times
