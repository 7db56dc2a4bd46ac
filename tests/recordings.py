"""What earlier code left on disk; `fixtures/record.py` made it."""

import tarfile
from pathlib import Path

RECORDED = Path(__file__).parent / "fixtures/recorded"


def unpack(name: str, folder: Path) -> Path:
    """Unpack a recording into a folder, and return the folder."""
    with tarfile.open(RECORDED / f"{name}.tar.xz") as file:
        file.extractall(folder, filter="data")
    return folder
