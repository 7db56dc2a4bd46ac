"""How far a training is: for those who watch it, for the log, and for other programs."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedTrainer, Workflow
from monai.handlers import from_engine
from tqdm import tqdm

from rep3d.console.errors import end_of_run
from rep3d.console.logs import start_status
from rep3d.console.progress import SECONDS, in_terminal, tell
from rep3d.console.status import StatusFile
from rep3d.process_group import is_distributed
from rep3d.training.settings import learning_settings
from rep3d.training.validation import has_score

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Shows a whole training: a bar in a terminal; elsewhere, and in the log file, a line per epoch.

    Other programs find the same in the status of the run (`rep3d.console.status`). SIGTERM ends the training as Ctrl+C
    does, so that the status says at which epoch.

    Args:
        evaluator: MONAI evaluator with a key metric.
        seconds: between lines within an epoch, where there is no terminal.
    """

    def __init__(self, evaluator: Workflow, seconds: float = SECONDS) -> None:
        self.evaluator = evaluator
        self.seconds = seconds
        self.status: StatusFile | None = None
        self.on_sigterm: Any = None  # what SIGTERM did before

    def attach(self, engine: SupervisedTrainer) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _start(self) -> None:
        self.opened = False  # with the first epoch, after what other handlers say at the start
        self.status = start_status(learning_settings())
        alone = not is_distributed()  # others may wait for this process in their code
        if alone and threading.current_thread() is threading.main_thread():
            self.on_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def _open(self, engine: SupervisedTrainer) -> None:
        self.bar = tqdm(
            total=self._all_steps(engine),
            initial=engine.state.iteration,
            desc="Training",
            unit="step",
            dynamic_ncols=True,
            disable=not in_terminal(),
        )
        self.due = time.monotonic() + self.seconds
        self.opened = True

    def _start_epoch(self, engine: SupervisedTrainer) -> None:
        self.before_epoch = engine.state.iteration
        if not self.opened:
            self._open(engine)
        self.started = time.monotonic()

    def _all_steps(self, engine: SupervisedTrainer) -> int:
        """Of the whole training, where the coming epochs are as long as this one."""
        state = engine.state
        return self.before_epoch + (state.max_epochs - state.epoch + 1) * state.epoch_length

    def _complete(self) -> None:
        self._close()
        if self.status:
            self.status.end("finished")

    def _stop(self, engine: SupervisedTrainer, error: BaseException) -> None:
        self._close()  # before the message, which shall stand last
        end_of_run(error)
        raise error

    def _close(self) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
        if self.on_sigterm is not None:
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def _step(self, engine: SupervisedTrainer) -> None:
        now = self._numbers(engine)
        if self.status:
            self.status.update(now)
        shown = {"epoch": f"{now['epoch']}/{now['epochs']}", "loss": f"{now['loss']:.3f}"}
        if "metric" in now:
            shown |= {"val_dice": f"{now['metric']:.3f}", "best": f"{now['best_metric']:.3f}"}
        self.bar.total = now["steps"]
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if self.bar.disable and time.monotonic() >= self.due and not self._at_end(engine):
            self._log(self._line(now))

    def _at_end(self, engine: SupervisedTrainer) -> bool:
        return engine.state.iteration - self.before_epoch == engine.state.epoch_length

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        now = self._numbers(engine)
        if self.status:
            self.status.update(now)
        seconds = time.monotonic() - self.started
        self._log(f"{self._line(now)}, learning rate {now['learning_rate']:.3g}, {seconds:.1f} s")

    def _numbers(self, engine: SupervisedTrainer) -> dict[str, float]:
        """How far the training is, by field of `rep3d.console.status.Status`."""
        state = engine.state
        numbers = {
            "epoch": state.epoch,
            "epochs": state.max_epochs,
            "step": state.iteration,
            "steps": self._all_steps(engine),
            "loss": float(from_engine("loss", first=True)(state.output)),
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
        }
        if self.evaluator.state.metrics:
            numbers |= {"metric": key_metric(self.evaluator), "best_metric": self.evaluator.state.best_metric}
        return numbers

    def _line(self, now: Mapping[str, float]) -> str:
        line = f"epoch {now['epoch']}/{now['epochs']}, step {now['step']}/{now['steps']}, loss {now['loss']:.3f}"
        if "metric" in now:
            line += f", validation Dice {now['metric']:.3f}, best {now['best_metric']:.3f}"
        return line

    def _log(self, line: str) -> None:
        tell(line)
        self.due = time.monotonic() + self.seconds


def tell_results(evaluator: Workflow, ckpt_dir: str, output_dir: str, rank: int = 0) -> None:
    """Log the best validation Dice and where everything lies; on rank 0.

    Args:
        evaluator: of the validation.
        ckpt_dir: where the training wrote its weights.
        output_dir: where it wrote its logs.
        rank: of this process.
    """
    if rank != 0:
        return
    best, epoch = evaluator.state.best_metric, evaluator.state.best_metric_epoch
    told = f"best validation Dice {best:.3f} in epoch {epoch}" if has_score(best, epoch) else "not validated"
    logger.info("trained: %s", told)
    logger.info("weights and log: %s", os.path.abspath(ckpt_dir))
    logger.info("curves: tensorboard --logdir %s", shlex.quote(os.path.abspath(f"{output_dir}/tensorboard")))


def key_metric(engine: Workflow) -> float:
    """The engine's latest key metric, for `torch.optim.lr_scheduler.ReduceLROnPlateau`."""
    return engine.state.metrics[engine.state.key_metric_name]
