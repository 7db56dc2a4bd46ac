"""A label as bytes: all of its state, but for what was coarse before a step or after one that was undone.

A checksum (4 bytes), the header's length (8 bytes), the header (JSON), and one packed part after the other, whose
sizes the header tells: the prompts' positions, the mask in its box, three for each step, and those of what is coarse.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from rep3d.format_number import check_format
from rep3d.interactive.grid import Box
from rep3d.interactive.history import Forgotten, History
from rep3d.interactive.label_state import LabelState
from rep3d.interactive.prompts import Kind, Prompt
from rep3d.interactive.steps import Coarse, Step, pack, unchanged, unpack

# 4 had no limits of steps, 3 nothing of what is coarse, 2 the box alone of what is to be told, 1 no locks and no old
# paintings
FORMAT = 5


def to_bytes(state: LabelState) -> bytes:
    """See `from_bytes`."""
    history, forgotten = state.history, state.history.forgotten
    painting = [] if forgotten.painting is None else [forgotten.painting]
    steps = [*history.done, *history.undone, state.untold, *painting]
    prompts = [*forgotten.prompts, *(prompt for step in steps for prompt in step.prompts), *state.earlier]
    positions = np.array([position for prompt in prompts for position in prompt.positions], np.float64)
    blobs = [zlib.compress(positions.tobytes(), 1), b"" if state.box is None else pack(state.mask[state.box])]
    blobs += [blob for step in steps for blob in (step.joined, step.left, step.limits)]
    blobs += [blob for one in state.coarse for blob in one.blobs]
    header = {
        "format": FORMAT,
        "shape": list(state.mask.shape),
        "box": _numbers(state.box),
        "prompts": [[prompt.kind, prompt.positive, len(prompt.positions)] for prompt in prompts],
        "old": len(forgotten.prompts),
        "old_in_force": len(forgotten.in_force),
        "earlier": len(state.earlier),
        "forgotten": forgotten.count,
        "done": len(history.done),
        "undone": len(history.undone),
        "steps": [[len(step.prompts), step.painted, _numbers(step.box), step.locks] for step in steps],
        "coarse": [one.told() for one in state.coarse],
        "sizes": [len(blob) for blob in blobs],
    }
    text = json.dumps(header).encode()
    content = b"".join([len(text).to_bytes(8, "little"), text, *blobs])
    return zlib.crc32(content).to_bytes(4, "little") + content


def from_bytes(content: bytes, name: str) -> LabelState:
    """What `to_bytes` was given, also if that was earlier code.

    Args:
        content: what it gave.
        name: of its origin, for messages.

    Raises:
        ValueError: it is damaged, or of a newer format.
    """
    if zlib.crc32(content[4:]).to_bytes(4, "little") != content[:4]:
        raise ValueError(f"{name} is damaged: its checksum differs")
    start = 12 + int.from_bytes(content[4:12], "little")
    header = json.loads(content[12:start])
    check_format(header["format"], FORMAT, name)
    ends = list(accumulate(header["sizes"], initial=start))
    return _read(header, [content[low:high] for low, high in pairwise(ends)])


def _read(header: dict[str, Any], blobs: list[bytes]) -> LabelState:
    mask, box = torch.zeros(header["shape"], dtype=torch.bool), _slices(header["box"])
    if box is not None:
        mask[box] = unpack(blobs[1], box)
    prompts, old, parts = _read_prompts(header["prompts"], blobs[0]), header["old"], 2 if header["format"] < 5 else 3
    end = 2 + parts * len(header["steps"])
    packed_steps = [blobs[start : start + parts] for start in range(2, end, parts)]
    steps = _read_steps(header["steps"], prompts[old:], packed_steps)
    done = header["done"]
    known = done + header.get("undone", len(steps))
    others = steps[known:]
    untold = unchanged(_slices(header["untold"])) if header["format"] < 3 else others.pop(0)
    forgotten = Forgotten(
        count=header.get("forgotten", 0),
        prompts=tuple(prompts[:old]),
        in_force=tuple(prompts[old - header["old_in_force"] : old]),
        painting=others[0] if others else None,
    )
    packed = iter(blobs[end:])
    return LabelState(
        mask=mask,
        box=box,
        history=History(tuple(steps[:done]), tuple(steps[done:known]), forgotten),
        coarse=tuple(Coarse.read(told, packed) for told in header.get("coarse", ())),
        untold=untold,
        earlier=tuple(prompts[len(prompts) - header.get("earlier", 0) :]),
    )


def _read_steps(table: Sequence[Sequence[Any]], prompts: list[Prompt], blobs: list[list[bytes]]) -> list[Step]:
    steps = []
    for (count, painted, numbers, *locks), (joined, left, *limits) in zip(table, blobs, strict=True):
        step = Step(tuple(prompts[:count]), painted, _slices(numbers), joined, left, *locks)
        steps.append(replace(step, limits=b"".join(limits)))
        prompts = prompts[count:]
    return steps


def _read_prompts(table: Sequence[tuple[Kind, bool, int]], content: bytes) -> list[Prompt]:
    positions = np.frombuffer(zlib.decompress(content), np.float64).reshape(-1, 3).tolist()
    ends = accumulate(count for _, _, count in table)
    return [
        Prompt(kind, tuple(map(tuple, positions[end - count : end])), positive)
        for (kind, positive, count), end in zip(table, ends, strict=True)
    ]


def _numbers(box: Box | None) -> list[list[int]] | None:
    return None if box is None else [[side.start, side.stop] for side in box]


def _slices(numbers: list[list[int]] | None) -> Box | None:
    if numbers is None:
        return None
    x, y, z = (slice(start, stop) for start, stop in numbers)
    return x, y, z
