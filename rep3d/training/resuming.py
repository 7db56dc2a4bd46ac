"""What a resumed training takes from its checkpoint, and what from its configuration: settings that changed count."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)

WORDS = {"lr": "learning rate", "total_iters": "the number of epochs in the schedule"}  # for names that nobody typed
RATES = ("lr", "initial_lr", "base_lrs")  # follow from the learning rate


def optimization_settings(optimizer: torch.optim.Optimizer, lr_scheduler: LRScheduler) -> dict[str, Any]:
    """How optimizer and schedule are configured. To be asked before they step, and kept in the checkpoint."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    settings = {
        "optimizer": type(optimizer).__name__,
        "groups": groups,
        "lr_scheduler": type(lr_scheduler).__name__,
        "schedule": lr_scheduler.state_dict(),
    }
    return copy.deepcopy(settings)


def resume_learning(optimizer: torch.optim.Optimizer, lr_scheduler: LRScheduler, checkpoint: Mapping[str, Any]) -> None:
    """Load optimizer and schedule from a checkpoint; settings that were changed since count, each with a warning.

    Args:
        optimizer: as configured now.
        lr_scheduler: likewise.
        checkpoint: "optimizer" and "lr_scheduler", their state dicts, and "settings", the `optimization_settings` that
            they started with. Without them, as in older checkpoints, nothing counts as changed.

    Raises:
        ValueError: the optimizer has other parameter groups.
    """
    now = optimization_settings(optimizer, lr_scheduler)
    if "settings" not in checkpoint:
        logger.warning("resume: learning rate, weight decay and schedule are the checkpoint's, which is an older one")
    before = checkpoint.get("settings", now)
    saved_groups = checkpoint["optimizer"]["param_groups"]
    sizes, own = ([len(group["params"]) for group in groups] for groups in (saved_groups, optimizer.param_groups))
    if sizes != own:
        told = f"parameter groups of {sizes} parameters, the optimizer of {own}"
        raise ValueError(f"resume: the checkpoint has {told}; start from its weights with init_from")
    if now["optimizer"] == before["optimizer"]:
        optimizer.load_state_dict(dict(checkpoint["optimizer"]))
    else:
        _tell("optimizer", before["optimizer"], now["optimizer"], "it starts without moments")
    for group, old, new in zip(optimizer.param_groups, before["groups"], now["groups"], strict=True):
        group.update(_changed(old, new))
    changed = _changed(before["schedule"], now["schedule"])
    if now["lr_scheduler"] == before["lr_scheduler"]:
        lr_scheduler.load_state_dict({**checkpoint["lr_scheduler"], **changed})
        _set_rates(optimizer, lr_scheduler, saved_groups, before, now, schedule_changed=bool(changed))
    else:
        _tell("lr_scheduler", before["lr_scheduler"], now["lr_scheduler"], "it starts anew")
        for group, new in zip(optimizer.param_groups, now["groups"], strict=True):
            group.update({name: new[name] for name in RATES if name in new})
    _tell_changes(before, now)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: new[name] for name in old.keys() & new.keys() if not name.startswith("_") and new[name] != old[name]}


def _set_rates(
    optimizer: torch.optim.Optimizer,
    lr_scheduler: LRScheduler,
    saved_groups: list[dict[str, Any]],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    schedule_changed: bool,
) -> None:
    """Learning rates as the schedule would have them by now; most schedules are proportional to where they started."""
    rates = [
        saved["lr"] * (new["lr"] / old["lr"] if old["lr"] else 1.0)
        for saved, old, new in zip(saved_groups, before["groups"], now["groups"], strict=True)
    ]
    closed_form = getattr(lr_scheduler, "_get_closed_form_lr", None)
    if schedule_changed and closed_form is not None:
        rates = closed_form()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    lr_scheduler._last_lr = list(rates)


def _tell_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    told = set()
    for old, new in [*zip(before["groups"], now["groups"], strict=True), (before["schedule"], now["schedule"])]:
        words = {**WORDS, "lr": new.get("rate_name") or old.get("rate_name") or WORDS["lr"]}
        for name in sorted(old.keys() & new.keys() | {"gradient_scales"}):  # which not every optimizer has
            line = (words.get(name, name), str(old.get(name)), str(new.get(name)))
            if old.get(name) == new.get(name) or line in told or name in (*RATES[1:], "rate_name", "_last_lr"):
                continue
            told.add(line)
            _tell(*line, "the checkpoint's counts" if name.startswith("_") else "the new one counts")


def _tell(name: str, old: str, new: str, consequence: str) -> None:
    logger.warning("resume: %s is %s, was %s: %s", name, new, old, consequence)
