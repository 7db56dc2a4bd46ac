"""What a caller is told when a request cannot be answered."""

from __future__ import annotations

import errno

from rep3d.files import WriteError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, somebody's part of it, the size of a file


class RequestError(Exception):
    """Why a request cannot be answered.

    Args:
        status: of HTTP, 4xx where the mistake is the caller's.
        message: what the caller is told.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


def storage_error(error: BaseException | None) -> RequestError | None:
    """507 for a file that cannot be written and for a full disk; None for other errors."""
    if isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno in FULL):
        return RequestError(507, f"the file cannot be stored ({error.strerror})")
    return None


def error_message(error: Exception) -> str:
    """What is told of any error: of those that nobody foresaw their type, the rest is in the log."""
    known = error if isinstance(error, RequestError) else storage_error(error)
    return known.message if known is not None else f"{type(error).__name__}, see the server's log"
