"""Files that a request brings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fastapi import Request, UploadFile

from monailabel_app.studies.volumes import split_suffix

COPY_BYTES = 2**20


@contextmanager
def received(upload: UploadFile, suffix: str = "") -> Iterator[Path]:
    """The upload as a file under a name of our own, for as long as the context lasts.

    Args:
        suffix: of the file; empty: that of the upload's name.

    Raises:
        RequestError: a file name without a known suffix.
    """
    suffix = suffix or split_suffix(upload.filename or "")[1]
    with tempfile.TemporaryDirectory(prefix="rep3d_") as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, COPY_BYTES)
        yield path


@asynccontextmanager
async def received_body(request: Request) -> AsyncIterator[BinaryIO]:
    """A request's body as a file, for as long as the context lasts; a large one lies on disk."""
    with tempfile.SpooledTemporaryFile(max_size=COPY_BYTES) as spooled:
        file = cast(BinaryIO, spooled)
        upload = UploadFile(file)
        async for part in request.stream():
            await upload.write(part)
        file.seek(0)
        yield file
