"""One owner of a folder at a time. The system gives a lock back when its process ends, also when it is killed."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from ignite.engine import Events
from monai.engines import Workflow

REMEDIES = {  # of those who find the folder taken, by owner
    "training": "wait for its end, or give another --ckpt_dir and another --output_dir",
    "evaluation": "wait for its end, or give another --output_dir",
    "prediction": "wait for its end, or give another --output_dir",
    "deepedit": "wait for its end, or give another folder, --output FILE",
    "drawing": "wait for its end, or give another --output_dir",
    "demo": "wait for its end, or give another --output",
    "server": "end it, or take other studies or bundles",
}


def lock_file(folder: str | os.PathLike, owner: str) -> Path:
    """The file that is locked; it stays behind where a process was killed, and then locks nothing."""
    return Path(folder) / f".{owner}.lock"


def lock_folders(folders: Iterable[str | os.PathLike], owner: str) -> list[FileLock]:
    """Keep other processes with the same kind of owner away from folders, for as long as the result is kept.

    Args:
        folders: made where they are missing. One that cannot be written to needs no lock.
        owner: one of REMEDIES. Owners of different kinds do not mind each other.

    Raises:
        ValueError: another process has the folder, or it cannot be locked.
    """
    locks = []
    for folder in map(Path, folders):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                # One object per process and file, so that a process never shuts itself out.
                locks.append(FileLock(lock_file(folder, owner), timeout=0, thread_local=False, is_singleton=True))
                locks[-1].acquire()
        except Timeout:
            raise ValueError(f"another {owner} works on {folder}: {REMEDIES[owner]}") from None
        except OSError as error:
            raise ValueError(f"{folder} cannot be locked ({error.strerror})") from error
    return locks


class FolderLocks:
    """Locks on the folders that a run writes to, from here to the end of the run, or of Python.

    Args:
        folders: see `lock_folders`.
        owner: likewise.
        writes: whether this process writes: rank 0 only. Others lock nothing.

    Raises:
        ValueError: see `lock_folders`.
    """

    def __init__(self, folders: Iterable[str | os.PathLike], owner: str, *, writes: bool = True) -> None:
        self.locks = lock_folders(folders, owner) if writes else []
        weakref.finalize(self, _give_back, self.locks)  # by a run that was refused or failed

    def attach(self, engine: Workflow) -> None:
        """Attach to the engine whose end gives the folders back."""
        engine.add_event_handler(Events.COMPLETED, self.release)

    def release(self) -> None:
        """Give the folders back and leave no file there."""
        _give_back(self.locks, force=True)
        self.locks.clear()


def _give_back(locks: Iterable[FileLock], force: bool = False) -> None:
    """Without `force`, only where no other run of this process has the folder, too."""
    for lock in locks:
        if lock.is_locked and (force or lock.lock_counter == 1):
            with suppress(OSError):
                os.unlink(lock.lock_file)  # before the release: whoever opened it meanwhile finds it gone
        lock.release(force=force)
