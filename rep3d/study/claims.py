"""Whose cells lie in a folder: those of one data set, one bundle's configs and one plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rep3d.files import read_json, short_digest, write_json


def claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Write down the settings of a folder's cells.

    Raises:
        ValueError: it holds the cells of others.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / "settings.json"
    known = read_json(path)
    if known and known != settings:
        raise ValueError(f"output_dir {output} holds cells of {known}, not of {dict(settings)}: give another folder")
    write_json(path, settings)


def config_digests(bundle: Path, names: Sequence[str]) -> dict[str, str]:
    """Of configs of a bundle's folder, by their names; cells are told by them from those of other settings."""
    return {name: short_digest(bundle / f"configs/{name}.json") for name in names}
