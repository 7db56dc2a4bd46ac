"""What one client of nnInteractive's protocol says, as steps of a session.

Such a client shows prompts one by one, and knows one mask only, which it resets where it begins another. It keeps a
marker of each prompt that it showed and takes one away for each undo, so that here an undo takes back one prompt, also
where several were answered together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from monailabel_app.errors import RequestError
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.interaction.session import InteractiveSession
from rep3d.interactive.editing import MAX_PROMPTS, Answer
from rep3d.interactive.grid import Box, Grid
from rep3d.interactive.prompts import Prompt

CLIENT = "nnInteractive"
LABEL = "segment"  # the name of the mask, for those who go on with the session elsewhere
MAX_EARLIER = 50  # masks before it that the session keeps, as `segment 1` and so on; the oldest unlocked ones go first


@dataclass(frozen=True)
class Change:
    """What became of the client's mask.

    Attributes:
        answered: whether there was something to answer or to undo.
        box: where voxels may have changed; None: nowhere.
        part: the mask in it, bool.
    """

    answered: bool
    box: Box | None = None
    part: np.ndarray | None = None


UNANSWERED = Change(False)


class Conversation:
    """One client's, from its claim to its end. One thread at a time may use it.

    Of what raises nothing has changed. Everything raises RequestError: 409, there is no image yet; 410, its session was
    deleted; 413, all masks that might go for another one are locked; or as `InteractiveSession`.

    Attributes:
        zooms_out: whether the field of view grows as far as what changes.

    Args:
        sessions: where its images and masks are kept.
        owner: the user.
    """

    def __init__(self, sessions: InteractiveSessions, owner: str) -> None:
        self._sessions = sessions
        self._owner = owner
        self.zooms_out = True
        self._session_id = ""
        self._first_steps = 0  # of the label, which no undo takes back
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[Prompt] = []  # prompts that are not answered yet
        self._resets = 1  # in a row, since the client's mask was the session's label; a new image is one, too

    @property
    def scan(self) -> Grid:
        """Of the image."""
        record = self._session.record
        return Grid.of_scan(record.shape, record.spacing)

    def set_image(self, voxels: np.ndarray, spacing: Sequence[float]) -> None:
        """Begin with an image, and an empty mask.

        Args:
            voxels: (D, H, W), in any order of the axes.
            spacing: millimetres between them along each axis.

        Raises:
            RequestError: as `InteractiveSessions.of_array`.
        """
        session = self._sessions.of_array(self._owner, CLIENT, voxels, spacing, self._unused())
        self.end()
        self._session_id, self._first_steps = session.id, 0
        self._begin()

    def show(self, prompt: Prompt, *, answer: bool) -> Change:
        """Take a prompt, and let the network answer it, and those before it that wait, if so wished."""
        if answer:
            return self._answer([*self._waiting, prompt])
        if len(self._waiting) >= MAX_PROMPTS:
            raise RequestError(400, f"{MAX_PROMPTS} prompts wait for an answer already, which is the most")
        if self._is_empty:
            self._empty(self._session)
        self._goes_on()
        self._waiting.append(prompt)
        return UNANSWERED

    def answer(self) -> Change:
        """Let the network answer the prompts that wait."""
        return self._answer(self._waiting)

    def paint(self, mask: np.ndarray) -> None:
        """Take over a mask (D, H, W) of bool, which settles all prompts.

        An undo goes back to the mask before it. After a reset it does so only where this is that mask with changes, as
        3D Slicer sends what was painted by hand; else the client begins with it, and no undo takes it away. So it does
        after two resets in a row: 3D Slicer resets where the user chooses another segment, and again before its mask.
        """
        session = self._session
        begins = self._is_empty and (self._resets > 1 or not _is_edited(session, mask))
        with session.hold():
            if begins:
                self._empty(session)
            session.paint(LABEL, mask, answered=False)
            steps = session.steps(LABEL)
        self._waiting, self._resets = [], 0
        if begins:
            self._first_steps = steps

    def undo(self) -> Change:
        """Take the last prompt back, or the last mask."""
        session = self._session
        if self._waiting:
            self._waiting.pop()
            return Change(True)
        with session.hold():
            if self._is_empty or session.steps(LABEL) <= self._first_steps or not session.undoable(LABEL)[0]:
                return UNANSWERED
            before = session.prompts(LABEL)
            answer = session.undo(LABEL)
            undone = before[len(session.prompts(LABEL)) :]
        self._waiting = list(undone[:-1])
        return _change(answer)

    def reset(self) -> None:
        """Begin another mask."""
        self._session  # noqa: B018, raises
        self._waiting, self._resets = [], self._resets + 1

    def end(self) -> None:
        """Leave the image; one of which nothing was made is forgotten."""
        with suppress(RequestError):  # it is gone already
            if self._unused():
                self._sessions.remove(self._session_id, self._owner)

    def _unused(self) -> str:
        """The id of the session, if nothing was made of its image; else, or where it is gone, an empty text."""
        with suppress(RequestError):
            if not self._session.labels:
                return self._session_id
        return ""

    @property
    def _is_empty(self) -> bool:
        """Whether the client's mask is: the session's label may still be what it was before a reset."""
        return self._resets > 0

    @property
    def _session(self) -> InteractiveSession:
        if not self._session_id:
            raise RequestError(409, "there is no image yet: send it first")
        try:
            return self._sessions.get(self._session_id, self._owner)
        except RequestError as error:
            raise RequestError(410, "the session was deleted: connect again") from error

    def _answer(self, prompts: Sequence[Prompt]) -> Change:
        session = self._session
        if not prompts:
            return UNANSWERED
        with session.hold():
            if self._is_empty:
                self._empty(session)
            self._first_steps = min(self._first_steps, session.steps(LABEL))  # others may have reset the label
            answer = session.show(LABEL, prompts, grow=self.zooms_out)
        self._waiting = []
        self._goes_on()
        return _change(answer)

    def _goes_on(self) -> None:
        """The client's mask is the session's label from now on."""
        if self._is_empty:
            self._resets, self._first_steps = 0, 0

    @staticmethod
    def _empty(session: InteractiveSession) -> None:
        """Let the session's label be empty as the client's is, and keep what it was under another name."""
        with session.hold():
            if LABEL not in session.labels:
                return
            if session.prompts(LABEL) or session.mask(LABEL).any():
                earlier = sorted(int(name.removeprefix(LABEL)) for name in session.labels if name != LABEL)
                session.rename(LABEL, f"{LABEL} {1 + max(earlier, default=0)}")
                if len(earlier) < MAX_EARLIER:
                    return
                session.rename(_oldest_unlocked(session, earlier), LABEL)
            session.reset(LABEL)
            if LABEL in session.locked:
                session.lock([name for name in session.locked if name != LABEL])


def _oldest_unlocked(session: InteractiveSession, numbers: Sequence[int]) -> str:
    """The name of the earlier mask that goes, of those with these numbers.

    Raises:
        RequestError: 413, all are locked.
    """
    names = [f"{LABEL} {number}" for number in numbers]
    unlocked = [name for name in names if name not in session.locked]
    if not unlocked:
        raise RequestError(413, f"all {len(names)} earlier masks of the scan are locked: unlock one to begin another")
    return unlocked[0]


def _is_edited(session: InteractiveSession, mask: np.ndarray) -> bool:
    """Whether a mask is the session's with changes: of the smaller of the two most voxels are the other's, too."""
    if LABEL not in session.labels:
        return False
    before = session.mask(LABEL)
    return 2 * np.count_nonzero(before & mask) > min(np.count_nonzero(before), np.count_nonzero(mask))


def _change(answer: Answer) -> Change:
    part = answer.part
    return Change(True, answer.changed, None if part is None else part.numpy())
