"""What a retraining was asked to do and what came of it, on disk: it outlives the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rep3d import files

FILE = "run.json"


@dataclass(frozen=True)
class TrainingRecord:
    """One retraining.

    Args:
        status: "RUNNING" from its preparation on, then "DONE", "STOPPED" or "FAILED"; empty where there was none.
        user: who started it.
        cases: names by part, "training" and "validation".
        left_out: images that are not trained on, and why.
        remarks: which images were exchanged after they were labelled, which structures labels do not show, in words.
        options: the client's, as `TrainingParameters`.
        result: of one that is done, see `promotion.promote`.
    """

    status: str = ""
    user: str | None = None
    cases: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> TrainingRecord:
    """The record of the latest retraining in a folder."""
    return files.read_record(folder / FILE, TrainingRecord) or TrainingRecord()


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Keep a record, in the place of the one before."""
    files.write_json(folder / FILE, asdict(record))
