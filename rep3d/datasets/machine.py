"""The computer on which a bundle will train: what its memory lets it do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

UNKNOWN_MEMORY = 8e9  # bytes, of a computer that does not tell
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # the control groups of this process; and all


@dataclass(frozen=True)
class Machine:
    """Where a bundle will train.

    Args:
        memory: bytes that a training may use, of the GPU where there is one.
        has_gpu: whether it trains on one.
        told: what that is, in words.
        host_memory: bytes of the computer, or of its part that a container or a batch job may use.
    """

    memory: float
    has_gpu: bool
    told: str
    host_memory: float


def this_machine(gpu_memory: float | None = None) -> Machine:
    """This computer, or one with another GPU.

    Args:
        gpu_memory: GB of the GPU that the bundle will train on; None: that of this computer, if it has one.
    """
    host = _host_memory()
    if gpu_memory is not None:
        return Machine(gpu_memory * 1e9, True, f"a GPU of {gpu_memory:g} GB", host)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return Machine(gpu.total_memory, True, f"{gpu.name} of {gpu.total_memory / 1e9:.0f} GB", host)
    return Machine(host, False, f"a computer without GPU, of {host / 1e9:.1f} GB", host)


def _host_memory() -> float:
    """Bytes of the computer, or of its part that a container or a batch job may use."""
    try:
        whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MEMORY
    return min([whole, *_memory_limits()])


def _memory_limits() -> list[float]:
    """The limits of Linux' control groups, version 2 or 1, that hold this process: its own and those around it."""
    texts = []
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = path.strip("/").split("/")
        texts += [_read(root.joinpath(*parts[:count], name)).strip() for count in range(len(parts) + 1)]
    return [float(text) for text in texts if text.isdecimal()]  # others have none, or say "max"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
