"""What answers left coarse is redrawn in the background, while the user looks at it."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time

from monailabel_app.errors import RequestError
from monailabel_app.interaction.session import InteractiveSession

IDLE_SECONDS = 1.5  # after a session's last request: one who goes on clicking comes first
LOOK_SECONDS = 0.2  # between looks whether all are idle
END_SECONDS = 10  # for the cube that is being redrawn

logger = logging.getLogger(__name__)


class Refinement:
    """One thread for all sessions; the session that came first is not finished before others are looked after."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[InteractiveSession | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="refinement", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # Python aborts where a thread still computes in torch while it ends

    def soon(self, session: InteractiveSession) -> None:
        """Refine a session once it is idle."""
        self._waiting.put(session)

    def end(self) -> None:
        """Refine nothing any more, once the cube that is being redrawn is done."""
        self._waiting.put(None)
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (session := self._waiting.get()) is not None:
            if time.time() - session.used < IDLE_SECONDS:
                self._waiting.put(session)
                time.sleep(LOOK_SECONDS)
            elif self._refine(session):
                self._waiting.put(session)

    def _refine(self, session: InteractiveSession) -> bool:
        """Whether there is more to do."""
        try:
            return session.refine()
        except RequestError as error:  # it is gone, or its weights are, or others wait
            logger.info("session %s is not refined further: %s", session.id, error.message)
        except Exception:
            logger.exception("session %s cannot be refined", session.id)
        return False
