"""Results of a long evaluation, case by case in a file, so that it can go on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rep3d.files import read_json, short_digest, write_json


class CaseRecords:
    """What is finished, by case; a case whose files have changed since is not.

    Args:
        path: of the JSON file, which is written whole after every case.
        settings: of the evaluation, of what JSON knows.

    Raises:
        ValueError: the file is of other settings, or another version of rep3d; names the first that differs.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps({"rep3d": version("rep3d"), **settings}))
        content = read_json(path)
        told = content.get("settings", self.settings)
        for name in sorted({*told, *self.settings}):
            if told.get(name) != self.settings.get(name):
                raise ValueError(
                    f"{path}: holds results with {name} {told.get(name)!r}, not {self.settings.get(name)!r}: "
                    "expected the same, or another output_dir"
                )
        self._cases: dict[str, Any] = content.get("cases", {})

    def result(self, case: str, files: Iterable[Path]) -> Any:
        """Of a case that is finished; None where it is not, or was with other contents of its files."""
        found = self._cases.get(case)
        return found["result"] if found and found["files"] == short_digest(*files) else None

    def add(self, case: str, files: Iterable[Path], result: object) -> None:
        """A case is finished; its result is of what JSON knows, and not None."""
        self._cases[case] = {"files": short_digest(*files), "result": result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"settings": self.settings, "cases": self._cases})
