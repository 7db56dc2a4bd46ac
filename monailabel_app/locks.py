"""One server at a time on a folder. The system gives a lock back when the server ends, also when it is killed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

FILE = "server.lock"


def lock_folders(folders: Iterable[Path]) -> list[FileLock]:
    """Keep other servers away from folders, for as long as the result is kept.

    Args:
        folders: made where they are missing. One that cannot be written to needs no lock.

    Raises:
        ValueError: another server has the folder, or it cannot be locked.
    """
    locks = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                locks.append(FileLock(folder / FILE, timeout=0))
                locks[-1].acquire()
        except Timeout:
            raise ValueError(f"another server works on {folder}: end it, or take other studies or bundles") from None
        except OSError as error:
            raise ValueError(f"{folder} cannot be locked ({error.strerror})") from error
    return locks
