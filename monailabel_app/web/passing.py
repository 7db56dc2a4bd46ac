"""Files that go with their answer."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send


class PassingFile(FileResponse):
    """A temporary file, which is removed whatever becomes of the answer.

    It is answered as a whole: the next request makes another, whose parts must not be joined to this one's.
    """

    def __init__(self, path: Path, filename: str = "", media_type: str | None = None) -> None:
        super().__init__(path, headers={"accept-ranges": "none"}, media_type=media_type, filename=filename or path.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        try:
            await super().__call__({**scope, "headers": headers}, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)
