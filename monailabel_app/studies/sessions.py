"""Images that a caller sends for a while, without adding them to the studies: sessions, as MONAI Label calls them.

The app calls them lent scans; its own sessions are users' work on any image, see `monailabel_app.interaction.session`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from monailabel_app.errors import RequestError
from rep3d.files import WriteError, copy_whole, read_record, write_json

logger = logging.getLogger(__name__)

FILE = "session.json"
MAX_EXPIRY = 24 * 3600  # seconds
# Of one owner and of all together, at a time.
OWNER_SESSIONS, ALL_SESSIONS = 50, 500
OWNER_BYTES, ALL_BYTES = 16 * 2**30, 64 * 2**30


@dataclass(frozen=True)
class Session:
    """A scan that is lent, as its folder's FILE tells of it and as clients see it; times in seconds."""

    name: str
    image: str  # the file's name
    bytes: int
    owner: str
    create_ts: int
    last_access_ts: int
    expiry: int

    @property
    def is_expired(self) -> bool:
        return self.last_access_ts + self.expiry < time.time()

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Sessions:
    """Folders named by a random id, which only the server's user may read; each is its owner's alone and expires.

    Args:
        root: holds one folder per session.
        expiry: seconds that a session lives after its last use.
    """

    def __init__(self, root: Path, expiry: int = 3600) -> None:
        self.root = root
        self.expiry = expiry
        self._lock = threading.RLock()  # of creating and removing
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    def create(self, image: Path, owner: str, expiry: int = 0) -> Session:
        """Copy a checked image into a new session.

        Raises:
            RequestError: 429, the owner has too many sessions or bytes already; 507, all owners together have.
            WriteError: the disk is full.
        """
        now, expiry = int(time.time()), min(expiry if expiry > 0 else self.expiry, MAX_EXPIRY)
        session = Session(str(uuid.uuid4()), image.name, image.stat().st_size, owner, now, now, expiry)
        folder = self.root / session.name
        with self._lock:
            self.remove_expired()
            self._check_room(session)
            folder.mkdir(mode=0o700)
            try:
                copy_whole(image, folder / image.name, private=True)
                self._write(session)
            except BaseException:
                shutil.rmtree(folder)
                raise
        return session

    def get(self, session_id: str, owner: str, touch: bool = True) -> Session:
        """What is known of a session.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        session = self._read(session_id)
        if session is None or session.owner != owner or session.is_expired:
            raise RequestError(404, "there is no such session")
        if touch:
            session = replace(session, last_access_ts=int(time.time()))
            try:
                self._write(session)
            except WriteError as error:
                logger.warning("the use of a lent scan is not noted: %s", error)
        return session

    def image(self, session_id: str, owner: str, touch: bool = True) -> Path:
        """The session's image.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        return self.root / session_id / self.get(session_id, owner, touch).image

    def remove(self, session_id: str, owner: str) -> Session:
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
            expired = [folder for folder in self._folders() if self._is_expired(folder)]
            for folder in expired:
                shutil.rmtree(folder, ignore_errors=True)
        return len(expired)

    def _check_room(self, new: Session) -> None:
        sessions = [session for folder in self._folders() if (session := self._read(folder.name))]
        own = [session for session in sessions if session.owner == new.owner]
        if _is_full(own, new, OWNER_SESSIONS, OWNER_BYTES):
            raise RequestError(
                429,
                f"{new.owner} has {len(own)} sessions, and may have {OWNER_SESSIONS} with {OWNER_BYTES / 2**30:g} "
                "GiB in all: remove some, or wait until they expire",
            )
        if _is_full(sessions, new, ALL_SESSIONS, ALL_BYTES):
            raise RequestError(507, "the server's room for sessions is full: wait until some expire")

    def _folders(self) -> list[Path]:
        """Of all sessions, and of those that are being made or were when the server was killed."""
        return [folder for folder in self.root.iterdir() if is_session_id(folder.name)]

    def _read(self, session_id: str) -> Session | None:
        """None where there is no such session, or not all of it yet, or it is damaged."""
        try:
            return read_record(self.root / session_id / FILE, Session) if is_session_id(session_id) else None
        except (ValueError, TypeError) as error:
            logger.warning("session left alone until it expires: %s", error)
            return None

    def _write(self, session: Session) -> None:
        write_json(self.root / session.name / FILE, session.json(), private=True)

    def _is_expired(self, folder: Path) -> bool:
        session = self._read(folder.name)
        return session.is_expired if session else folder.stat().st_mtime + self.expiry < time.time()


def is_session_id(text: str) -> bool:
    """Whether a text may name a session, and so a folder."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _is_full(sessions: list[Session], new: Session, number: int, size: int) -> bool:
    return len(sessions) >= number or sum(session.bytes for session in sessions) + new.bytes > size
