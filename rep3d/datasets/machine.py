"""The computer on which a bundle will train: what its memory lets it do."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

UNKNOWN_MEMORY = 8e9  # bytes, of a computer that does not tell


@dataclass(frozen=True)
class Machine:
    """Where a bundle will train.

    Args:
        memory: bytes that a training may use, of the GPU where there is one.
        has_gpu: whether it trains on one.
        told: what that is, in words.
        host_memory: bytes of the computer.
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
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MEMORY
