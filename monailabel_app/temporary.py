"""Temporary files lie in a folder of this server's own, so that the next one knows what a killed one left behind."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

PREFIX = "rep3d_"  # short: the paths of sockets in it have 104 bytes at most
LOCK = ".lock"
MARKED = stat.S_ISVTX  # the sticky bit: of a folder that it is ours; systemd-tmpfiles leaves a file alone that has it
OLD = 24 * 3600  # seconds without a change, after which no server works in a folder that has lost its lock


@contextmanager
def temporary_file(suffix: str) -> Iterator[Path]:
    """A temporary file, which the caller deletes; where the context fails it is gone."""
    with tempfile.NamedTemporaryFile(prefix=PREFIX, suffix=suffix, delete=False) as file:
        path = Path(file.name)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class TemporaryFolder:
    """Where this process's temporary files lie. Where a cleaner removes it, another one takes its place.

    The lock lives as long as the process: of that of a killed server somebody else can take hold.

    Args:
        parent: of the folder.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._process = os.getpid()
        self._changing = threading.Lock()
        self._folders: list[Path] = []  # the last one is used
        self._make()

    def path(self) -> str:
        """The folder, which is there."""
        with self._changing:
            if not self._is_there():
                self._make()
            return str(self._folders[-1])

    def remove(self) -> None:
        """Remove the folder, unless this process is only a fork of its owner."""
        for folder in self._folders if os.getpid() == self._process else ():
            with suppress(OSError):  # it is gone already
                if _is_own(folder):
                    shutil.rmtree(folder, ignore_errors=True)

    def _is_there(self) -> bool:
        """Whether the lock is the very file that is held: others may have made a folder of that name since."""
        try:
            return os.path.samestat(os.lstat(self._folders[-1] / LOCK), self._locked)
        except OSError:
            return False

    def _make(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        self._folders.append(folder)
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        self._lock.acquire()
        for path in (folder, folder / LOCK):
            with suppress(OSError):  # not every system has it for files
                path.chmod(path.stat().st_mode | MARKED)
        self._locked = os.lstat(folder / LOCK)


@cache
def own_temporary_files() -> TemporaryFolder:
    """Give this process a temporary folder of its own, and remove those of servers that are not any more.

    Python's own functions use it from now on. It goes with the process, unless that is killed; with SIGTERM only where
    this is called before anything else handles that.
    """
    parent = Path(tempfile.gettempdir())
    remove_leftovers(parent)
    own = TemporaryFolder(parent)
    tempfile.gettempdir = own.path  # which all of `tempfile` asks; `tempfile.tempdir` would be a fixed one

    def end(number: int, frame: FrameType | None) -> None:
        own.remove()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # so that the process ends as it was told to

    atexit.register(own.remove)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    return own


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of servers that were killed; nothing else, and of no server that runs."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if not _is_own(folder):
                continue
            if (folder / LOCK).exists():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            elif _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # it runs, or is going already
            continue


def _is_own(path: Path) -> bool:
    """Whether a path is a folder, and this user's."""
    state = path.lstat()
    return stat.S_ISDIR(state.st_mode) and (not hasattr(os, "geteuid") or state.st_uid == os.geteuid())


def _is_abandoned(folder: Path) -> bool:
    """Whether a folder that has lost its lock was a server's, and nothing has changed in it for long."""
    is_marked = bool(folder.stat().st_mode & MARKED)
    return is_marked and max(path.lstat().st_mtime for path in (folder, *folder.iterdir())) < time.time() - OLD
