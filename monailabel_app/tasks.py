"""Work in the background, one piece of a kind at a time, in the words of MONAI Label's clients."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from monailabel_app.errors import RequestError, error_message, storage_error

logger = logging.getLogger(__name__)

KEPT = 50  # finished tasks that are remembered


class Task:
    """One piece of work. Its function calls `report` now and then, and ends at once where `stopping` is set."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.id = str(uuid.uuid4())
        self.request = request
        self.status = "SUBMITTED"
        self.details: deque[str] = deque(maxlen=20)
        self.progress: dict[str, Any] = {}
        self.started = datetime.now()
        self.ended: datetime | None = None
        self.result: Any = None
        self.stopping = threading.Event()

    @property
    def finished(self) -> bool:
        return self.status not in ("SUBMITTED", "RUNNING")

    def report(self, message: str, **progress: Any) -> None:
        self.details.append(message)
        self.progress.update(progress)

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status,
            "request": self.request,
            "start_ts": f"{self.started:%Y-%m-%d %H:%M:%S}",
            "end_ts": f"{self.ended:%Y-%m-%d %H:%M:%S}" if self.ended else None,
            "details": list(self.details) or [self.status],
            "progress": self.progress,
            "result": self.result,
        }


class TaskList:
    """The tasks of one kind, such as training, which run one after the other."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._tasks: list[Task] = []
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Callable[[Task], Any], Task]] = queue.SimpleQueue()
        # Not a pool of threads: the server would wait for all its work before it ends.
        threading.Thread(target=self._work, name=kind, daemon=True).start()

    def start(self, function: Callable[[Task], Any], request: dict[str, Any], *, enqueue: bool = False) -> Task:
        """Run `function(task)` in the background.

        Raises:
            RequestError: 429, one is running already, and `enqueue` is false.
        """
        with self._lock:
            if self.running() and not enqueue:
                raise RequestError(429, f"{self.kind} is running already")
            task = Task(request)
            finished = [known for known in self._tasks if known.finished]
            self._tasks = [known for known in self._tasks if known not in finished[:-KEPT]] + [task]
        self._waiting.put((function, task))
        return task

    def running(self) -> Task | None:
        return next((task for task in self._tasks if not task.finished), None)

    def latest(self) -> Task:
        """The running task, or else the last one.

        Raises:
            RequestError: 404, there was none.
        """
        task = self.running() or (self._tasks[-1] if self._tasks else None)
        if task is None:
            raise RequestError(404, f"there is no task of {self.kind} yet")
        return task

    def all(self) -> list[Task]:
        return list(self._tasks)

    def stop(self) -> Task:
        """Ask the running task and those that wait to end, and wait until they have, 30 seconds at most.

        Returns:
            The one that was running.

        Raises:
            RequestError: 404, none is running.
        """
        with self._lock:
            unfinished = [task for task in self._tasks if not task.finished]
        if not unfinished:
            raise RequestError(404, f"no task of {self.kind} is running")
        for task in unfinished:
            task.stopping.set()
        deadline = time.monotonic() + 30
        while not all(task.finished for task in unfinished) and time.monotonic() < deadline:
            time.sleep(0.05)
        return unfinished[0]

    def _work(self) -> None:
        while True:
            self._run(*self._waiting.get())

    def _run(self, function: Callable[[Task], Any], task: Task) -> None:
        try:
            task.status = "RUNNING"
            task.result = function(task)
            status = "STOPPED" if task.stopping.is_set() else "DONE"
        except Exception as error:
            if isinstance(error, RequestError) or storage_error(error):
                task.report(error_message(error))
            else:
                logger.exception("%s failed", self.kind)
                task.report(f"failed: {error_message(error)}")
            status = "ERROR"
        task.ended = datetime.now()
        task.status = status
