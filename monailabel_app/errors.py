"""What a caller is told when a request cannot be answered."""

from __future__ import annotations

from fastapi import HTTPException


class RequestError(HTTPException):
    """What the caller is told: an HTTP status, 4xx where the mistake is the caller's, and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message, {"WWW-Authenticate": "Bearer"} if status == 401 else None)

    @property
    def status(self) -> int:
        return self.status_code

    @property
    def message(self) -> str:
        return self.detail
