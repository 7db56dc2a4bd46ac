"""What callers are told when a file cannot be stored, or a disk is full; other errors stay errors of the server."""

import errno
import time

import pytest
from asgi_helpers import ask
from fastapi import FastAPI, HTTPException

from monailabel_app.tasks import TaskList
from monailabel_app.web.errors import ErrorAnswers, answer_errors
from rep3d.files import WriteError

STORED = [
    WriteError(errno.EACCES, "Permission denied", "/secret/of/the/server"),
    WriteError(errno.ENOSPC, "No space left on device", "/secret/of/the/server"),
    OSError(errno.EFBIG, "File too large"),
]
OTHERS = [FileNotFoundError(errno.ENOENT, "not there", "/secret"), PermissionError(errno.EACCES, "no", "/secret")]


def answer(error, cause=None):
    def fail():
        raise error from cause

    server = FastAPI()
    answer_errors(server)
    server.add_api_route("/fail", fail)
    status, _, said = ask(ErrorAnswers(server), path="/fail")
    return status, said


def outcome(error):
    def fail(task):
        raise error

    task = TaskList("test").start(fail, {})
    while not task.ended or task.status == "RUNNING":
        time.sleep(0.01)
    return task.status, task.details[-1]


@pytest.mark.parametrize("error", STORED, ids=repr)
def test_stored(error):
    expected = f"the file cannot be stored ({error.strerror})"
    assert answer(error) == (507, {"detail": expected})
    assert answer(HTTPException(400, "the body is broken"), cause=error) == (507, {"detail": expected})
    status, detail = outcome(error)
    assert status == "ERROR" and detail.endswith(expected) and "failed" not in detail


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_others(error):
    """Also of a file that cannot be read."""
    status, said = answer(error)
    assert status == 500 and "internal error" in said["detail"]
    assert answer(HTTPException(400, "the body is broken"), cause=error) == (400, {"detail": "the body is broken"})
    status, detail = outcome(error)
    assert status == "ERROR" and detail.endswith(f"failed: {type(error).__name__}, see the server's log")
