"""What training configs need beyond MONAI: optimizer parameter groups, a progress bar and small adapters."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import re
import shlex
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.engines import SupervisedTrainer, Workflow
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, TensorBoardStatsHandler, from_engine
from torch import nn
from tqdm import tqdm

from rep3d.console.progress import SECONDS, in_terminal, tell
from rep3d.networks.capabilities import named_parameters_of

logger = logging.getLogger(__name__)

# For the environment of a process that shares its cores with others: in GNU's OpenMP, threads that wait for one another
# spin so many turns, not 300,000, before they sleep (docs/performance.md). It reads this when torch is loaded.
SHARED_CORES = {"GOMP_SPINCOUNT": "1000"}

# Parameters by names that transformers use, such as relative_position_bias_table, pos_embed and rel_pos_arr.0.
POSITION_TABLE = re.compile(r"(^|[._])pos(ition(al)?)?_\w+(\.\d+)?$")


def parameter_groups(
    network: nn.Module, *, weight_decay: float = 0.08, small_kernel_lr: float | None = None
) -> list[dict]:
    """Parameter groups for an optimizer such as `torch.optim.AdamW`.

    Weight decay (paper Table 5) acts on kernels only. None have what has at most one axis (biases, normalizations and
    beta), tables of positions, and what a module names by `no_weight_decay()`, as in timm.

    Args:
        network: the network to train; its modules may name parameters, see `rep3d.networks.capabilities`.
        weight_decay: of all kernels.
        small_kernel_lr: learning rate of the small branch of `modulation="csla"` (paper Table 8: 1.5 to 3 times that of
            the large one). None: that of the optimizer.

    Raises:
        ValueError: `small_kernel_lr` is given and the network has no small branch.
    """
    small_kernels = named_parameters_of(network, "small_kernels")
    undecayed = named_parameters_of(network, "no_weight_decay")
    small, kernels, others = [], [], []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in small_kernels:
            small.append(parameter)
        elif parameter.ndim <= 1 or name in undecayed or POSITION_TABLE.search(name):
            others.append(parameter)
        else:
            kernels.append(parameter)
    groups: list[dict] = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if small_kernel_lr is not None and not small:
        raise ValueError(f'small_kernel_lr is {small_kernel_lr}, but the network has no small branch ("csla")')
    if small:
        groups.append({"params": small, "weight_decay": weight_decay})
        if small_kernel_lr is not None:
            groups[-1]["lr"] = small_kernel_lr
    return groups


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones, with glibc (Linux); elsewhere do nothing.

    By default glibc gives every tensor above 32 MB back to the system, which then clears each page again: half the time
    of a training step on a CPU at 96^3. The price is a higher peak of memory, because freed gaps do not always fit.

    Returns:
        Whether it is so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max = -1, -4
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, -1))


class FiniteSteps:
    """Handler of a MONAI trainer: the optimizer steps by finite gradients only, and by none that are too long.

    A step whose loss or gradients are not finite is left out, on every process of a training alike; the network's
    buffers, such as the running statistics of BatchNorm, are then what they were before it. What such a step did to the
    weights shows in the next one; after the last of an epoch, when they are saved, in the same images once more.

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
        self.buffers: list[torch.Tensor] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._remember_buffers)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._check)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._check_last)
        engine.add_event_handler(Events.COMPLETED, self._report)

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
            if self.max_norm is not None and norm > self.max_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        else:
            self._skip(engine, float(loss), float(norm))

    def _check_last(self, engine: SupervisedTrainer) -> None:
        if engine.state.iteration % engine.state.epoch_length:
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
        if engine.scaler is not None and math.isfinite(loss):
            return  # the scaler looks for its scale, and leaves such steps out by itself
        if engine.scaler is None:
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


def _everywhere(finite: torch.Tensor) -> bool:
    """Whether it is so on all processes."""
    if dist.is_available() and dist.is_initialized():
        finite = finite.int()
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


