"""The weights of a bundle over time: every version is kept, one serves, any can be made to serve again.

    models/model.pt                      the weights that serve
    models/versions/0001/model.pt        a version
    models/versions/0001/version.json    number, time, user, data, scores, note
    models/versions/.format              FORMAT

A version counts once its JSON file is there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from rep3d.files import copy_whole, read_json, write_json
from rep3d.format_number import check_folder, mark_folder

FOLDER, FILE = "models/versions", "model.pt"
FORMAT = 1  # the number rises with what this code would misread


def check_versions(bundle: Bundle) -> None:
    """Refuse versions that a newer server wrote.

    Raises:
        ValueError: their format is newer than FORMAT, or no number.
    """
    check_folder(bundle.root / FOLDER, FORMAT)


def list_versions(bundle: Bundle) -> list[dict[str, Any]]:
    """All versions, the oldest first; "serving" tells which one serves."""
    serving = _digest(bundle.weights)
    found = []
    for path in _descriptions(bundle):
        version = read_json(path)
        found.append({**version, "serving": version["sha256"] == serving})
    return found


def version_files(bundle: Bundle) -> list[Path]:
    """The weights of all versions, the oldest first."""
    return [path.with_name(FILE) for path in _descriptions(bundle)]


def add_version(bundle: Bundle, weights: Path, told: Mapping[str, Any]) -> int:
    """Keep a copy of weights as the next version, without serving them; its number.

    Weights that are a version already stay that one.

    Args:
        told: what to remember, such as user, data, scores and note.
    """
    with _changing(bundle):
        same, known = version_of(bundle, weights), list_versions(bundle)
        if same:
            return same["version"]
        number = known[-1]["version"] + 1 if known else 1
        folder = _folder(bundle) / f"{number:04d}"
        shutil.rmtree(folder, ignore_errors=True)  # of an addition that was interrupted
        folder.mkdir()
        copy_whole(weights, folder / FILE)
        version = {
            "version": number,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "sha256": _digest(folder / FILE),
            **told,
        }
        write_json(folder / "version.json", version)
    return number


def version_of(bundle: Bundle, weights: Path) -> dict[str, Any] | None:
    """The version that holds these very weights."""
    digest = _digest(weights)
    return next((version for version in list_versions(bundle) if version["sha256"] == digest), None)


def keep_serving(bundle: Bundle) -> None:
    """Make a version of the weights that serve, where they are not one yet."""
    with _changing(bundle):
        if bundle.weights.is_file() and not any(version["serving"] for version in list_versions(bundle)):
            add_version(bundle, bundle.weights, {"user": None, "note": "was there before the app kept versions"})


def serve_version(bundle: Bundle, number: int) -> dict[str, Any]:
    """Let a version serve from the next request on.

    Raises:
        RequestError: 404, there is no such version.
    """
    with _changing(bundle):
        version = next((version for version in list_versions(bundle) if version["version"] == number), None)
        if version is None:
            raise RequestError(404, f"model {bundle.name!r} has no version {number}")
        keep_serving(bundle)
        copy_whole(_folder(bundle) / f"{number:04d}" / FILE, bundle.weights)
    return {**version, "serving": True}


def _changing(bundle: Bundle) -> FileLock:
    """Hold it while versions change: threads of the server do that, and the command. A thread may hold it twice."""
    _folder(bundle).mkdir(parents=True, exist_ok=True)
    mark_folder(_folder(bundle), FORMAT)
    return FileLock(_folder(bundle) / ".lock", is_singleton=True)


def _descriptions(bundle: Bundle) -> list[Path]:
    return sorted(_folder(bundle).glob("[0-9]*/version.json"))


def _folder(bundle: Bundle) -> Path:
    check_versions(bundle)
    return bundle.root / FOLDER


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
