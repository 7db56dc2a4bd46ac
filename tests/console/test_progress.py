import fcntl
import io
import logging
import os
import pty
import struct
import sys
import termios
from types import SimpleNamespace

import pytest

from rep3d.console import progress
from rep3d.console.logs import file_only
from rep3d.console.progress import Progress, tell, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Not a fixture: pytest puts its own capture in place between a test's fixtures and the test."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def lines(caplog):
    """What is not for the log file alone, which pytest hears too."""
    return [record.getMessage() for record in caplog.records if record.name != file_only.name]


def test_without_a_terminal_a_line_now_and_then(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in track(range(5), "Checking", "file"):
        now[0] += 40
    assert lines(caplog) == ["Checking: file 2 of 5", "Checking: file 4 of 5"]
    assert capsys.readouterr().err == ""


def test_in_a_terminal_a_bar(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    screen = terminal(monkeypatch)
    with Progress(3, "Segmenting", "case", seconds=0) as shown:
        for _ in range(3):
            shown.update()
    assert "Segmenting: 100%" in screen.getvalue() and "3/3" in screen.getvalue()
    assert lines(caplog) == []


def test_nothing_to_do_shows_nothing(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    screen = terminal(monkeypatch)
    with Progress(0, "Checking", "file", seconds=0):
        pass
    assert screen.getvalue() == "" and lines(caplog) == []


def test_what_a_bar_shows_is_said_where_there_is_none(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    tell("first")
    monkeypatch.setattr(progress, "in_terminal", lambda: True)
    tell("second")
    assert lines(caplog) == ["first"]


@pytest.mark.parametrize("columns", [0, 80])
def test_terminals_without_a_width(columns, monkeypatch):
    """As some containers have: bars would be empty there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        shown = progress.in_terminal()
        monkeypatch.undo()
    os.close(master)
    assert shown == (columns > 0)
