"""Checkpoints of a training: the best weights, a file to resume from, and weights from elsewhere.

`model.pt` holds the best weights as a flat state dict in training form; inference folds them. `last.pt` holds all that
resuming needs. Both are written whole or not at all, so that a kill or a full disk leaves the older file.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import Workflow
from monai.utils import set_determinism
from torch import nn

from rep3d.data.cases import Item
from rep3d.data.leakage import TrainingCases, cases_among, some, trained_images
from rep3d.data.regions import Regions
from rep3d.deploy import reparameterize
from rep3d.files import copy_whole, dated_name, whole_file
from rep3d.format_number import check_format
from rep3d.networks.ensemble import Ensemble
from rep3d.networks.upkern import fitting_weights, is_smaller_kernel
from rep3d.networks.weights import check_finite, differences, facts, non_finite
from rep3d.process_group import is_distributed
from rep3d.shipped import check_settings, settings_beside, write_settings
from rep3d.training.finite_steps import FiniteSteps
from rep3d.training.resuming import optimization_settings, resume_learning
from rep3d.training.settings import warn_of_other_settings
from rep3d.training.validation import has_score

logger = logging.getLogger(__name__)
ModuleT = TypeVar("ModuleT", bound=nn.Module)

BEST, LAST = "model.pt", "last.pt"
SEEDS_APART = 1000  # those of a training that is resumed after one epoch or the next; each process has its own between
FORMAT = 1  # of last.pt; the number rises with what this code would misread


def save_whole(content: object, path: str | os.PathLike) -> None:
    """`torch.save`: `path` is the old file or the whole new one, never a part.

    Raises:
        OSError: it cannot be written, such as to a full disk.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's own error tells no reason
                raise error.__context__ from None
            raise


def read_weights(path: str | os.PathLike) -> Mapping[str, torch.Tensor]:
    """The network's state dict of a `model.pt` or `last.pt`.

    Raises:
        FileNotFoundError: there is no such file.
        NonFiniteWeights: the weights are of a training that diverged.
        ValueError: the file is no checkpoint, or a `last.pt` of newer code.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {str(path)!r}: train first, or give a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: no PyTorch checkpoint ({error})") from error
    if isinstance(content, Mapping):
        check_format(content.get("format", 1), FORMAT, path)
    if isinstance(content, Mapping) and isinstance(content.get("network"), Mapping):
        content = content["network"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a state dict of tensors")
    check_finite(content, path)
    return content


def load_weights(network: ModuleT, path: str | os.PathLike) -> ModuleT:
    """Load a checkpoint of this very network, and return the network.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        told = differences(weights, network.state_dict())
        raise ValueError(f"{path}: the weights are of another network: {told}") from error
    return network


def load_deployed(
    network: nn.Module, path: str | os.PathLike | Sequence[str | os.PathLike], regions: Regions | None = None
) -> nn.Module:
    """The network in its deployed form and eval mode, with the weights of a training checkpoint.

    With several checkpoints, such as those of the folds, an `Ensemble` of as many networks. A warning says where the
    running configuration is not what they were trained with.

    Args:
        network: of the architecture.
        path: of a checkpoint, or of several.
        regions: what the network's outputs are, where they are no labels, see `rep3d.data.regions`.
    """
    warn_of_other_settings(path)
    if isinstance(path, str | os.PathLike):
        return reparameterize(load_weights(network, path)).eval()
    if not path:
        raise ValueError(f"checkpoint is {path!r}, expected a file or a list of files")
    members = [reparameterize(load_weights(network, one)).eval() for one in path]
    return Ensemble(members, has_regions=regions is not None)


