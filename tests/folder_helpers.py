"""Folders that cannot be read, whoever runs the tests."""

import errno
import os


def deny(monkeypatch, folder):
    """Nobody may list this folder."""
    scandir = os.scandir

    def refuse(path="."):
        if os.path.realpath(path) == os.path.realpath(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
