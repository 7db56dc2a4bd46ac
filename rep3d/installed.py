"""Where the configs and the bundles lie that come with the package: in it, or beside it in a checkout."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

CONFIGS, BUNDLES, LICENCE = "configs", "bundles", "LICENSE"


def root() -> Path:
    """The folder that holds `configs` and `bundles`."""
    package = Path(__file__).resolve().parent
    return package if (package / CONFIGS).is_dir() else package.parent


def licence_text(folder: Path) -> str:
    """The project's licence: the file in a folder, or else, as a wheel has it, what is installed with the package.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = folder / LICENCE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    text = distribution("rep3d").read_text(f"licenses/{LICENCE}")
    if text is None:
        raise FileNotFoundError(f"{path} does not exist, and the installed package has no licence")
    return text
