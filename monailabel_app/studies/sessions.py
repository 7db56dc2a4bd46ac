"""Images that a caller sends for a while, without adding them to the studies."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from monailabel_app.errors import RequestError
from rep3d.files import copy_whole, read_json, write_json

FILE = "session.json"
MAX_EXPIRY = 24 * 3600  # seconds
# Of one owner and of all together, at a time.
OWNER_SESSIONS, ALL_SESSIONS = 50, 500
OWNER_BYTES, ALL_BYTES = 16 * 2**30, 64 * 2**30


class Sessions:
    """Folders named by a random id; each is its owner's alone and expires.

    Args:
        root: holds one folder per session.
        expiry: seconds that a session lives after its last use.
    """

    def __init__(self, root: Path, expiry: int = 3600) -> None:
        self.root = root
        self.expiry = expiry
        self._lock = threading.RLock()  # of creating and removing
        root.mkdir(parents=True, exist_ok=True)

    def create(self, image: Path, owner: str, expiry: int = 0) -> dict[str, Any]:
        """Copy a checked image into a new session.

        Raises:
            RequestError: 429, the owner has too many sessions or bytes already; 507, all owners together have, or the
                disk is full.
        """
        now = int(time.time())
        session: dict[str, Any] = {
            "name": str(uuid.uuid4()),
            "image": image.name,
            "bytes": image.stat().st_size,
            "owner": owner,
            "create_ts": now,
            "last_access_ts": now,
            "expiry": min(expiry if expiry > 0 else self.expiry, MAX_EXPIRY),
        }
        folder = self.root / session["name"]
        with self._lock:
            self.remove_expired()
            self._check_room(session)
            folder.mkdir()
            try:
                copy_whole(image, folder / image.name)
                self._write(session)
            except BaseException:
                shutil.rmtree(folder)
                raise
        return session

    def get(self, session_id: str, owner: str, touch: bool = True) -> dict[str, Any]:
        """What is known of a session.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        session = self._read(session_id)
        if not session or session["owner"] != owner or self._is_expired(session_id, session):
            raise RequestError(404, "there is no such session")
        if touch:
            session["last_access_ts"] = int(time.time())
            self._write(session)
        return session

    def image(self, session_id: str, owner: str) -> Path:
        """The session's image.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        return self.root / session_id / self.get(session_id, owner)["image"]

    def remove(self, session_id: str, owner: str) -> dict[str, Any]:
        """Forget a session and its image.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        with self._lock:
            session = self.get(session_id, owner, touch=False)
            shutil.rmtree(self.root / session_id)
        return session

    def remove_expired(self) -> int:
        """Forget what has expired, also of sessions that a kill left half made; how many that were."""
        with self._lock:
            expired = [name for name, session in self._all().items() if self._is_expired(name, session)]
            for name in expired:
                shutil.rmtree(self.root / name, ignore_errors=True)
        return len(expired)

    def _check_room(self, new: dict[str, Any]) -> None:
        sessions = [session for session in self._all().values() if session]
        own = [session for session in sessions if session["owner"] == new["owner"]]
        if _is_full(own, new, OWNER_SESSIONS, OWNER_BYTES):
            raise RequestError(
                429,
                f"{new['owner']} has {len(own)} sessions, and may have {OWNER_SESSIONS} with {OWNER_BYTES / 2**30:g} "
                "GiB in all: remove some, or wait until they expire",
            )
        if _is_full(sessions, new, ALL_SESSIONS, ALL_BYTES):
            raise RequestError(507, "the server's room for sessions is full: wait until some expire")

    def _all(self) -> dict[str, dict[str, Any]]:
        """The sessions by name; empty ones are being made, or were when the server was killed."""
        read = {folder.name: self._read(folder.name) for folder in self.root.iterdir()}
        return {name: session for name, session in read.items() if session is not None}

    def _read(self, session_id: str) -> dict[str, Any] | None:
        """None where the name is none of a session."""
        try:
            if str(uuid.UUID(session_id)) != session_id:
                return None
        except ValueError:
            return None
        return read_json(self.root / session_id / FILE)

    def _write(self, session: dict[str, Any]) -> None:
        write_json(self.root / session["name"] / FILE, session)

    def _is_expired(self, name: str, session: dict[str, Any]) -> bool:
        if not session:
            return (self.root / name).stat().st_mtime + self.expiry < time.time()
        return session["last_access_ts"] + session["expiry"] < time.time()


def _is_full(sessions: list[dict[str, Any]], new: dict[str, Any], number: int, size: int) -> bool:
    return len(sessions) >= number or sum(session["bytes"] for session in sessions) + new["bytes"] > size
