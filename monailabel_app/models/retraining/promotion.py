"""Whether new weights serve: they are scored beside those that serve, kept as a version, and promoted by a rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monailabel_app.bundles import Bundle
from monailabel_app.models.retraining.record import TrainingRecord
from monailabel_app.models.versions import add_version, keep_serving, serve_version, version_of
from monailabel_app.tasks import Task
from rep3d.evaluation.scores import read_scores, table


def promote(
    task: Task,
    bundle: Bundle,
    new: Path,
    record: TrainingRecord,
    promotion: str,
    score: Callable[[Path, str], Path | None],
) -> dict[str, Any]:
    """Keep new weights as a version, and let them serve if they may.

    Args:
        new: the weights.
        record: of their training.
        promotion: one of `settings.PROMOTION`.
        score: evaluates weights, under a name, on the validation cases; the folder of the scores, or None where it was
            stopped.

    Returns:
        {"version": number, "serving": whether it serves, "note": why, "dice": {"new": ..., "serving": ...}}
    """
    keep_serving(bundle)
    kept = version_of(bundle, new)
    if kept and kept["serving"]:  # the server was killed right after this
        return {key: kept.get(key) for key in ("version", "serving", "note", "dice")}
    origin: dict[str, Any] = {"user": record.user, "cases": record.cases}
    dice = _compare(task, bundle, new, score) if record.cases["validation"] else {"new": None, "serving": None}
    if task.stopping.is_set():
        note = "kept, but does not serve: the scoring was stopped"
        number = add_version(bundle, new, {**origin, "note": note})
        return {"version": number, "serving": False, "note": note, "dice": dice}
    serves, note = may_serve(dice["new"], dice["serving"], bundle.weights.is_file(), promotion)
    number = add_version(bundle, new, {**origin, "dice": dice, "note": note})
    if serves:
        serve_version(bundle, number)
    task.report(f"version {number}: {note}", dice=dice["new"])
    return {"version": number, "serving": serves, "note": note, "dice": dice}


def may_serve(new: float | None, serving: float | None, there_are_weights: bool, promotion: str) -> tuple[bool, str]:
    """Whether new weights take the place of those that serve, and why."""
    if promotion == "never":
        return False, "kept; by the server's settings no weights serve by themselves"
    if not there_are_weights:
        return True, "serves: there were no weights before"
    if new is None or serving is None:
        return False, "kept, but does not serve: without validation cases nothing shows that it is not worse"
    compared = f"validation Dice {new:.4f}, of the serving weights {serving:.4f}"
    if new > serving or (new == serving and promotion == "not worse"):
        return True, f"serves: {compared}"
    return False, f"kept, but does not serve: {compared}"


def _compare(
    task: Task, bundle: Bundle, new: Path, score: Callable[[Path, str], Path | None]
) -> dict[str, float | None]:
    """The mean Dice of the new weights, and of those that serve if there are any."""
    task.report("scoring the new weights and those that serve")
    dice = {"new": _mean_dice(score(new, "new")), "serving": None}
    if bundle.weights.is_file():
        dice["serving"] = _mean_dice(score(bundle.weights, "serving"))
    return dice


def _mean_dice(scores: Path | None) -> float | None:
    return None if scores is None else round(float(np.nanmean(table(read_scores(scores), "dice"))), 4)
