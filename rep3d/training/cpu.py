"""What makes a CPU faster for trainings: its memory, and threads that share its cores."""

from __future__ import annotations

import ctypes
import platform

# For the environment of a process that shares its cores with others: in GNU's OpenMP, threads that wait for one another
# spin so many turns, not 300,000, before they sleep (docs/performance.md). It reads this when torch is loaded.
SHARED_CORES = {"GOMP_SPINCOUNT": "1000"}


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones, with glibc (Linux); elsewhere do nothing.

    By default glibc gives every tensor above 32 MB back to the system, which then clears each page again: half the time
    of a training step on a CPU at 96^3. The price is a higher peak of memory, because freed gaps do not always fit.

    Returns:
        Whether it is so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max = -1, -4
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, -1))
