"""Which files are DICOM, by how they begin; needs no library."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = "DICOMDIR"
PREAMBLE = 128  # bytes
# How a file without preamble begins: with the group of the file's own header, or with the first of a data set.
GROUPS = (b"\x02\x00", b"\x08\x00")


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, with or without a preamble, and is no DICOMDIR.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(PREAMBLE + 4)
    return path.name.upper() != DIRECTORY and (start[PREAMBLE:] == b"DICM" or start.startswith(GROUPS))
