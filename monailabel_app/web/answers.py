"""What several resources answer."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request

from monailabel_app.errors import RequestError
from monailabel_app.tasks import TaskList

VIEWER_PAGE = "RetrieveURL"  # the key of an image's page in the viewer, where it has one

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


def image_answer(info: Mapping[str, object], request: Request) -> dict[str, object]:
    """What is known of an image: clients get to know the server's files by their ids only, its pages by their paths."""
    told = {key: value for key, value in info.items() if key != "path"}
    if VIEWER_PAGE in told:
        told[VIEWER_PAGE] = f"{prefix_of(request)}{told[VIEWER_PAGE]}"
    return told


def prefix_of(request: Request) -> str:
    """The path below which a proxy has this server, such as /monai; from the server's option, not from a header."""
    scope = request.scope
    prefix: str = scope.get("app_root_path", scope.get("root_path", ""))  # the first within a mounted app
    return prefix.rstrip("/")
