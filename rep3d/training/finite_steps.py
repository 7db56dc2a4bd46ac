"""Steps of an optimizer by finite gradients only."""

from __future__ import annotations

import logging
import math

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from rep3d.process_group import is_distributed

logger = logging.getLogger(__name__)


class FiniteSteps:
    """Handler of a MONAI trainer: the optimizer steps by finite gradients only, and by none that are too long.

    A step whose loss or gradients are not finite is left out, on every process of a training alike; the network's
    buffers, such as the running statistics of BatchNorm, are then what they were before it. What a finite
    step did to the weights shows in the next one; after the last one of an epoch, the loss of its images is computed
    once more before the weights are saved.

    Args:
        max_norm: longer gradients are scaled down to this norm, that of all parameters together. None: they stay.
        patience: left-out steps in a row that end the training.

    Raises:
        RuntimeError: by the training, after so many steps.
    """

    def __init__(self, max_norm: float | None = None, patience: int = 5) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be above 0 or None, got {max_norm!r}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience!r}")
        self.max_norm, self.patience = max_norm, patience
        self.skipped, self.in_a_row = 0, 0
        self.before_epoch = 0  # steps
        self.buffers: list[torch.Tensor] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        """Attach to the trainer.

        Raises:
            ValueError: its epochs have no steps.
        """
        steps = engine.state.epoch_length
        if steps is not None and not (isinstance(steps, int) and steps >= 1):  # MONAI ends such a training at once
            raise ValueError(f"an epoch has {steps!r} steps (steps_per_epoch, epoch_length), expected 1 or more")
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._remember_buffers)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._check)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._check_last)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _begin_epoch(self, engine: SupervisedTrainer) -> None:
        self.before_epoch = engine.state.iteration

    def _remember_buffers(self, engine: SupervisedTrainer) -> None:
        self.buffers = [buffer.clone() for buffer in engine.network.buffers()]

    def _check(self, engine: SupervisedTrainer) -> None:
        self.image, self.label = engine.state.output["image"], engine.state.output["label"]
        scale = 1.0 if engine.scaler is None else engine.scaler.get_scale()
        parameters = [p for group in engine.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters]) / scale
        loss = engine.state.output["loss"].detach()
        if _everywhere(torch.isfinite(norm) & torch.isfinite(loss)):
            self.in_a_row = 0
            if self.max_norm is not None and norm > self.max_norm and _will_step(engine):
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        else:
            self._skip(engine, float(loss), float(norm))

    def _check_last(self, engine: SupervisedTrainer) -> None:
        if engine.state.iteration - self.before_epoch < engine.state.epoch_length:
            return
        engine.network.eval()
        with torch.no_grad():
            loss = engine.loss_function(engine.inferer(self.image, engine.network), self.label).mean()
        engine.network.train()
        if not _everywhere(torch.isfinite(loss)):
            logger.warning("epoch %d: the loss after its last step is not finite", engine.state.epoch)
            self.in_a_row = max(self.in_a_row, 1)

    def _skip(self, engine: SupervisedTrainer, loss: float, norm: float) -> None:
        with torch.no_grad():
            for buffer, before in zip(engine.network.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
        scaler = engine.scaler if engine.scaler is not None and engine.scaler.is_enabled() else None
        if scaler is not None and math.isfinite(loss) and scaler.get_scale() > 1:
            return  # the scaler looks for its scale, and leaves such steps out by itself
        if scaler is None:
            engine.optimizer.zero_grad(set_to_none=True)  # then the optimizer's step does nothing
        self.skipped += 1
        self.in_a_row += 1
        where = f"epoch {engine.state.epoch}, step {engine.state.iteration}"
        told = f"loss {loss:.3g}, norm of the gradients {norm:.3g}"
        logger.warning("%s: left out, %s", where, told)
        if self.in_a_row >= self.patience:
            rate = engine.optimizer.param_groups[0]["lr"]
            raise RuntimeError(
                f"the training diverged at {where}: {self.in_a_row} steps in a row were not finite ({told}). Train with"
                f" a lower --learning_rate (now {rate:.3g}), or look at images and labels; --resume true goes on from"
                " the last epoch, if one was saved"
            )

    def _report(self, engine: SupervisedTrainer) -> None:
        if self.skipped:
            logger.warning("%d of %d steps were left out: not finite", self.skipped, engine.state.iteration)


def _will_step(engine: SupervisedTrainer) -> bool:
    """Whether the optimizer steps now, or gradients of further batches are added first."""
    place = (engine.state.iteration - 1) % engine.state.epoch_length + 1
    return place % accumulated(engine) == 0 or place == engine.state.epoch_length


def accumulated(engine: SupervisedTrainer) -> int:
    """Batches whose gradients are added before a step; MONAI has this since version 1.6."""
    return getattr(engine, "accumulation_steps", 1)


def _everywhere(finite: torch.Tensor) -> bool:
    """Whether it is so on all processes."""
    if is_distributed():
        finite = finite.int()
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)
