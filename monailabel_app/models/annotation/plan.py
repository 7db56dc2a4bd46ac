"""Which sets of scans are annotated, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from monailabel_app.models.picking import STRATEGIES
from monailabel_app.models.simulation import EPOCHS

ALONE, LEARNING = "clicks alone", "clicks that learn"
WAYS = (ALONE, LEARNING, *STRATEGIES)

NETWORKS = ("automatic", "interactive")


def taught(way: str) -> tuple[str, ...]:
    """The networks that learn in a way."""
    return {ALONE: (), LEARNING: NETWORKS[1:]}.get(way, NETWORKS)


@dataclass(frozen=True)
class Plan:
    """Which cells there shall be.

    Args:
        scans: of a set, drawn for each seed.
        rounds: numbers of annotated scans after which networks are trained, ascending.
        ways: some of WAYS.
        seeds: of the scans, their order and the trainings.
        automatic_steps: optimizer steps of a training of the automatic network, a multiple of EPOCHS.
        interactive_epochs: of a training of the network of clicks, in the app's epochs.
        labels: ids that make the structure together; empty: all.
        spacing, patch_size: of the automatic bundle; empty: what `rep3d new` chooses.

    Raises:
        ValueError: names the argument that is wrong.
    """

    scans: int
    rounds: tuple[int, ...]
    ways: tuple[str, ...]
    seeds: tuple[int, ...]
    automatic_steps: int
    interactive_epochs: int
    labels: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    patch_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.ways or not set(self.ways) <= set(WAYS):
            raise ValueError(f"ways is {self.ways}, expected some of {', '.join(WAYS)}")
        numbers = [0, *self.rounds, self.scans]
        if not all(isinstance(number, int) for number in numbers) or any(b <= a for a, b in pairwise(numbers)):
            raise ValueError(f"rounds is {self.rounds}, expected whole numbers, ascending, between 0 and {self.scans}")
        if not isinstance(self.automatic_steps, int) or self.automatic_steps < EPOCHS or self.automatic_steps % EPOCHS:
            raise ValueError(f"automatic_steps is {self.automatic_steps}, expected a multiple of {EPOCHS}")
        if not isinstance(self.interactive_epochs, int) or self.interactive_epochs < 1:
            raise ValueError(f"interactive_epochs is {self.interactive_epochs}, expected a whole number from 1 on")
        if not all(isinstance(seed, int) and seed >= 0 for seed in self.seeds):
            raise ValueError(f"seeds is {self.seeds}, expected whole numbers from 0 on")
        for name in ("spacing", "patch_size"):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(f"{name} is {getattr(self, name)}, expected three numbers, or none")

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Scans from and to, half open, between trainings."""
        return list(pairwise([0, *self.rounds, self.scans]))

    @property
    def settings(self) -> dict[str, Any]:
        """By which cells are told from others."""
        told = {name: value for name, value in asdict(self).items() if name not in ("ways", "seeds")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
