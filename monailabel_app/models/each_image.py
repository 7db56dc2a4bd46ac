"""Work on many images in the background, where one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from monailabel_app.errors import RequestError, error_message
from monailabel_app.tasks import Task

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """Ends the work on an image, and on those that would follow."""


def for_each_image(task: Task, doing: str, images: Sequence[str], work: Callable[[str], None]) -> dict[str, Any]:
    """Call `work` with each image id until the task is stopped.

    Args:
        doing: the work in a word or two, for the log.
        work: may raise `Stopped`.

    Returns:
        {"done": image ids, "failed": reasons by image id}
    """
    done: list[str] = []
    failed: dict[str, str] = {}
    for image in images:
        if task.stopping.is_set():
            break
        try:
            work(image)
            done.append(image)
        except Stopped:
            break
        except RequestError as error:
            logger.warning("%s: skipped %s: %s", doing, image, error.message)
            failed[image] = error.message
        except Exception as error:
            logger.exception("%s: skipped %s", doing, image)
            failed[image] = error_message(error)
        task.report(f"{len(done) + len(failed)} of {len(images)} images", done=len(done), total=len(images))
    return {"done": done, "failed": failed}
