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
from rep3d.interactive.editing import MAX_PROMPTS, Answer, Box
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt

CLIENT = "nnInteractive"
LABEL = "segment"  # the name of the mask, for those who go on with the session elsewhere


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

    Args:
        sessions: where its images and masks are kept.
        owner: the user.
    """

    def __init__(self, sessions: InteractiveSessions, owner: str) -> None:
        self._sessions = sessions
        self._owner = owner
        self._session: InteractiveSession | None = None
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[Prompt] = []  # prompts that are not answered yet
        self._is_reset = True  # and nothing was shown since; the session's label may still be as it was
        self._kept_steps = 0  # of the session, that no undo takes back

    @property
    def scan(self) -> Grid:
        """Of the image. Raises RequestError: 409, there is none yet."""
        record = self._of_image.record
        return Grid.of_scan(record.shape, record.spacing)

    def set_image(self, voxels: np.ndarray, spacing: Sequence[float]) -> None:
        """Begin with an image, and an empty mask.

        Args:
            voxels: (D, H, W), in any order of the axes.
            spacing: millimetres between them along each axis.

        Raises:
            RequestError: as `InteractiveSessions.of_array`.
        """
        session = self._sessions.of_array(self._owner, CLIENT, voxels, spacing)
        self.end()
        self._session = session
        self._begin()

    def show(self, prompt: Prompt, *, answer: bool) -> Change:
        """Take a prompt, and let the network answer it, and those before it that wait, if so wished.

        Raises:
            RequestError: 409, there is no image yet; others as `InteractiveSession.show`. Nothing has changed then.
        """
        if not answer:
            if len(self._waiting) >= MAX_PROMPTS:
                raise RequestError(400, f"{MAX_PROMPTS} prompts wait for an answer already, which is the most")
            self._go_on()
            self._waiting.append(prompt)
            return UNANSWERED
        return self._answer([*self._waiting, prompt])

    def answer(self) -> Change:
        """Let the network answer the prompts that wait. Raises as `show`."""
        self._of_image  # noqa: B018, raises
        return self._answer(self._waiting) if self._waiting else UNANSWERED

    def paint(self, mask: np.ndarray) -> None:
        """Take over a mask (D, H, W) of bool, which settles all prompts.

        With it an undo goes back to the mask before. Where the client has reset that, it does so only if this is that
        mask with changes, as 3D Slicer sends what was painted by hand, and not one of another structure.

        Raises:
            RequestError: 409, there is no image yet; others as `InteractiveSession.paint`.
        """
        session = self._of_image
        begins = self._is_reset and not self._is_edited(mask)
        self._go_on(reset=begins)
        session.paint(LABEL, mask)
        self._waiting = []
        if begins:
            self._kept_steps = session.undoable(LABEL)[0]

    def undo(self) -> Change:
        """Take the last prompt back, or the last mask. Raises RequestError: 409, there is no image yet."""
        session = self._of_image
        self._go_on()
        if self._waiting:
            self._waiting.pop()
            return Change(True)
        if session.undoable(LABEL)[0] <= self._kept_steps:
            return UNANSWERED
        before = session.prompts(LABEL)
        answer = session.undo(LABEL)
        undone = before[len(session.prompts(LABEL)) :]
        self._waiting = list(undone[:-1])
        return _change(answer)

    def reset(self) -> None:
        """Begin another mask. Raises RequestError: 409, there is no image yet."""
        self._of_image  # noqa: B018, raises
        self._begin()

    def end(self) -> None:
        """Forget an image of which nothing was made."""
        session, self._session = self._session, None
        if session is not None and not session.labels:
            with suppress(RequestError):  # it is gone already
                self._sessions.remove(session.id, None)

    @property
    def _of_image(self) -> InteractiveSession:
        if self._session is None:
            raise RequestError(409, "there is no image yet: send it first")
        return self._session

    def _answer(self, prompts: Sequence[Prompt]) -> Change:
        session = self._of_image
        self._go_on()
        answer = session.show(LABEL, prompts)
        self._waiting = []
        return _change(answer)

    def _go_on(self, *, reset: bool | None = None) -> None:
        """Let the session's label be empty where the client's is."""
        session = self._of_image
        if (self._is_reset if reset is None else reset) and LABEL in session.labels:
            session.reset(LABEL)
        self._is_reset = False

    def _is_edited(self, mask: np.ndarray) -> bool:
        """Whether a mask shares most of its voxels with the session's."""
        session = self._of_image
        if LABEL not in session.labels or mask.shape != tuple(session.record.shape):
            return False
        before = session.mask(LABEL)
        return 2 * np.count_nonzero(before & mask) > np.count_nonzero(before | mask)


def _change(answer: Answer) -> Change:
    part = answer.part
    return Change(True, answer.changed, None if part is None else part.numpy())
