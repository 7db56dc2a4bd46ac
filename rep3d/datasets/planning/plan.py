"""All choices for a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rep3d.data import splits
from rep3d.data.notes import Window
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.machine import Machine
from rep3d.datasets.planning.decision import Decision
from rep3d.datasets.planning.folds import plan_folds
from rep3d.datasets.planning.intensities import choose_intensities
from rep3d.datasets.planning.patches import PAPER, SMALL, choose_cache, choose_patch
from rep3d.datasets.planning.spacings import plan_spacing

VALIDATIONS = 20  # in a training


class Schedule(NamedTuple):
    """How many epochs, how many of them between two validations, and why.

    Args:
        steps: of an epoch; None: those of the recipe.
    """

    epochs: int
    val_interval: int
    why: str
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """What goes into the data set's file, and the decisions behind it; spacing and folds are those of the data."""

    network: str
    recipes: Sequence[str]
    modality: str
    spacing: Sequence[float]
    intensity_window: Window
    patch_size: Sequence[int]
    sw_batch_size: int
    batch_size: int
    cache_num: int
    epochs: int
    steps_per_epoch: int | None  # None: those of the recipe
    val_interval: int  # 0 where nothing validates
    learning_rate: float
    num_workers: int
    folds: int
    sizes: Mapping[str, int]  # cases of the parts of a fold
    decisions: Sequence[Decision]


def plan_bundle(
    facts: Sequence[CaseFacts],
    machine: Machine,
    *,
    patients: int,
    told: Sequence[str] = (),
    modality: str | None = None,
    schedule: Schedule | None = None,
    spacing: Sequence[float] | None = None,
    folds: int | None = None,
    own_splits: Sequence[splits.Split] = (),
) -> Plan:
    """Decide.

    Args:
        facts: of the good cases, at least one of which has something labelled.
        machine: where it will train.
        patients: how many the cases are of.
        told: what the data set's own file calls its channels; of several one name each.
        modality: CT or MR, where the user knows, of several channels one for all or one each: "CT,MR"; MR stands for
            all that has no units.
        schedule: how long it is to train, where that was measured.
        spacing: in mm, along the RAS axes, that a user wants; all else is decided for it.
        folds: how many a user wants.
        own_splits: those that a user wrote.

    Raises:
        ValueError: some cases look like CT and others do not, or the memory is too small for any patch.
    """
    taken, decided, of_spacing = plan_spacing(facts, spacing)
    kind, window, recipe, of_intensities = choose_intensities(facts, told, modality)
    budget = PAPER if machine.has_gpu else SMALL
    patch, batch, of_patch = choose_patch(facts, taken, budget, machine)
    cached, of_cache = choose_cache(facts, taken, budget, machine, patch, batch)
    epochs, val_interval, of_epochs, steps = schedule or Schedule(
        budget.epochs, budget.epochs // VALIDATIONS, "of 50 steps each; --hours 2 chooses them by time"
    )
    decided_folds, sizes, of_folds = plan_folds(len(facts), patients, folds, own_splits)
    decisions = [
        *of_intensities,
        Decision("orientation RAS", _orientations(facts)),
        of_spacing,
        Decision(f"network {budget.network}", f"for {machine.told}"),
        *of_patch,
        of_folds,
        Decision(f"{epochs} epochs", of_epochs),
        Decision(f"learning rate {budget.learning_rate:g}", f"with {budget.network}"),
        of_cache,
    ]
    return Plan(
        network=budget.network,
        recipes=["automatic", recipe],
        modality=kind,
        spacing=decided,
        intensity_window=window,
        patch_size=patch,
        sw_batch_size=budget.windows,
        batch_size=batch,
        cache_num=cached,
        epochs=epochs,
        steps_per_epoch=steps,
        val_interval=val_interval if sizes["validation"] else 0,
        learning_rate=budget.learning_rate,
        num_workers=budget.num_workers,
        folds=decided_folds,
        sizes=sizes,
        decisions=decisions,
    )


def _orientations(facts: Sequence[CaseFacts]) -> str:
    counts: Mapping[str, int] = Counter(fact.orientation for fact in facts)
    return f"all are turned to it; they are {', '.join(f'{name} ({count})' for name, count in counts.items())}"
