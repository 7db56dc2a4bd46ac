"""Temporary files lie in a folder of this server's own, so that the next one knows what a killed one left behind."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "rep3d_"  # short: the paths of sockets in it have 104 bytes at most
LOCK = ".lock"


@cache
def own_temporary_files() -> FileLock:
    """Give this process a temporary folder of its own, and remove those of servers that are not any more.

    The lock lives as long as the process: of that of a killed server somebody else can take hold.
    """
    parent = Path(tempfile.gettempdir())
    remove_leftovers(parent)
    folder = tempfile.mkdtemp(prefix=PREFIX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lock = FileLock(Path(folder) / LOCK, timeout=0)
    lock.acquire()
    tempfile.tempdir = folder
    return lock


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of servers that were killed; nothing else, and of no server that runs."""
    for file in parent.glob(f"{PREFIX}*/{LOCK}"):
        if file.parent.is_symlink():
            continue
        try:
            with FileLock(file, timeout=0):
                shutil.rmtree(file.parent, ignore_errors=True)
        except (Timeout, OSError):  # it runs, or is somebody else's
            continue
