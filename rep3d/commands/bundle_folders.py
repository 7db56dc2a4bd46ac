"""`rep3d bundles`: which bundles there are, and how one comes into a folder of yours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d import installed
from rep3d.console.nearest import nearest
from rep3d.console.tables import markdown_table
from rep3d.files import read_json
from rep3d.shipped import INCLUDED, METADATA, NOTICE, SHIPPED, find_weights

FOLDER = "bundles"


@SetParseFn(str)
def bundles(name: str | None = None, bundle_dir: str = FOLDER) -> None:
    """List the bundles, or write one that comes with the package into a folder of yours.

    Args:
        name: of the bundle to write; without it they are listed.
        bundle_dir: the folder that holds your bundles, each in a folder of its name.
    """
    if name is None:
        print(_table(Path(bundle_dir)))
    else:
        print(write_bundle(name, Path(bundle_dir)))


def find_bundle(bundle: str, bundle_dir: str = FOLDER) -> Path:
    """The folder of a bundle; one that comes with the package is written first.

    Args:
        bundle: its folder, or its name.
        bundle_dir: the folder that holds bundles by name.

    Raises:
        ValueError: there is none.
    """
    for folder in (Path(bundle), Path(bundle_dir) / bundle):
        if (folder / METADATA).is_file():
            return folder
    if bundle in _names(_shipped()):
        folder = write_bundle(bundle, Path(bundle_dir))
        print(f"written: {folder}")
        return folder
    known = sorted({*_names(_shipped()), *_names(Path(bundle_dir))})
    raise ValueError(
        f"bundle is {bundle!r}, expected the folder of a bundle, or one of {', '.join(known)}{nearest(bundle, known)}"
    )


def write_bundle(name: str, bundle_dir: Path) -> Path:
    """Write a bundle that comes with the package, with the weights that it ships with; its folder.

    Raises:
        ValueError: there is no such bundle.
        FileExistsError: there is a file or a folder of that name.
    """
    source, folder = _shipped() / name, bundle_dir / name
    if name not in _names(_shipped()):
        raise ValueError(
            f"bundle is {name!r}, expected one of {', '.join(_names(_shipped()))}{nearest(name, _names(_shipped()))}"
        )
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: give another --bundle_dir, or move it away")
    bundle_dir.mkdir(parents=True, exist_ok=True)
    temporary = bundle_dir / f".{name}.{os.getpid()}.part"
    try:
        for path in _included(source):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, temporary / path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_missing(bundle_dir: Path, named: Sequence[str] = ()) -> list[Path]:
    """Write the bundles of the package that a folder lacks: those that ship with weights, and those that are named."""
    wanted = [name for name in _names(_shipped()) if name in named or "weights" in _metadata(_shipped() / name)]
    return [write_bundle(name, bundle_dir) for name in wanted if not (bundle_dir / name).exists()]


def _included(bundle: Path) -> list[Path]:
    """The files of a bundle that come with the package, below its folder; a checkout may hold others."""
    weights = (SHIPPED, NOTICE) if "weights" in _metadata(bundle) else ()
    found = [path for name in (*INCLUDED, *weights) for path in (bundle / name, *(bundle / name).rglob("*"))]
    return [path.relative_to(bundle) for path in found if path.is_file()]


def _table(bundle_dir: Path) -> str:
    """The bundles of a folder, then those that come with the package, in Markdown."""
    rows = {name: [_task(bundle_dir / name), _weights(bundle_dir / name)] for name in _names(bundle_dir)}
    for name in _names(_shipped()):
        rows.setdefault(name, [_task(_shipped() / name), "comes with the package"])
    return markdown_table(["bundle", "task", f"in {bundle_dir}"], [[name, *row] for name, row in rows.items()])


def _weights(bundle: Path) -> str:
    return "has weights" if find_weights(bundle).is_file() else "no weights yet"


def _shipped() -> Path:
    return installed.root() / installed.BUNDLES


def _names(folder: Path) -> list[str]:
    """The bundles of a folder."""
    return sorted(path.parents[1].name for path in folder.glob(f"[!.]*/{METADATA}"))


def _task(bundle: Path) -> str:
    return str(_metadata(bundle).get("task", ""))  # which bundles of other people may lack


def _metadata(bundle: Path) -> dict:
    return read_json(bundle / METADATA)
