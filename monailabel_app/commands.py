"""The versions of a model's weights on the command line, whether the server runs or not.

python -m monailabel_app versions --model NAME [--bundles DIR]
python -m monailabel_app serve_version --model NAME --version 3 [--bundles DIR]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel_app.bundles import Bundle, choose_bundles, find_prompted
from monailabel_app.models.versions import keep_shipped, list_versions, serve_version

COMMANDS = ("versions", "serve_version")
COLUMNS = ("version", "date", "dice", "cases", "user", "note", "serving")


def run_command(arguments: Sequence[str], bundles: Path) -> str:
    """What a command prints.

    Args:
        arguments: one of COMMANDS, and its options.
        bundles: folder of the bundles, where the options name none.

    Raises:
        ValueError: there is no such model.
        RequestError: there is no such version.
        SystemExit: the options are wrong.
    """
    parser = argparse.ArgumentParser(f"python -m monailabel_app {arguments[0]}", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="the bundle's name")
    parser.add_argument("--bundles", type=Path, default=bundles, help="folder of the bundles")
    if arguments[0] == "serve_version":
        parser.add_argument("--version", type=int, required=True, help="its number, as `versions` tells it")
    options = parser.parse_args(arguments[1:])
    bundle = _find(options.bundles, options.model)
    keep_shipped(bundle)
    if arguments[0] == "versions":
        versions = list_versions(bundle)
        if not versions:
            return f"{bundle.name} has no versions yet: the first retraining keeps the weights that serve as version 1"
        return version_table(versions)
    serve_version(bundle, options.version)
    return f"{bundle.name}: version {options.version} serves"


def _find(bundles: Path, name: str) -> Bundle:
    prompted = find_prompted(bundles)
    if prompted is not None and name == prompted.name:
        return prompted
    chosen = choose_bundles(bundles, name)
    if len(chosen) != 1:
        raise ValueError(f"--model is {name!r}, expected one of {', '.join(chosen)}")
    return next(iter(chosen.values()))


def version_table(versions: Sequence[Mapping[str, Any]]) -> str:
    """The versions in lines and columns; cases are counted as training + validation, Dice is on the latter."""
    rows = [COLUMNS, *(tuple(_cells(version)) for version in versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cells(version: Mapping[str, Any]) -> list[str]:
    dice, cases = version.get("dice", {}).get("new"), version.get("cases")
    return [
        str(version["version"]),
        version["time"][:16].replace("T", " "),
        "-" if dice is None else f"{dice:.4f}",
        f"{len(cases['training'])} + {len(cases['validation'])}" if cases else "-",
        version["user"] or "-",
        version["note"],
        "yes" if version["serving"] else "",
    ]
