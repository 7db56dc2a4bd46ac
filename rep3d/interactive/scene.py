"""What a mask is corrected in: the scan, the network that answers, and what else counts beside prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from rep3d.interactive.grid import Grid
from rep3d.interactive.working_grid import SIZE

Network = Callable[[torch.Tensor], torch.Tensor]  # (B, 5, D, H, W) -> logits (B, 1, D, H, W)

TILES = 2  # at most, before the answer, less one for each time that the grid grew; more are left for later


@dataclass(frozen=True)
class Scene:
    """What a mask is corrected in.

    Args:
        network: gives logits of the label, on the device of its answer's choice.
        image: of the scan, (D, H, W), any type of number.
        spacing: millimetres between its voxels along each axis.
        taken: voxels of locked labels, (D, H, W) of bool; None: none.
        size: voxels of the working grid along each axis; a multiple of what the network takes.
        tiles: how many cubes at full resolution to redraw at once; before an answer each time that the working grid
            grew counts as one.
        grow: let the working grid grow while the change leaves it.
        locks: names what is taken; `LabelEdit.bring_to` remembers answers for the same locks only.
    """

    network: Network
    image: torch.Tensor
    spacing: Sequence[float]
    taken: torch.Tensor | None = None
    size: int = SIZE
    tiles: int = TILES
    grow: bool = True
    locks: str = ""

    @cached_property
    def scan(self) -> Grid:
        """The scan's voxels.

        Raises:
            ValueError: the image has not three axes, or one without voxels or distance.
        """
        return Grid.of_scan(self.image.shape, self.spacing)

    @cached_property
    def locked(self) -> torch.Tensor:
        """`taken`, (D, H, W) of bool, also where it is None."""
        return torch.zeros(self.scan.shape, dtype=torch.bool) if self.taken is None else self.taken
