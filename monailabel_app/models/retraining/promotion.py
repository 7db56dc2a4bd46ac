"""Whether new weights serve: they are scored beside those that serve, kept as a version, and promoted by a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel_app.bundles import Bundle
from monailabel_app.history import digest
from monailabel_app.models.contract import other_data
from monailabel_app.models.retraining.record import TrainingRecord
from monailabel_app.models.retraining.scoring import Scores
from monailabel_app.models.versions import (
    add_version,
    changing,
    keep_serving,
    list_versions,
    serve_version,
    version_of,
)
from monailabel_app.tasks import Task

MEASURES = ("dice", "phantoms")  # of `Scores`
FORGOTTEN, EXACT = 0.01, 1e-9  # by which Dice of phantoms may fall, and what rounding adds


def promote(
    task: Task,
    bundle: Bundle,
    new: Path,
    record: TrainingRecord,
    promotion: str,
    score: Callable[[Path, str], Scores | None],
) -> dict[str, Any]:
    """Keep new weights as a version, and let them serve if they may.

    Args:
        new: the weights.
        record: of their training.
        promotion: one of `settings.PROMOTION`.
        score: evaluates weights, under a name, on the validation cases; None where it was stopped.

    Returns:
        {"version": number, "serving": whether it serves, "note": why, "dice": {"new": ..., "serving": ...}}; of a
        bundle that takes prompts also "phantoms", likewise, and "drawn", another text for other phantoms.
    """
    keep_serving(bundle)
    kept = version_of(bundle, new)
    if kept and kept["serving"]:  # the server was killed right after this
        return {key: kept.get(key) for key in ("version", "serving", "note", *MEASURES, "drawn") if key in kept}
    origin: dict[str, Any] = {"user": record.user, "cases": record.cases}
    some_serve, before = bundle.weights.is_file() and not other_data(bundle), digest(bundle.weights)
    scores = _compare(task, bundle, new, score, some_serve) if record.cases["validation"] else {}
    dice, phantoms = (_by_weights(scores, measure) for measure in MEASURES)
    shown: dict[str, Any] = {"dice": dice}
    if bundle.takes_prompts:
        shown |= {"phantoms": phantoms, "drawn": getattr(scores.get("new"), "drawn", "")}
    if task.stopping.is_set():
        note = "kept, but does not serve: the scoring was stopped"
        number = add_version(bundle, new, {**origin, "note": note})
        return {"version": number, "serving": False, "note": note, **shown}
    serves, note = may_serve(dice["new"], dice["serving"], some_serve, promotion)
    best = _best_of_phantoms(bundle, scores.get("serving"))
    if serves and _forgets(phantoms["new"], best):
        fallen = f"Dice of phantoms {phantoms['new']:.4f}, of the best weights that have served {best:.4f}"
        serves, note = False, f"kept, but does not serve: it has forgotten what it knew, {fallen}"
    with changing(bundle):
        if serves and digest(bundle.weights) != before:
            serves, note = False, "kept, but does not serve: other weights serve since it was scored"
        number = add_version(bundle, new, {**origin, **shown, "note": note})
        if serves:
            serve_version(bundle, number)
    task.report(f"version {number}: {note}", dice=dice["new"])
    return {"version": number, "serving": serves, "note": note, **shown}


def may_serve(new: float | None, serving: float | None, some_serve: bool, promotion: str) -> tuple[bool, str]:
    """Whether new weights take the place of those that serve, and why."""
    if promotion == "never":
        return False, "kept; by the server's settings no weights serve by themselves"
    if not some_serve:
        return True, "serves: no weights did before"
    if new is None or serving is None:
        return False, "kept, but does not serve: without validation cases nothing shows that it is not worse"
    compared = f"validation Dice {new:.4f}, of the serving weights {serving:.4f}"
    if new > serving or (new == serving and promotion == "not worse"):
        return True, f"serves: {compared}"
    return False, f"kept, but does not serve: {compared}"


def _best_of_phantoms(bundle: Bundle, serving: Scores | None) -> float | None:
    """Dice of phantoms of the weights that serve, or of better ones that served when a version was scored.

    Else what each training may forget would add up. Scores of other phantoms do not count.
    """
    if serving is None or serving.phantoms is None:
        return None
    same = [one for one in list_versions(bundle) if serving.drawn and one.get("drawn") == serving.drawn]
    earlier = [dice for one in same if (dice := one["phantoms"]["serving"]) is not None]
    return max([serving.phantoms, *earlier])


def _forgets(new: float | None, best: float | None) -> bool:
    return new is not None and best is not None and not new >= best - FORGOTTEN - EXACT


def _compare(
    task: Task, bundle: Bundle, new: Path, score: Callable[[Path, str], Scores | None], some_serve: bool
) -> dict[str, Scores | None]:
    """The scores of the new weights, and of those that serve where some do."""
    task.report("scoring the new weights and those that serve")
    scores = {"new": score(new, "new")}
    if some_serve:
        scores["serving"] = score(bundle.weights, "serving")
    return scores


def _by_weights(scores: Mapping[str, Scores | None], measure: str) -> dict[str, float | None]:
    return {name: getattr(scores.get(name), measure, None) for name in ("new", "serving")}
