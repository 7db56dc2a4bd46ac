"""Images that a caller sends for a while, without adding them to the studies."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from monailabel_app.files import read_json, write_json
from monailabel_app.validation import RequestError

FILE = "session.json"
MAX_EXPIRY = 24 * 3600  # seconds


class Sessions:
    """Folders named by a random id; each is its owner's alone and expires.

    Args:
        root: holds one folder per session.
        expiry: seconds that a session lives after its last use.
    """

    def __init__(self, root: Path, expiry: int = 3600) -> None:
        self.root = root
        self.expiry = expiry
        root.mkdir(parents=True, exist_ok=True)

    def create(self, image: Path, owner: str, expiry: int = 0) -> dict[str, Any]:
        """Move a checked image into a new session."""
        self.remove_expired()
        session_id = str(uuid.uuid4())
        folder = self.root / session_id
        folder.mkdir()
        shutil.move(image, folder / image.name)
        now = int(time.time())
        session = {
            "name": session_id,
            "image": image.name,
            "owner": owner,
            "create_ts": now,
            "last_access_ts": now,
            "expiry": min(expiry if expiry > 0 else self.expiry, MAX_EXPIRY),
        }
        self._write(session)
        return session

    def get(self, session_id: str, owner: str, touch: bool = True) -> dict[str, Any]:
        """What is known of a session.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        session = self._read(session_id)
        if session is None or session["owner"] != owner or _is_expired(session):
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
        session = self.get(session_id, owner, touch=False)
        shutil.rmtree(self.root / session_id)
        return session

    def remove_expired(self) -> int:
        """Forget what has expired; how many sessions that were."""
        sessions = [self._read(folder.name) for folder in self.root.iterdir()]
        expired = [session for session in sessions if session is not None and _is_expired(session)]
        for session in expired:
            shutil.rmtree(self.root / session["name"], ignore_errors=True)
        return len(expired)

    def _read(self, session_id: str) -> dict[str, Any] | None:
        try:
            if str(uuid.UUID(session_id)) != session_id:
                return None
        except ValueError:
            return None
        return read_json(self.root / session_id / FILE) or None

    def _write(self, session: dict[str, Any]) -> None:
        write_json(self.root / session["name"] / FILE, session)


def _is_expired(session: dict[str, Any]) -> bool:
    return session["last_access_ts"] + session["expiry"] < time.time()
