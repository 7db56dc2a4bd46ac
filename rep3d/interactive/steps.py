"""One step of an edit: what it changed of a label's mask, packed, so that it can be undone and redone.

A mask that comes in or goes out is (D, H, W) of bool, and is never changed in place.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from rep3d.interactive.correction import Correction
from rep3d.interactive.grid import Box, Grid, hull
from rep3d.interactive.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Coarse:
    """An answer with tiles that are not redrawn yet, without its mask, which is that of the edit. Equals itself alone.

    Attributes:
        grid, tiles, grows: see `Correction`.
        shape: of what `kept` holds; None where there is nothing.
        region, kept: see `Correction`; packed.
        taken: what it and later answers were not to take, packed.
    """

    grid: Grid
    tiles: tuple[Grid, ...]
    grows: bool | None
    shape: tuple[int, ...] | None
    region: bytes
    kept: bytes
    taken: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, answer: Correction) -> Coarse:
        kept = answer.kept
        shape, packed = None if kept is None else tuple(kept.shape), b"" if kept is None else pack(kept)
        return cls(answer.grid, answer.tiles, answer.grows, shape, pack(answer.region), packed)

    def answer(self, mask: torch.Tensor) -> Correction:
        """The answer, of which the mask is by now this one, (D, H, W) of bool."""
        return Correction(
            before=mask,
            changed=None,
            part=None,
            grid=self.grid,
            locked=(),
            tiles=self.tiles,
            region=_unpacked(self.region, self.grid.shape),
            grows=self.grows,
            kept=None if self.shape is None else _unpacked(self.kept, self.shape),
        )

    @property
    def nbytes(self) -> int:
        """In memory."""
        return sum(map(len, self.blobs))

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """What is packed of it, in the order in which `read` takes it."""
        return self.region, self.kept, *self.taken

    def told(self) -> dict[str, object]:
        """The rest, for JSON; see `read`."""
        told = {"grid": self.grid, "tiles": self.tiles, "grows": self.grows, "shape": self.shape}
        return {**told, "taken": len(self.taken)}

    @classmethod
    def read(cls, told: Mapping[str, Any], blobs: Iterator[bytes]) -> Coarse:
        """What `told` and `blobs` gave; takes the latter from the front."""
        tiles = tuple(map(_grid, told["tiles"]))
        shape = None if told["shape"] is None else tuple(told["shape"])
        region, kept, *taken = islice(blobs, 2 + told["taken"])
        return cls(_grid(told["grid"]), tiles, told["grows"], shape, region, kept, tuple(taken))

    def without(self, taken: bytes) -> Coarse:
        """The same where this, packed, is taken, too."""
        return self if taken in self.taken else replace(self, taken=(*self.taken, taken))


@dataclass(frozen=True)
class Step:
    """One way from a mask to the next: which voxels of a box joined the mask, and which left it.

    Attributes:
        locks: of the scene that it was answered in, where they have limited it.
        coarse: what was left to refine at its other end: before it, or, where it is undone, after it. Not stored.
        limits: (D, H, W), what it was not to take beside what the locks name, packed; empty: nothing.
    """

    prompts: tuple[Prompt, ...]
    painted: bool
    box: Box | None
    joined: bytes
    left: bytes
    locks: str = ""
    coarse: tuple[Coarse, ...] = ()
    limits: bytes = b""

    @classmethod
    def between(
        cls,
        before: torch.Tensor,
        after: torch.Tensor,
        box: Box | None,
        prompts: tuple[Prompt, ...] = (),
        painted: bool = False,
        locks: str = "",
    ) -> Step:
        """The step from one mask to the next, which differ in the box at most."""
        if box is None:
            return cls(prompts, painted, None, b"", b"", locks)
        old, new = before[box], after[box]
        return cls(prompts, painted, box, pack(new & ~old), pack(old & ~new), locks)

    def holds_under(self, locks: str, taken: torch.Tensor | None) -> bool:
        """Whether it stays what it is: no other locks have limited it, and it took nothing that is taken by now."""
        if self.painted:
            return True
        if self.locks not in ("", locks):
            return False
        if self.box is None or taken is None:
            return True
        return not bool((unpack(self.joined, self.box) & taken[self.box]).any())

    def undone_from(self, mask: torch.Tensor, taken: torch.Tensor | None = None) -> torch.Tensor:
        """The mask before it; but for `taken`, exactly where `mask` is the one after it."""
        return _exchanged(mask, self.box, self.left, self.joined, taken)

    def redone_from(self, mask: torch.Tensor, taken: torch.Tensor | None = None) -> torch.Tensor:
        """The mask after it, as above."""
        return _exchanged(mask, self.box, self.joined, self.left, taken)

    def then(self, mask: torch.Tensor, after: torch.Tensor, changed: Box) -> Step:
        """This step, which led to `mask`, and what changed afterwards."""
        return self._between(self.undone_from(mask), after, hull([self.box, changed]))

    def after(self, mask: torch.Tensor, before: torch.Tensor, changed: Box) -> Step:
        """This step, which led on from `mask`, to the same mask from `before`, which differs in the box `changed`."""
        return self._between(before, self.redone_from(mask), hull([self.box, changed]))

    def _between(self, before: torch.Tensor, after: torch.Tensor, box: Box | None) -> Step:
        step = self.between(before, after, box, self.prompts, self.painted, self.locks)
        return replace(step, coarse=self.coarse, limits=self.limits)

    def and_then(self, later: Step) -> Step:
        """Two paintings as one."""
        box = hull([self.box, later.box])
        if box is None:
            return self
        joined, left = (torch.zeros([side.stop - side.start for side in box], dtype=torch.bool) for _ in range(2))
        for step in (self, later):
            if step.box is not None:
                where = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(step.box, box, strict=True))
                joins, leaves = unpack(step.joined, step.box), unpack(step.left, step.box)
                joined[where] = (joined[where] & ~leaves) | joins
                left[where] = (left[where] & ~joins) | leaves
        return Step((), True, box, pack(joined), pack(left))


NOTHING = Step((), False, None, b"", b"")


def unchanged(box: Box | None) -> Step:
    """A step of which nothing is known but the box."""
    if box is None:
        return NOTHING
    none = pack(torch.zeros([side.stop - side.start for side in box], dtype=torch.bool))
    return Step((), False, box, none, none)


def _exchanged(
    mask: torch.Tensor, box: Box | None, joining: bytes, leaving: bytes, taken: torch.Tensor | None
) -> torch.Tensor:
    if box is None:
        return mask
    mask, joins = mask.clone(), unpack(joining, box)
    mask[box] = (mask[box] & ~unpack(leaving, box)) | (joins if taken is None else joins & ~taken[box])
    return mask


def pack(values: torch.Tensor) -> bytes:
    """Values of bool in little space."""
    return zlib.compress(np.packbits(values.numpy()).tobytes(), 1)


def unpack(content: bytes, box: Box) -> torch.Tensor:
    """What `pack` was given, in the shape of the box."""
    return _unpacked(content, [side.stop - side.start for side in box])


def _unpacked(content: bytes, shape: Sequence[int]) -> torch.Tensor:
    bits = np.frombuffer(zlib.decompress(content), np.uint8)
    return torch.from_numpy(np.unpackbits(bits, count=math.prod(shape)).view(bool).reshape(shape))


def _grid(told: Sequence[Sequence[Any]]) -> Grid:
    """From JSON."""
    origin, spacing, shape = map(tuple, told)
    return Grid(origin, spacing, shape)
