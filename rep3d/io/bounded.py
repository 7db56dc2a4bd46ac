"""Files that others sent: opened only where they are regular ones, unpacked in bounded time."""

from __future__ import annotations

import io
import math
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from rep3d.io.geometry import VolumeError

CHUNK = 2**20  # bytes that are read at a time
PACKED = 2**16  # the same of a compressed file, whose rest is copied at the end of each member
MAX_MEMBERS = 2**17  # of a gzip file: as many blocks of 64 KiB as 8 GiB have, and empty ones take a second
GZIP = 16 + zlib.MAX_WBITS  # gzip's header and checksum around zlib's stream

_deadline = ContextVar("_deadline", default=math.inf)  # of `time.monotonic`


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let what `fill` and `GzipReader` read in this context fail with TimeoutError after so long."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Open a regular file; a pipe or a device, which may have no end, is not touched.

    Raises:
        VolumeError: no such file, no regular one, or one that may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise VolumeError(path, "not a regular file (a folder, a pipe or a device)")
        return open(path, "rb")
    except FileNotFoundError:
        raise VolumeError(path, "no such file") from None
    except OSError as error:
        raise VolumeError(path, f"cannot be opened ({error.strerror})") from None


class GzipReader(io.RawIOBase):
    """What a gzip file holds, its checksums proved, as `gzip.open` gives it. Zeros may follow the last member.

    Python's own goes on for minutes in an upload that holds nothing but empty members.

    Args:
        file: at the beginning of the first member.

    Reading raises:
        EOFError: the file is cut.
        OSError: more than MAX_MEMBERS members, something else after zeros, or a `time_limit`.
        zlib.error: damaged, or something else after a member.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._stream = zlib.decompressobj(GZIP)
        self._packed = b""  # was read, and not yet unpacked
        self._members = 1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while not self._stream.eof or self._next_member():
            _check_time()
            packed = self._packed or self._file.read(PACKED)
            piece = self._stream.decompress(packed, len(buffer))
            self._packed = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
            if not packed:
                raise EOFError("the compressed file ended before its end-of-stream mark was reached")
        return 0

    def _next_member(self) -> bool:
        """Go on with the next member; False at the end of the file."""
        self._packed = self._packed or self._file.read(PACKED)
        if not self._packed:
            return False
        if self._packed[0] == 0:
            self._check_padding()
            return False
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise OSError(f"more than {MAX_MEMBERS} gzip members")
        self._stream = zlib.decompressobj(GZIP)
        return True

    def _check_padding(self) -> None:
        """Raise OSError unless nothing but zeros follows: programs disagree on members behind them."""
        while self._packed:
            _check_time()
            if self._packed.strip(b"\0"):
                raise OSError("something else follows the zeros behind a gzip member")
            self._packed = self._file.read(PACKED)


def fill(content: np.ndarray, file: io.BufferedIOBase | io.RawIOBase) -> int:
    """Read into an array of bytes, as far as the file goes; returns how many.

    Raises:
        TimeoutError: see `time_limit`.
    """
    view, count = content.data, 0
    while count < len(view) and (read := file.readinto(view[count : count + CHUNK])):
        _check_time()
        count += read
    return count


def _check_time() -> None:
    if time.monotonic() > _deadline.get():
        raise TimeoutError("it takes too long")
