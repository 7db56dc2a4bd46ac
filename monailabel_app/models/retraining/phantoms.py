"""Volumes of procedural anatomy, drawn once: who learns from users' labels learns from them, too, to forget nothing.

training/    with which it learns, where no other folder is given
held_out/    by which it is judged, always the same
"""

from __future__ import annotations

from pathlib import Path

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.retraining.process import run_watched
from monailabel_app.tasks import Task
from rep3d.data.cases import Item
from rep3d.data.dataset_json import FILE
from rep3d.datasets.drawing import write_anatomy
from rep3d.evaluation.click_cases import ALL, list_cases
from rep3d.files import read_json, write_json
from rep3d.study.run import BundleRun

TRAINING, HELD_OUT = 24, 6  # volumes
SIZE = 96  # voxels along each axis
SEEDS = {"training": 1_000_001, "held_out": 1_000_002}  # that nobody draws a data set with
DRAW = f"{write_anatomy.__module__}.{write_anatomy.__name__}"
CONFIG = "drawing.json"  # of the run that draws


class Phantoms:
    """Drawn volumes in a folder of the app; they are drawn once, when they are first needed.

    Args:
        folder: of the app.
        given: a data set to train with instead, such as scripts/draw_anatomy.py makes.
    """

    def __init__(self, folder: Path, given: Path | None = None) -> None:
        self._folder = folder
        self._given = given

    @property
    def training(self) -> Path:
        """The data set to train with."""
        return self._given or self._folder / "training"

    def held_out(self) -> list[Item]:
        """The cases {"image": path, "label": path} to judge by, once they are drawn."""
        return list_cases(self._folder / "held_out", ALL)

    def check(self) -> None:
        """Raise RequestError, 400, where the given folder holds no data set."""
        if self._given is not None and not (self._given / FILE).is_file():
            raise RequestError(400, f"the server's setting anatomy names a folder without {FILE}: draw volumes there")

    def draw(self, task: Task, bundle: Bundle, folder: Path) -> bool:
        """Draw what is not there yet; whether that came to its end.

        Args:
            task: is told, and may stop it.
            bundle: whose training needs them.
            folder: of that training.

        Raises:
            RequestError: 500, it failed.
        """
        counts = {"held_out": HELD_OUT} if self._given else {"training": TRAINING, "held_out": HELD_OUT}
        missing = {
            name: {"folder": str(self._folder / name), "cases": count, "seed": SEEDS[name], "size": SIZE}
            for name, count in counts.items()
            if read_json(self._folder / name / FILE).get("numTraining") != count
        }
        if not missing:
            return True
        task.report(f"drawing {sum(counts[name] for name in missing)} volumes of procedural anatomy, once")
        self._folder.mkdir(parents=True, exist_ok=True)
        calls = {name: {"_target_": DRAW, **arguments} for name, arguments in missing.items()}
        write_json(folder / CONFIG, {**calls, "drawing": [f"@{name}" for name in calls]})
        files = {"meta_file": bundle.config("metadata"), "logging_file": bundle.root / "configs/logging.conf"}
        run = BundleRun(bundle.root, "drawing", [folder / CONFIG], files)
        return run_watched(task, run, folder, folder / "drawing.status.json")
