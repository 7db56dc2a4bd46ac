"""What a caller is told when a request cannot be answered."""

from __future__ import annotations


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