def trained_on(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    items: Sequence[Item],
    memory: str | os.PathLike | None = None,
) -> list[str]:
    """The cases among {"image": path} that a checkpoint, or one of several, was trained on, as a warning says.

    Args:
        path: of a checkpoint, or of several. One that does not tell counts as trained on others.
        items: what is to be evaluated.
        memory: as for `rep3d.data.leakage.training_cases`.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else path
    known = {digest for one in paths for digest in trained_images(read_weights(one))}
    seen = cases_among(items, known, memory)
    if seen:
        logger.warning("%s was trained on %d of the %d case(s): %s", path, len(seen), len(items), some(seen))
    return seen


def initialize_from(network: nn.Module, path: str | os.PathLike, *, keep_kernel_sums: bool = False) -> None:
    """Load what fits by name and shape, to fine-tune, and log what was and what was not loaded; smaller kernels grow.

    Args:
        network: receives the weights.
        path: of a checkpoint.
        keep_kernel_sums: of kernels that grow, see `rep3d.upkern`.

    Raises:
        ValueError: nothing fits, or the weights are of a deployed network, whose kernels do not train.
    """
    weights, own = read_weights(path), network.state_dict()
    if (facts(weights).get("form"), facts(own).get("form")) == ("deployed", "training"):
        raise ValueError(
            f"init_from: {path} is of a deployed network, its kernels are folded: expected weights that train"
        )
    fitting = fitting_weights(weights, network, keep_sums=keep_kernel_sums)
    if not fitting:
        told = differences(weights, own)
        raise ValueError(f"init_from: {path} has no tensor whose name and shape fit the network: {told}")
    network.load_state_dict(fitting, strict=False)
    grown = [name for name in fitting if is_smaller_kernel(weights[name], own[name])]
    if grown:
        sizes = [tuple(tensors[grown[0]].shape[2:]) for tensors in (weights, own)]
        logger.info("init_from: grew %d kernels, %s from %s to %s voxels", len(grown), grown[0], *sizes)
    logger.info("init_from: loaded %d of the network's %d tensors from %s", len(fitting), len(own), path)
    for name in sorted(own.keys() - fitting.keys()):
        reason = f"shape {tuple(weights[name].shape)} in the file" if name in weights else "not in the file"
        logger.warning("init_from: kept the initial %s %s: %s", name, tuple(own[name].shape), reason)
    for name in sorted(weights.keys() - own.keys()):
        logger.warning("init_from: %s of the file is not in the network", name)


def is_better(score: float, best: float) -> bool:
    """Whether a validation score is a new best; unlike a plain comparison, any score is better than NaN."""
    return score > best or math.isnan(best)


def set_seed(seed: int, resume: bool | str, folder: str | os.PathLike) -> None:
    """MONAI's `set_determinism` for a training; one that is resumed goes on with other draws.

    By the seed alone it would meet the samples of its first epochs again, in each of its parts.

    Args:
        seed: of a training from its start.
        resume, folder: as of `Checkpoints`, which says what is wrong with the file to resume from.
    """
    epoch = 0
    if _resumes(resume, folder):
        try:
            epoch = int(torch.load(Path(folder) / LAST, map_location="cpu", weights_only=True, mmap=True)["epoch"])
        except Exception:
            logger.debug("no epoch in %s", LAST, exc_info=True)
    set_determinism(seed + SEEDS_APART * epoch)


class Checkpoints:
    """Attaches saving, resuming and initializing to MONAI engines.

    Args:
        trainer: MONAI trainer.
        evaluator: MONAI evaluator whose key metric says which weights are best.
        network: not wrapped for multi-GPU, so that names carry no `module.`.
        optimizer: its state is in `last.pt`.
        lr_scheduler: likewise.
        folder: receives `model.pt` and `last.pt`; the config's ckpt_dir.
        cases: of the training; the weights in both files tell them.
        steps: those of the trainer; nothing is saved right after one that was left out.
        resume: go on from `last.pt`; "true" and "false" too, as a command line gives them. "auto": where there is one,
            which is then preferred to `init_from`.
        init_from: weights to start from.
        keep_kernel_sums: of kernels that grow at that, see `rep3d.upkern`.
        as_trained: `rep3d.training.training_settings`; they are left beside the weights.
        writes: whether this process writes: rank 0 only.

    Raises:
        ValueError: both `resume` and `init_from`, `keep_kernel_sums` with neither, a training that is finished already
            or had other settings, a folder that cannot be made, or weights to start from that are not finite or were
            trained on validation cases.
        RuntimeError: by the training, where the network's weights are not finite any more; they are not saved.
        FileNotFoundError: nothing to resume or to start from.
    """

    def __init__(
        self,
        trainer: Workflow,
        evaluator: Workflow,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
        folder: str | os.PathLike,
        *,
        cases: TrainingCases | None = None,
        steps: FiniteSteps | None = None,
        resume: bool | str = False,
        init_from: str | None = None,
        keep_kernel_sums: bool = False,
        as_trained: Mapping[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        self.trainer, self.evaluator = trainer, evaluator
        self.network, self.optimizer, self.lr_scheduler = network, optimizer, lr_scheduler
        self.folder = Path(folder)
        self.cases = cases or TrainingCases({}, {})
        self.steps = steps
        self.settings = optimization_settings(optimizer, lr_scheduler)
        self.new_validation = False  # than that of the training that is resumed
        told, resume = str(resume).lower(), _resumes(resume, folder)
        if resume and told == "auto":
            init_from = None
        if resume and init_from:
            raise ValueError(f"resume and init_from exclude each other, got init_from = {init_from!r}")
        if keep_kernel_sums and not resume and not init_from:
            raise ValueError("keep_kernel_sums is true, and no kernels grow without init_from")
        if start := self.folder / LAST if resume else init_from:
            self.cases.go_on_from(read_weights(start), start)
        if resume:
            check_settings(self.folder / LAST, as_trained or {}, "resume")
        if resume:
            self._resume()
        elif init_from:
            initialize_from(network, init_from, keep_kernel_sums=keep_kernel_sums)
        self.best = evaluator.state.best_metric, evaluator.state.best_metric_epoch  # of the weights that are kept
        if is_distributed():
            dist.barrier()  # every process has read before one renames what is there
        if writes:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"ckpt_dir {str(folder)!r} cannot be made: {error}") from None
            if not resume or self.new_validation:
                trainer.add_event_handler(Events.STARTED, self._keep_previous)
            trainer.add_event_handler(Events.STARTED, write_settings, as_trained or {}, self.folder / BEST)
            evaluator.add_event_handler(Events.COMPLETED, self._save_best)
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save_last)
            trainer.add_event_handler(Events.COMPLETED, self._end)

    def _save_best(self) -> None:
        state = self.evaluator.state
        if self._diverging():
            state.best_metric, state.best_metric_epoch = self.best
            return
        if state.best_metric_epoch == self.trainer.state.epoch and not math.isnan(state.best_metric):
            save_whole(self._finite_weights(), self.folder / BEST)
        self.best = state.best_metric, state.best_metric_epoch

    def _end(self) -> None:
        state = self.evaluator.state
        unvalidated = not has_score(state.best_metric, state.best_metric_epoch)
        left_out = self.steps.in_a_row if self.steps else 0
        if left_out > 1 or (left_out and unvalidated):
            raise RuntimeError(
                f"the training diverged: its last {left_out} step(s) were not finite. Train with a lower"
                " --learning_rate"
            )
        if unvalidated:
            reason = ", every score is NaN" if state.best_metric_epoch > 0 else ""
            logger.warning("no epoch was validated%s: %s holds the last weights", reason, BEST)
            save_whole(self._finite_weights(), self.folder / BEST)

    def _diverging(self) -> bool:
        """Whether the last step was left out, or spoilt weights that are finite all the same."""
        return self.steps is not None and self.steps.in_a_row > 0

    def _finite_weights(self) -> dict[str, torch.Tensor]:
        weights = self.network.state_dict()
        wrong = non_finite(weights)
        if wrong:
            raise RuntimeError(
                f"the training diverged in epoch {self.trainer.state.epoch}: {wrong} of the network. They are not"
                f" saved; {LAST} holds the epoch before, if there was one. Train with a lower --learning_rate"
            )
        return self.cases.mark(weights)

    def _save_last(self) -> None:
        if self._diverging():
            logger.warning("epoch %d is not saved: its last step was not finite", self.trainer.state.epoch)
            return
        content = {
            "format": FORMAT,
            "network": self._finite_weights(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "settings": self.settings,
            "epoch": self.trainer.state.epoch,
            "validated_on": sorted(self.cases.validation),
            "best_metric": self.evaluator.state.best_metric,
            "best_metric_epoch": self.evaluator.state.best_metric_epoch,
        }
        save_whole(content, self.folder / LAST)

    def _resume(self) -> None:
        path = self.folder / LAST
        if not path.is_file():
            raise FileNotFoundError(f"resume: there is no {path}: leave resume out, or take --resume auto")
        load_weights(self.network, path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not {"epoch", "optimizer", "lr_scheduler"} <= content.keys():
            raise ValueError(f"resume: {path} holds weights only; start from them with init_from")
        state = self.trainer.state
        if content["epoch"] >= state.max_epochs:
            raise ValueError(
                f"resume: {path} has finished epoch {content['epoch']} of {state.max_epochs}; give more --epochs"
            )
        resume_learning(self.optimizer, self.lr_scheduler, content)
        self.new_validation = self.cases.validated_otherwise(content.get("validated_on", self.cases.validation))
        if self.new_validation:
            told = f"{content['best_metric']:.3f} in epoch {content['best_metric_epoch']}"
            logger.warning(
                "resume: the validation cases are others than before: the best score, %s, is discarded", told
            )
            if isinstance(self.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.lr_scheduler.best = self.lr_scheduler.mode_worse
        elif has_score(content["best_metric"], content["best_metric_epoch"]) and not (self.folder / BEST).is_file():
            logger.warning("resume: %s is gone, and its score is discarded", self.folder / BEST)
        else:
            self.evaluator.state.best_metric = content["best_metric"]
            self.evaluator.state.best_metric_epoch = content["best_metric_epoch"]
        self.trainer.load_state_dict(
            {"epoch": content["epoch"], "epoch_length": state.epoch_length, "max_epochs": state.max_epochs}
        )
        logger.info("resume: going on after epoch %d of %s", content["epoch"], path)

    def _keep_previous(self) -> None:
        """A new training takes no earlier weights away: they stay beside the new ones, named by their time."""
        for name in (BEST,) if self.new_validation else (BEST, LAST):
            path = self.folder / name
            if path.is_file():
                kept = dated_name(path, path.stat().st_mtime)
                path.replace(kept)
                if settings_beside(path).is_file():
                    copy_whole(settings_beside(path), settings_beside(kept))
                logger.warning("%s is of an earlier training: kept as %s", path, kept)


def _resumes(resume: bool | str, folder: str | os.PathLike) -> bool:
    if str(resume).lower() == "auto":
        return (Path(folder) / LAST).is_file()
    if str(resume).lower() not in ("true", "false"):
        raise ValueError(f"resume must be true, false or auto, got {resume!r}")
    return str(resume).lower() == "true"
