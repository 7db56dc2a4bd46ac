"""How many folds there are, and how many cases are in the parts of one."""

from __future__ import annotations

from collections.abc import Sequence

from rep3d.data import splits
from rep3d.datasets.planning.decision import Decision

FOLDS = 5


def plan_folds(
    cases: int, patients: int, folds: int | None, own_splits: Sequence[splits.Split]
) -> tuple[int, dict[str, int], Decision]:
    """The folds of the data, the cases in the parts of one, and why.

    Args:
        cases, patients: how many there are.
        folds: how many a user wants; the sizes and the reason are of these.
        own_splits: those that a user wrote.
    """
    if own_splits:
        decided, sizes, why = _folds_of(own_splits)
    else:
        decided, why = choose_folds(patients, "patient" if patients < cases else "case")
        sizes = _sizes(cases, folds or decided)
    if folds is not None:
        what = f"{folds} folds" if sizes["validation"] else "no validation"
        why = Decision(what, f"yours; the number of patients says {decided}")
    return decided, sizes, why


def choose_folds(count: int, unit: str = "patient") -> tuple[int, Decision]:
    """Five, or with few patients fewer; 1 for one, which leaves nothing to validate with.

    Args:
        count: of patients.
        unit: what the reason calls them: cases, where nobody knows which are of one patient.
    """
    if count == 1:
        return 1, Decision("no validation", f"there is 1 {unit}, and 2 are needed, for {FOLDS} folds {FOLDS}")
    folds = min(FOLDS, count)
    needed = (
        f", and {FOLDS} folds need {FOLDS}"
        if folds < FOLDS
        else ", each of which validates once; data/splits.json is yours to edit"
    )
    return folds, Decision(f"{folds} folds", f"there are {count} {unit}s{needed}")


def _sizes(cases: int, folds: int) -> dict[str, int]:
    validation = round(cases / folds) if folds > 1 else 0
    return {"training": cases - validation, "validation": validation, "test": 0}


def _folds_of(own: Sequence[splits.Split]) -> tuple[int, dict[str, int], Decision]:
    """How many splits of a user there are, the sizes of the first that holds cases out, or of the first, and why."""
    first = next((split for split in own if split["val"]), own[0])
    sizes = {part: len(first.get(key, [])) for part, key in splits.KEYS.items()}
    if not sizes["validation"]:
        return len(own), sizes, Decision("no validation", f"data/{splits.FILE} is yours, and holds no case out")
    return len(own), sizes, Decision(f"{len(own)} fold(s)", f"yours, from data/{splits.FILE}")
