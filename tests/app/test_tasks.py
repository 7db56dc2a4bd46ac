"""Tests of the work in the background."""

import threading

from monailabel_app.tasks import TaskList


def test_stopping_ends_what_waits_too():
    began, seen = threading.Event(), []

    def work(task):
        seen.append(task.stopping.is_set())
        began.set()
        assert task.stopping.wait(10)

    tasks = TaskList("test")
    first = tasks.start(work, {"name": "first"})
    second = tasks.start(work, {"name": "second"}, enqueue=True)
    assert began.wait(10)
    assert tasks.stop() is first
    assert [task.status for task in (first, second)] == ["STOPPED", "STOPPED"]
    assert seen == [False, True]  # what waited learns that it is stopped, and can write that down
    assert tasks.running() is None and all(task.ended for task in tasks.all())
