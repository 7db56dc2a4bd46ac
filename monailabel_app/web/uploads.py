"""Files that a request brings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import UploadFile

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
