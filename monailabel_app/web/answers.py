"""What several resources answer."""

from __future__ import annotations

from collections.abc import Mapping

from monailabel_app.errors import RequestError
from monailabel_app.tasks import TaskList

TaskStatus = dict[str, object] | list[dict[str, object]]


def task_status(tasks: TaskList, *, all: bool, check_if_running: bool) -> TaskStatus:
    """The running task or the last one, or all of them, as `Task.json` describes them.

    Raises:
        RequestError: 404, there was none, or none is running where that is asked for.
    """
    if check_if_running:
        task = tasks.running()
        if task is None:
            raise RequestError(404, f"no task of {tasks.kind} is running")
        return task.json()
    return [task.json() for task in tasks.all()] if all else tasks.latest().json()


def without_path(info: Mapping[str, object]) -> dict[str, object]:
    """Clients get to know the server's files by their ids only."""
    return {key: value for key, value in info.items() if key != "path"}
