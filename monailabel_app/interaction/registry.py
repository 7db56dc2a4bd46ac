"""All sessions: each is one user's, one client's and of one image. They lie on disk, and live for days."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from monailabel_app.errors import RequestError
from monailabel_app.events import record_event
from monailabel_app.interaction.disk import SessionFolder, read_folders
from monailabel_app.interaction.disk_room import check_room
from monailabel_app.interaction.images import SessionImages
from monailabel_app.interaction.leftovers import Leftovers, is_over
from monailabel_app.interaction.memory import Memory
from monailabel_app.interaction.recognition import AS_IT_IS, Placement, is_spacing, may_be
from monailabel_app.interaction.record import Kind, SessionRecord
from monailabel_app.interaction.refinement import Refinement
from monailabel_app.interaction.session import InteractiveSession
from monailabel_app.interaction.voxels import compact, voxel_digest
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.names import id_of
from monailabel_app.studies.sessions import Sessions
from monailabel_app.studies.volumes import MAX_BYTES, MAX_EDGE, read_grid

logger = logging.getLogger(__name__)

KEPT_SECONDS = 1800  # in memory after the last use
ROOM_SECONDS = 20  # that a request waits for room there
SWEEP_SECONDS = 60  # between looks for what must not be kept any longer
MAX_WAITING = 16  # requests that work or wait in sessions, all together: others must find a thread meanwhile
LARGEST_SPACING = 1e3  # millimetres


class InteractiveSessions:
    """The sessions of a server.

    Args:
        root: holds one folder for each; no other server works on it.
        network: answers the prompts in all of them.
        studies: images.
        lent: scans that are lent; sessions of these go with them.
        expiry: seconds that the others live after their last use.
    """

    def __init__(
        self, root: Path, network: PromptedNetwork, studies: StudiesFolder, lent: Sessions, expiry: float
    ) -> None:
        self.root = root
        self.network = network
        self.expiry = expiry
        self._studies = studies
        self._lent = lent
        self._images = SessionImages(root, studies, lent)
        self._making = threading.Lock()  # one session at a time
        self._refinement, self._memory = Refinement(), Memory(self._all)
        self._admitted = threading.BoundedSemaphore(MAX_WAITING)
        found, unreadable = read_folders(root)
        self._leftovers = Leftovers(unreadable)
        self._lock = threading.Lock()  # of what follows
        self._sessions = {record.id: self._session(folder, record) for folder, record in found}  # the last used last
        threading.Thread(target=_sweep_regularly, args=(weakref.ref(self),), name="sessions", daemon=True).start()

    def of_study(self, owner: str, client: str, image_id: str) -> InteractiveSession:
        """The owner's session of an image of the studies, in this client's hands; made where there is none.

        Raises:
            RequestError: 404, there is no such image; 409, the voxels are others than those of the session that there
                was, which is told once; 429 or 507, too many sessions; or it cannot be read.
        """
        path, stamp = self._studies.image(image_id), self._studies.stamp(image_id)
        return self._of_file(path, owner, client, "study", id_of(image_id, "image"), stamp)

    def of_lent(self, owner: str, client: str, session_id: str) -> InteractiveSession:
        """The same of a scan that is lent, see `monailabel_app.studies.sessions`.

        Raises:
            RequestError: 404, there is no such scan of this owner; others as `of_study`.
        """
        return self._of_file(self._lent.image(session_id, owner), owner, client, "lent", session_id)

    def of_array(
        self, owner: str, client: str, voxels: np.ndarray, spacing: Sequence[float], leaving: str = ""
    ) -> InteractiveSession:
        """A new session of voxels (D, H, W) that came from the client, which it keeps; of any order of the axes.

        Args:
            spacing: millimetres between voxels along each axis.
            leaving: the id of a session that the client is about to delete: it takes no room.

        Raises:
            RequestError: 400 or 413, voxels or spacing that cannot be; 429 or 507, too many sessions.
        """
        if voxels.ndim != 3 or not voxels.size:
            raise RequestError(400, f"the image has the shape {voxels.shape}, expected three axes")
        if max(voxels.shape) > MAX_EDGE or voxels.size * np.dtype(np.float32).itemsize > MAX_BYTES:
            raise RequestError(413, f"the shape is {voxels.shape}: at most {MAX_EDGE} an axis, and {MAX_BYTES} bytes")
        if len(spacing) != 3 or not all(0 < step < LARGEST_SPACING for step in spacing):
            raise RequestError(400, f"the spacing is {tuple(spacing)}, expected three numbers of millimetres above 0")
        kept = compact(voxels)
        self.remove_expired()
        with self._making:
            return self._make(SessionRecord(owner, client, "array", "", "", kept.shape, spacing), kept, leaving)

    def of_image(self, owner: str | None, image_id: str) -> list[tuple[InteractiveSession, Placement]]:
        """The owner's sessions of an image of the studies in any client's hands, and how their voxels lie on it.

        Among them are sessions of voxels that came from a client, also of scans that are lent, where they are the
        image's by shape, spacing and content; none where the image's voxels cannot be read.

        Args:
            owner: whose; None: everybody's.

        Raises:
            RequestError: 404, there is no such image; or its header cannot be read.
        """
        path, stamp = self._studies.image(image_id), self._studies.stamp(image_id)
        of_owner = self._of_owner(owner)
        own = [one for one in of_owner if one.record.kind == "study" and one.record.image == id_of(image_id, "image")]
        found = [(one, AS_IT_IS) for one in own if one.record.stamp == stamp]
        others = [one for one in own if one.record.stamp != stamp]
        grid = read_grid(path)
        spacing = voxel_sizes(grid.affine)
        copies = [one for one in of_owner if one.record.kind != "study" and may_be(one.record, grid.shape, spacing)]
        if copies or others:
            try:
                scan = self._images.read_file(path)
            except RequestError as error:  # it concerns nobody else's work on the image, such as its label
                logger.warning("image %s is not compared with sessions: %s", image_id, error.message)
                return found
            placed = ((one, self._images.placement(one.record, scan, spacing)) for one in copies)
            found += [(session, placement) for session, placement in placed if placement is not None]
            found += [(one, AS_IT_IS) for one in _of_voxels(others, scan, spacing)]
        return found

    def shown(self, owner: str | None, image_id: str) -> list[dict[str, object]]:
        """What an owner has shown of an image of the studies, session by session, as JSON can tell it.

        Positions are millimetres along the axes of the image's array: index times spacing. Arguments and errors as
        `of_image`.
        """
        told: list[dict[str, object]] = []
        spacing = voxel_sizes(read_grid(self._studies.image(image_id)).affine)
        for session, placement in self.of_image(owner, image_id):
            try:
                prompts = {label: session.shown(label) for label in session.labels}
            except RequestError as error:  # nobody's label is to wait for that
                logger.warning("the prompts of session %s are left out: %s", session.id, error.message)
                continue
            labels = {
                label: [asdict(placement.on_scan(prompt, session.record, spacing)) for prompt in some]
                for label, some in prompts.items()
                if some
            }
            if labels:
                record = session.record
                told.append({"session": record.id, "user": record.owner, "client": record.client, "labels": labels})
        return told

    def get(self, session_id: str, owner: str | None) -> InteractiveSession:
        """A session by its id.

        Args:
            owner: whose it must be; None: anybody's, for administrators.

        Raises:
            RequestError: 404, there is no such session of this owner.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None or owner not in (None, session.record.owner) or self._is_expired(session):
            raise RequestError(404, "there is no such session")
        return session

    def kept_for(
        self, session: InteractiveSession, session_id: str, path: Path
    ) -> tuple[InteractiveSession, Placement]:
        """Another session of the same owner and image, in any client's hands, and how its voxels lie on the image.

        Args:
            session: of an image file.
            session_id: of the other one.
            path: of the file.

        Raises:
            RequestError: 404, the owner has no such session; 400, it is of another image.
        """
        record, kept = session.record, self.get(session_id, session.record.owner)
        of_image = [(one.kind, one.image, one.stamp) for one in (record, kept.record)]
        placement = AS_IT_IS if of_image[0] == of_image[1] else None
        if not placement and may_be(kept.record, record.shape, record.spacing):
            scan = self._images.read_file(path)
            if kept.record.kind != "study":
                placement = self._images.placement(kept.record, scan, record.spacing)
            elif of_image[0][:2] == of_image[1][:2] and _of_voxels([kept], scan, record.spacing):
                placement = AS_IT_IS
        if placement is None:
            raise RequestError(400, f"session {session_id} is of another image")
        return kept, placement

    def list(self, owner: str | None) -> list[dict[str, object]]:
        """What clients are told of the owner's sessions, or of all, those that were used last first.

        Among all are those that cannot be read, or could not be removed, last.
        """
        self.remove_expired()
        found = sorted(self._of_owner(owner), key=lambda session: session.used, reverse=True)
        told = [self.describe(session) for session in found]
        if owner is None:
            told += self._leftovers.describe(self.expiry)
        return told

    def describe(self, session: InteractiveSession) -> dict[str, object]:
        """What clients are told of a session."""
        expires = None if session.record.kind == "lent" else int(session.used + self.expiry)
        return {**session.describe(), "expires": expires}

    def remove(self, session_id: str, owner: str | None) -> None:
        """Delete a session, once nobody uses it; arguments and errors as `get`.

        Whose a session is that cannot be read, nobody knows: administrators delete it.

        Raises:
            RequestError: also 500, some of its files stay; the server tries again.
        """
        if owner is None and session_id in self._leftovers:
            is_gone = self._leftovers.remove(session_id, "deleted")
        else:
            is_gone = self._remove(self.get(session_id, owner), "deleted")
        if not is_gone:
            raise RequestError(500, "nobody can use the session any more, but some of its files cannot be deleted yet")

    @contextmanager
    def removing_image(self, image_id: str) -> Iterator[None]:
        """Delete everybody's sessions of an image of the studies, which the context removes.

        Also those of voxels that came from a client, where they are the image's. What is of a lent scan goes with that.

        Raises:
            RequestError: 405, images cannot be removed.
        """
        self._studies.images.check_removable(image_id)
        try:
            found = [session for session, _ in self.of_image(None, image_id)]
        except RequestError as error:  # the image is to go all the same, if there is one
            logger.warning("image %s is not compared with sessions: %s", image_id, error.message)
            found = []
        yield
        wanted = id_of(image_id, "image")
        for session in self._all():
            kind = session.record.kind
            if (kind == "study" and session.record.image == wanted) or (kind == "array" and session in found):
                self._remove(session, "deleted with its image")

    def remove_expired(self, *, again: bool = False) -> int:
        """Delete what has expired; how many that were. `again`: also what could not be removed before."""
        count = self._leftovers.remove_expired(self.expiry, again=again)
        expired = [session for session in self._all() if self._is_expired(session)]
        return count + sum(self._remove(session, "expired") for session in expired)

    def sweep(self) -> None:
        """Delete what has expired, and keep nothing in memory that was not used for long or whose image is gone."""
        self.remove_expired(again=True)
        for session in self._all():
            if session.nbytes and (
                session.used < time.time() - KEPT_SECONDS or not self._images.is_current(session.record)
            ):
                session.leave_memory()

    @property
    def nbytes(self) -> int:
        """In memory, of all sessions."""
        return sum(session.nbytes for session in self._all())

    def _all(self) -> Sequence[InteractiveSession]:
        with self._lock:
            return tuple(self._sessions.values())

    def _of_owner(self, owner: str | None) -> Sequence[InteractiveSession]:
        return [session for session in self._all() if owner in (None, session.record.owner)]

    def _of_file(
        self, path: Path, owner: str, client: str, kind: Kind, image: str, stamp: str = ""
    ) -> InteractiveSession:
        grid = read_grid(path)
        record = SessionRecord(owner, client, kind, image, stamp, grid.shape, voxel_sizes(grid.affine))
        self.remove_expired()
        known = self._known(record)  # which waits for nobody who makes another
        if known is not None:
            return known
        with self._making:  # two requests at once make one session
            return self._known(record) or self._of_same_voxels(record, path) or self._make(record)

    def _known(self, record: SessionRecord) -> InteractiveSession | None:
        return next((session for session in self._all() if session.record.origin == record.origin), None)

    def _of_same_voxels(self, record: SessionRecord, path: Path) -> InteractiveSession | None:
        """The session that there was of an image's voxels, whose file has changed since; the last one of several.

        Raises:
            RequestError: 409, the session that was used last is of other voxels; once for each session.
        """
        earlier = [one for one in self._all() if one.record.origin[:-1] == record.origin[:-1]]
        if not earlier:
            return None
        earlier.sort(key=lambda session: session.used, reverse=True)
        same = next(iter(_of_voxels(earlier, self._images.read_file(path), record.spacing)), None)
        if earlier[0] is not same and earlier[0].id not in self._images.outdated:
            raise self._images.changed(earlier[0].record)
        if same is not None:
            same.restamp(record.stamp)
            self._images.outdated.discard(same.id)
        return same

    def _make(self, record: SessionRecord, voxels: np.ndarray | None = None, leaving: str = "") -> InteractiveSession:
        self._check_room(record.owner, 0 if voxels is None else voxels.nbytes, sessions=1, leaving=leaving)
        folder = SessionFolder(self.root / record.id)
        folder.create(record, voxels)
        session = self._session(folder, record)
        with self._lock:
            self._sessions[record.id] = session
        record_event("interactive session begins", session=record.id, user=record.owner)
        return session

    def _session(self, folder: SessionFolder, record: SessionRecord) -> InteractiveSession:
        return InteractiveSession(
            folder,
            record,
            self._images.read,
            self.network,
            self._admitted,
            self._use,
            self._memory.room_for,
            self._check_room,
        )

    @contextmanager
    def _use(self, session: InteractiveSession) -> Iterator[None]:
        """Note the use, and keep room for it in memory; what is coarse then is refined once the session is idle."""
        session.touch()
        if session.record.kind == "lent":
            self._lent.get(session.record.image, session.record.owner)  # it is used, too
        with self._lock:
            if session.id in self._sessions:
                self._sessions[session.id] = self._sessions.pop(session.id)
        with self._memory.room_for(session, ROOM_SECONDS):
            try:
                yield
            finally:
                if session.is_coarse:
                    self._refinement.soon(session)

    def _remove(self, session: InteractiveSession, reason: str) -> bool:
        """Whether it is gone."""
        with self._lock:
            known = self._sessions.pop(session.id, None)
        if known is None:  # another request was faster
            return True
        session.end()
        return self._leftovers.remove_session(SessionFolder(self.root / session.id), session.record.owner, reason)

    def _is_expired(self, session: InteractiveSession) -> bool:
        record = session.record
        if record.kind != "lent":
            return is_over(session.used, self.expiry)
        try:
            self._lent.get(record.image, record.owner, touch=False)
        except RequestError:
            return True
        return False

    def _check_room(self, owner: str, size: int, *, sessions: int = 0, leaving: str = "") -> None:
        """Raise RequestError where an owner, or all together, may not have so many bytes and sessions more."""
        taken: list[tuple[str | None, int]] = [
            (session.record.owner, session.stored_nbytes) for session in self._all() if session.id != leaving
        ]
        taken += [(None, number) for number in self._leftovers.sizes()]
        check_room(taken, owner, size, sessions)


def _of_voxels(
    sessions: Sequence[InteractiveSession], voxels: np.ndarray, spacing: Sequence[float]
) -> list[InteractiveSession]:
    """Those of the sessions that are of these voxels, which are `compact`."""
    digest = voxel_digest(voxels) if sessions else ""
    return [one for one in sessions if one.record.digest == digest and is_spacing(one.record.spacing, spacing)]


def _sweep_regularly(sessions: weakref.ref[InteractiveSessions]) -> None:
    while True:
        time.sleep(SWEEP_SECONDS)
        alive = sessions()
        if alive is None:
            return
        try:
            alive.sweep()
        except Exception:
            logger.exception("sessions cannot be swept")
        del alive
