"""A line of `python -m monai.bundle`: its config files, its options, and its run."""

from __future__ import annotations

import ast
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rep3d import installed
from rep3d.files import read_json

YAML = (".yaml", ".yml")


def training_of(bundle: Path, config_file: str | None = None, options: Mapping[str, str] | None = None) -> list[str]:
    """The arguments of `python -m monai.bundle` that train a bundle."""
    return command("training", bundle, ["train.json"], config_file, options or {})


def command(
    run_id: str,
    bundle: Path,
    files: Sequence[str],
    overlays: str | None,
    options: Mapping[str, str],
    settings: Sequence[str] = (),
) -> list[str]:
    """The arguments of `python -m monai.bundle`; `settings` are files between the bundle's own and the overlays.

    Raises:
        ValueError: one of the files is damaged.
    """
    paths = [*(str(bundle / "configs" / name) for name in files), *settings, *overlay_paths(overlays)]
    for path in _json_files(paths):
        read_json(path)
    words = ["run", run_id, "--config_file", paths[0] if len(paths) == 1 else str(paths), "--bundle_root", str(bundle)]
    return words + [word for name, value in options.items() for word in (f"--{name}", value)]


def line_of(arguments: Sequence[str]) -> str:
    """What somebody would type."""
    return f"python -m monai.bundle {shlex.join(arguments)}"


def run_line(arguments: Sequence[str]) -> None:
    """Print `python -m monai.bundle` with its arguments, run it, and end as it does where it fails."""
    print(line_of(arguments), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "monai.bundle", *arguments])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:  # which reached the run as well: it ends by itself
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
    if status != 0:
        raise SystemExit(status if status > 0 else 128 - status)


def told_by(overlays: str | None, options: Mapping[str, str]) -> dict[str, str]:
    """The entries of the overlays, as text, and what is typed, which counts more."""
    laid = {name: str(value) for path in overlay_paths(overlays) for name, value in read_config(path).items()}
    return laid | dict(options)


def overlay_paths(files: str | None) -> list[str]:
    """Paths; one such as configs/networks/unet.json is that of the package, where there is no file of this name."""
    if files is None:
        return []
    return [file if Path(file).is_file() else _of_the_package(file) for file in paths_of("config_file", files)]


def _of_the_package(file: str) -> str:
    path = installed.root() / file
    if not path.is_file():
        raise FileNotFoundError(f"config_file {file!r} does not exist, neither here nor in {installed.root()}")
    return str(path)


def paths_of(name: str, typed: str) -> list[str]:
    """Raises ValueError: neither a path nor a list of paths."""
    try:
        return [str(file) for file in ast.literal_eval(typed)] if typed.startswith("[") else [typed]
    except (ValueError, SyntaxError):
        raise ValueError(f"{name} is {typed!r}, expected a path, or several as ['a.json','b.json']") from None


def read_config(path: str) -> dict[str, Any]:
    """The entries of a config file; none of one that is neither JSON nor YAML, which the run refuses.

    Raises:
        ValueError: it is damaged JSON.
    """
    if not path.lower().endswith(YAML):
        return read_json(path) if _json_files([path]) else {}
    from monai.bundle import ConfigParser  # here, not above: it takes seconds

    return ConfigParser.load_config_file(path)


def _json_files(paths: Sequence[str]) -> list[str]:
    """Those that are JSON; overlays may be YAML."""
    return [path for path in paths if path.lower().endswith(".json")]
