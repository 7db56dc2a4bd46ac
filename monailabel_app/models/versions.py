"""The weights of a bundle over time: every version is kept, one serves, any can be made to serve again.

    models/trained/model.pt              the weights that serve
    models/trained/.next.pt              weights that are about to serve
    models/model.pt                      serve until there are others; a bundle ships with them, nothing writes there
    models/versions/0001/model.pt        a version
    models/versions/0001/version.json    number, time, user, origin, data, scores, note; what its training was told
    models/versions/.format              FORMAT

See `monailabel_app.history`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.history import History, digest
from rep3d.files import copy_whole, read_json
from rep3d.format_number import check_folder, mark_folder
from rep3d.shipped import settings_beside, write_settings

logger = logging.getLogger(__name__)

FOLDER = "models/versions"
NEXT = ".next.pt"
SETTINGS = "settings"  # of a version's info: what its training was told, see `rep3d.shipped.settings_beside`
FORMAT = 2  # the number rises with what older code would misread: 1 kept what serves in models/model.pt


def check_versions(bundle: Bundle) -> None:
    """Refuse versions that a newer server wrote.

    Raises:
        ValueError: their format is newer than FORMAT, or no number.
    """
    check_folder(bundle.root / FOLDER, FORMAT)


def list_versions(bundle: Bundle) -> list[dict[str, Any]]:
    """All versions, the oldest first; "serving" tells which one serves."""
    serving = digest(bundle.weights)
    return [{**one.info, "serving": one.info["sha256"] == serving} for one in _history(bundle).versions()]


def version_files(bundle: Bundle) -> list[Path]:
    """The weights of all versions, the oldest first."""
    return [version.file for version in _history(bundle).versions()]


def comparable_files(bundle: Bundle) -> list[Path]:
    """The weights of the versions that segment as those that serve do, with equal settings; the oldest first."""
    own, serving = read_json(bundle.config("inference")), bundle.settings
    versions = _history(bundle).versions()
    return [one.file for one in versions if {**own, **one.info.get(SETTINGS, {})} == {**own, **serving}]


def add_version(bundle: Bundle, weights: Path, info: Mapping[str, Any]) -> int:
    """Keep a copy of weights as the next version, with what lies beside them, without serving them; its number.

    Weights that are a version already stay that one.

    Args:
        info: what to remember, such as user, data, scores and note.
    """
    with changing(bundle):
        history = _history(bundle)
        told = read_json(settings_beside(weights))
        info = {**info, SETTINGS: told} if told else info
        known = history.holding(weights)
        return (known or history.add(weights, lambda copy: {"time": _now(), "sha256": digest(copy), **info})).number


def version_of(bundle: Bundle, weights: Path) -> dict[str, Any] | None:
    """The version that holds these very weights."""
    wanted = digest(weights)
    return next((version for version in list_versions(bundle) if version["sha256"] == wanted), None)


def keep_shipped(bundle: Bundle) -> None:
    """Make a version, which in a new bundle is the first, of the weights that the bundle came with.

    A folder that cannot be written to keeps no versions; its weights serve all the same.
    """
    came = bundle.shipped_sha256 and digest(bundle.shipped) == bundle.shipped_sha256
    if not came or not os.access(bundle.shipped.parent, os.W_OK):
        return
    earlier = list_versions(bundle)
    number = add_version(bundle, bundle.shipped, {"user": None, "origin": "shipped", "note": "came with the bundle"})
    if earlier and number > earlier[-1]["version"] and bundle.weights == bundle.shipped:
        logger.warning("%s: version %d serves, which came with an update; no other did", bundle.name, number)


def keep_serving(bundle: Bundle) -> None:
    """Make a version of the weights that serve, where they are not one yet."""
    if bundle.weights.is_file():
        add_version(bundle, bundle.weights, {"user": None, "note": "was there before the app kept versions"})


def serve_version(bundle: Bundle, number: int) -> dict[str, Any]:
    """Let a version serve from the next request on; beside it lies again what its training was told.

    Raises:
        RequestError: 404, there is no such version.
        WriteError: it cannot be written; what served before still does.
    """
    with changing(bundle):
        version = _history(bundle).find(number)
        if version is None:
            raise RequestError(404, f"model {bundle.name!r} has no version {number}")
        keep_serving(bundle)
        bundle.own_weights.parent.mkdir(exist_ok=True)
        copy_whole(version.file, _next(bundle))
        beside = read_json(settings_beside(version.file))  # of a version of earlier code, by `rep3d new`
        try:
            write_settings({**beside, **version.info.get(SETTINGS, {})}, bundle.own_weights)
        except OSError:
            _next(bundle).unlink()
            raise
        os.replace(_next(bundle), bundle.own_weights)
    return {**version.info, "serving": True}


def finish_serving(bundle: Bundle) -> None:
    """Let a version serve whose `serve_version` was killed: weights and settings may be of two versions then."""
    if not _next(bundle).is_file():
        return
    with changing(bundle):
        version = _history(bundle).holding(_next(bundle))
        if version is not None:
            serve_version(bundle, version.number)


def changing(bundle: Bundle) -> FileLock:
    """Hold it while versions change: threads of the server do that, and the command. A thread may hold it twice."""
    _folder(bundle).mkdir(parents=True, exist_ok=True)
    mark_folder(_folder(bundle), FORMAT)
    return FileLock(_folder(bundle) / ".lock", is_singleton=True)


def _history(bundle: Bundle) -> History:
    return History(_folder(bundle), "{}/model.pt", "{}/version.json")


def _next(bundle: Bundle) -> Path:
    return bundle.own_weights.with_name(NEXT)


def _folder(bundle: Bundle) -> Path:
    check_versions(bundle)
    return bundle.root / FOLDER


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
