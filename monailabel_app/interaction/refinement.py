"""What answers left coarse is redrawn in the background, while the user looks at it."""

from __future__ import annotations

import atexit
import logging
import threading
import time

from monailabel_app.errors import RequestError
from monailabel_app.interaction.session import InteractiveSession

IDLE_SECONDS = 1.5  # after a session's last request: one who goes on clicking comes first
LOOK_SECONDS = 0.2  # between looks whether one is idle
AGAIN_SECONDS = 5  # after which what cannot be done just now is tried again
END_SECONDS = 10  # for the cube that is being redrawn

logger = logging.getLogger(__name__)


class Refinement:
    """One thread for all sessions; the session that came first is not finished before others are looked after."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # of what follows
        self._due: dict[InteractiveSession, float] = {}  # those that wait, and not before when; the first comes first
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="refinement", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # Python aborts where a thread still computes in torch while it ends

    def soon(self, session: InteractiveSession) -> None:
        """Refine a session once it is idle."""
        with self._changed:
            self._due.setdefault(session, 0.0)
            self._changed.notify()

    def end(self) -> None:
        """Refine nothing any more, once the cube that is being redrawn is done."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (session := self._next()) is not None:
            seconds = self._refine(session)
            if seconds is not None:
                with self._changed:
                    self._due.pop(session, None)
                    self._due[session] = time.time() + seconds

    def _next(self) -> InteractiveSession | None:
        """The first one that is idle, once there is one; it waits no longer then. None at the end."""
        with self._changed:
            while not self._is_over:
                now = time.time()
                for session, due in self._due.items():
                    if now >= max(due, session.used + IDLE_SECONDS):
                        del self._due[session]
                        return session
                self._changed.wait(LOOK_SECONDS if self._due else None)
        return None

    def _refine(self, session: InteractiveSession) -> float | None:
        """The seconds after which there is more to do; None where there is nothing."""
        try:
            return 0.0 if session.refine() else None
        except RequestError as error:  # it is gone, or its weights are, or others wait
            logger.info("session %s is not refined now: %s", session.id, error.message)
            return AGAIN_SECONDS if error.status == 503 else None
        except Exception:
            logger.exception("session %s cannot be refined", session.id)
        return None