class TrainingProgress:
    """Shows a whole training: a bar in a terminal; elsewhere, and in the log file, a line per epoch.

    Args:
        evaluator: MONAI evaluator with a key metric.
        seconds: between lines within an epoch, where there is no terminal.
    """

    LINE = re.compile(  # what `_line` writes
        r"epoch (?P<epoch>\d+)/(?P<epochs>\d+), step (?P<step>\d+)/(?P<steps>\d+), loss (?P<loss>[-\d.naif]+)"
        r"(?:, validation Dice (?P<dice>[\d.na]+))?"
    )

    def __init__(self, evaluator: Workflow, seconds: float = SECONDS) -> None:
        self.evaluator = evaluator
        self.seconds = seconds

    def attach(self, engine: Workflow) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, lambda: self.bar.close())
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _start(self) -> None:
        self.opened = False  # with the first epoch, after what other handlers say at the start

    def _open(self, engine: Workflow) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        self.bar = tqdm(
            total=total,
            initial=engine.state.iteration,
            desc="Training",
            unit="step",
            dynamic_ncols=True,
            disable=not in_terminal(),
        )
        self.due = time.monotonic() + self.seconds
        self.opened = True

    def _start_epoch(self, engine: Workflow) -> None:
        if not self.opened:
            self._open(engine)
        self.started = time.monotonic()

    def _stop(self, engine: Workflow, error: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()  # before the message, which shall stand last
        raise error

    def _step(self, engine: Workflow) -> None:
        loss = from_engine("loss", first=True)(engine.state.output)
        shown = {"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}", "loss": f"{loss:.3f}"}
        if self.evaluator.state.metrics:
            shown |= {
                "val_dice": f"{key_metric(self.evaluator):.3f}",
                "best": f"{self.evaluator.state.best_metric:.3f}",
            }
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if self.bar.disable and time.monotonic() >= self.due and engine.state.iteration % engine.state.epoch_length:
            self._log(self._line(engine))

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        rate = engine.optimizer.param_groups[0]["lr"]
        self._log(f"{self._line(engine)}, learning rate {rate:.3g}, {time.monotonic() - self.started:.1f} s")

    def _line(self, engine: Workflow) -> str:
        state, total = engine.state, engine.state.max_epochs * engine.state.epoch_length
        loss = from_engine("loss", first=True)(state.output)
        line = f"epoch {state.epoch}/{state.max_epochs}, step {state.iteration}/{total}, loss {loss:.3f}"
        if self.evaluator.state.metrics:
            best = self.evaluator.state.best_metric
            line += f", validation Dice {key_metric(self.evaluator):.3f}, best {best:.3f}"
        return line

    def _log(self, line: str) -> None:
        tell(line)
        self.due = time.monotonic() + self.seconds


def tell_results(evaluator: Workflow, ckpt_dir: str, output_dir: str, rank: int = 0) -> None:
    """Log the best validation Dice and where everything lies; on rank 0.

    Args:
        evaluator: of the validation.
        ckpt_dir, output_dir: where the training wrote its weights and its logs.
    """
    if rank != 0:
        return
    epoch = evaluator.state.best_metric_epoch
    best = f"best validation Dice {evaluator.state.best_metric:.3f} in epoch {epoch}" if epoch > 0 else "not validated"
    logger.info("trained: %s", best)
    logger.info("weights and log: %s", os.path.abspath(ckpt_dir))
    logger.info("curves: tensorboard --logdir %s", shlex.quote(os.path.abspath(f"{output_dir}/tensorboard")))


def key_metric(engine: Workflow) -> float:
    """The engine's latest key metric, for `torch.optim.lr_scheduler.ReduceLROnPlateau`."""
    return engine.state.metrics[engine.state.key_metric_name]


def is_better(score: float, best: float) -> bool:
    """Whether a validation score is a new best; unlike a plain comparison, any score is better than NaN."""
    return score > best or math.isnan(best)


def handlers_of_rank(handlers: Sequence, rank: int) -> list:
    """All handlers on rank 0; on other ranks none that writes or prints."""
    talking = (StatsHandler, TensorBoardStatsHandler, TrainingProgress, ProgressBar)
    return [handler for handler in handlers if rank == 0 or not isinstance(handler, talking)]


def join_process_group() -> None:
    """Join the processes that `torchrun` started, over NCCL on CUDA and gloo on a CPU."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave_process_group() -> None:
    """Leave the process group of `join_process_group`, before the network is dropped and Python ends.

    Waits for a second first: while gloo's threads let go of what they exchanged last, dropping a
    `DistributedDataParallel` can hang, and the end of Python aborts (pytorch/pytorch#190489).
    """
    time.sleep(1)
    dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process under `torchrun`, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())
