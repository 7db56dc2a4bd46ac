"""Retraining on the submitted labels: the bundle's own `train.json`, in a process of its own.

    models/retraining/run.json           what runs or ran: status, request, user, cases, and which were left out and why
    models/retraining/data/dataset.json  the labelled images; splits.json says which train and which validate
    models/retraining/models/            the new weights, and the checkpoint to resume from
    models/retraining/training.log       what the training printed

New weights become a version. They serve if they are not worse on the validation cases than those that serve now.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.parameters import TrainingParameters
from monailabel_app.models.versions import add_version, keep_serving, list_versions, serve_version, version_of
from monailabel_app.settings import PROMOTION
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import bundles_with, label_ids
from monailabel_app.studies.volumes import read_grid, read_voxels
from monailabel_app.tasks import Task
from rep3d.evaluation.scores import read_scores, table
from rep3d.files import read_json, write_json
from rep3d.io.geometry import agreement_problem
from rep3d.training.checkpoints import read_weights, save_whole, trained_on
from rep3d.training.loop import SHARED_CORES, TrainingProgress

logger = logging.getLogger(__name__)

RUN, PROCESS, LOG = "run.json", "process.json", "training.log"
VALIDATIONS = 10  # of one training, at most
PROGRESS_SECONDS = 2  # between the lines that tell it
LOG_BYTES = 4000  # at the end of the log, where progress stands
POLL_SECONDS = 0.5
DESCRIBED = 3  # cases that are left out, in a message
KILL_SECONDS = 20  # that a stopped training has to end

Item = dict[str, str]


class BundleTraining(TrainTask):
    """Trains one bundle.

    Args:
        bundle: what to train; it needs no weights yet.
        promotion: one of PROMOTION.
        served: all bundles of the app, to tell which one a label belongs to that was put there by hand.
    """

    def __init__(self, bundle: Bundle, promotion: str = PROMOTION[0], served: Sequence[Bundle] = ()) -> None:
        super().__init__(bundle.description)
        self.bundle = bundle
        self.served = served or [bundle]
        self.promotion = promotion
        self.folder = bundle.root / "models/retraining"

    def config(self) -> dict[str, Any]:
        defaults = TrainingParameters()
        return {
            "device": device_list(),
            "max_epochs": defaults.max_epochs,
            "val_split": defaults.val_split,
            "pretrained": defaults.pretrained,
        }

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.bundle.version}

    def stats(self) -> dict[str, Any]:
        """What 3D Slicer and OHIF show: how far a training is, and the validation Dice of it or of what serves."""
        run = read_json(self.folder / RUN)
        if run.get("status") == "RUNNING":
            return self._stats_of_running(run["options"]["max_epochs"])
        result = run.get("result", {})
        dice = result.get("dice", {}).get("new" if result.get("serving") else "serving")
        return {"best_metric": dice, "total_time": "ended"} if dice is not None else {}

    def _stats_of_running(self, epochs: int) -> dict[str, Any]:
        log = self.folder / LOG
        found = _progress(log) if log.is_file() else {}
        dice = found.get("dice")
        best = {"best_metric": float(dice)} if dice and dice != "nan" else {}
        return {"epoch": int(found.get("epoch", 0)), "total_epochs": epochs, **best}

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        raise NotImplementedError("trainings are started by the app, in the background")

    def check(self, datastore: StudiesFolder, options: TrainingParameters) -> tuple[dict[str, Item], dict[str, str]]:
        """The images and labels that can be trained on, and why others are left out.

        Raises:
            RequestError: no label, or an unknown device.
        """
        if options.device and options.device not in device_list():
            raise RequestError(400, f"params['device']: {options.device!r}, expected one of {device_list()}")
        items, left_out = self._labelled(datastore)
        if not items:
            told = f"there is no submitted label for {self.bundle.name!r} to train on"
            raise RequestError(400, f"{told}; {_describe(left_out)}" if left_out else told)
        return items, left_out

    def prepare(self, datastore: StudiesFolder, options: TrainingParameters, user: str) -> None:
        """Write down what is to be trained; an earlier training's folder is replaced.

        Raises:
            RequestError: as `check`.
        """
        items, left_out = self.check(datastore, options)
        self._keep_unfinished()
        shutil.rmtree(self.folder, ignore_errors=True)
        data = self.folder / "data"
        data.mkdir(parents=True)
        for case, item in items.items():
            item["image"] = str(self._as_nifti(case, Path(item["image"])))
        known = known_parts(self.bundle) | dict.fromkeys(self._trained_on(items), "training")
        training, validation = split_cases(items, options.val_split, known)
        write_json(data / "dataset.json", {"training": [{**item, "case": case} for case, item in items.items()]})
        write_json(data / "splits.json", [{"train": training, "val": validation}])
        cases = {"training": training, "validation": validation}
        run = {"user": user, "cases": cases, "left_out": left_out, "options": options.model_dump()}
        self._remember({"status": "RUNNING", **run})

    def _trained_on(self, items: Mapping[str, Item]) -> list[str]:
        """The cases that the weights that serve were trained on, under whatever name and wherever that was."""
        if not self.bundle.weights.is_file():
            return []
        named = [{**item, "case": case} for case, item in items.items()]
        return trained_on(self.bundle.weights, named, self.folder / "eval/digests.json")

    def _keep_unfinished(self) -> None:
        """New weights of a training that never came to its end become a version before another takes its folder."""
        weights, run = self.folder / "models/model.pt", read_json(self.folder / RUN)
        if weights.is_file() and run.get("status") != "DONE":
            told: dict[str, Any] = {key: run[key] for key in ("user", "cases") if key in run}
            add_version(self.bundle, weights, {**told, "note": "of a training that did not come to its end"})

    def interrupted(self) -> dict[str, Any] | None:
        """What was training when the server ended."""
        run = read_json(self.folder / RUN)
        return run if run.get("status") == "RUNNING" else None

    def run(self, task: Task) -> dict[str, Any]:
        """Train what `prepare` wrote down, or go on with it; keep the result as a version, and let it serve if it may.

        Returns:
            {"version": number, "serving": whether it serves, "note": why, "dice": {"new": ..., "serving": ...}}

        Raises:
            RequestError: the training failed; the message has its last words.
        """
        run = self.interrupted()
        assert run is not None, "prepare comes first"
        try:
            return self._run(task, run)
        except BaseException:
            self._remember({**run, "status": "FAILED"})
            raise

    def _run(self, task: Task, run: Mapping[str, Any]) -> dict[str, Any]:
        options = TrainingParameters.model_validate(run["options"])
        device = name_to_device(options.device)
        validated = bool(run["cases"]["validation"])
        if run.get("left_out"):
            task.report(_describe(run["left_out"]))
        if not validated:
            task.report("there is no label to validate with: the new weights will not serve by themselves")
        settings: dict[str, Any] = {
            "epochs": options.max_epochs,
            "val_interval": max(1, options.max_epochs // VALIDATIONS) if validated else options.max_epochs + 1,
            "ckpt_dir": self.folder / "models",
            "resume": "auto",
            "num_workers": 0,
            "progress_seconds": PROGRESS_SECONDS,
        }
        if not validated:
            settings["validate#dataset#data"] = []
        if options.pretrained and self.bundle.weights.is_file():
            settings["init_from"] = self.bundle.weights
        if (self.folder / "models/last.pt").is_file() and self._finished_epochs() >= options.max_epochs:
            task.report("the training was finished already")
        elif not self._bundle_run(task, "training", ["train"], device, settings):
            self._remember({**run, "status": "STOPPED"})
            return {"note": "stopped"}
        result = self._promote(task, device, run)
        self._remember({**run, "status": "DONE", "result": result})
        return result

    def _promote(self, task: Task, device: str, run: Mapping[str, Any]) -> dict[str, Any]:
        keep_serving(self.bundle)
        new = self.folder / "models/model.pt"
        if not new.is_file():  # the server was killed between the last checkpoint and it
            save_whole(read_weights(new.with_name("last.pt")), new)
        kept = version_of(self.bundle, new)
        if kept and kept["serving"]:  # the server was killed right after this
            return {key: kept.get(key) for key in ("version", "serving", "note", "dice")}
        dice: dict[str, float | None] = {"new": None, "serving": None}
        if run["cases"]["validation"]:
            task.report("scoring the new weights and those that serve")
            dice["new"] = self._mean_dice(task, new, device, "new")
            if self.bundle.weights.is_file():
                dice["serving"] = self._mean_dice(task, self.bundle.weights, device, "serving")
        if task.stopping.is_set():
            note = "kept, but does not serve: the scoring was stopped"
            number = add_version(self.bundle, new, {"user": run["user"], "cases": run["cases"], "note": note})
            return {"version": number, "serving": False, "note": note, "dice": dice}
        serves, note = may_serve(dice["new"], dice["serving"], self.bundle.weights.is_file(), self.promotion)
        told = {"user": run["user"], "cases": run["cases"], "dice": dice, "note": note}
        number = add_version(self.bundle, new, told)
        if serves:
            serve_version(self.bundle, number)
        task.report(f"version {number}: {note}", dice=dice["new"])
        return {"version": number, "serving": serves, "note": note, "dice": dice}

    def _mean_dice(self, task: Task, weights: Path, device: str, name: str) -> float | None:
        """On the validation cases; None where the scoring was stopped."""
        output = self.folder / f"scores_{name}"
        settings = {"checkpoint": weights, "output_dir": output}
        if not self._bundle_run(task, "evaluating", ["train", "evaluate"], device, settings):
            return None
        return round(float(np.nanmean(table(read_scores(output), "dice"))), 4)

    def _bundle_run(
        self, task: Task, run_id: str, configs: list[str], device: str, settings: Mapping[str, Any]
    ) -> bool:
        """`python -m monai.bundle run`; whether it came to its end."""
        command = [sys.executable, "-m", "monai.bundle", "run", run_id]
        command += ["--config_file", str([str(self.bundle.config(name)) for name in configs])]
        told = {
            "bundle_root": self.bundle.root,
            "dataset_dir": self.folder / "data",
            "output_dir": self.folder / "eval",
            "device": device,
            **settings,
        }
        for name, value in told.items():
            command += [f"--{name}", str(value)]
        threads = max(1, torch.get_num_threads() - 1)  # one core is the server's
        environment = {**SHARED_CORES, **os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        self._end_orphan()
        log = self.folder / LOG
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        write_json(self.folder / PROCESS, {"pid": process.pid, "started": psutil.Process(process.pid).create_time()})
        try:
            while process.poll() is None and not task.stopping.wait(POLL_SECONDS):
                self._report_progress(task, log)
        finally:
            _end(process)
        if task.stopping.is_set():
            return False
        if process.returncode != 0:
            reason = re.sub(r"(?:[A-Za-z]:)?[/\\][^\s:'\"]*[/\\]", "", _last_line(log))  # no paths of the server
            raise RequestError(500, f"{run_id} failed: {reason}")
        self._report_progress(task, log)
        return True

    def _end_orphan(self) -> None:
        """A server that was killed leaves its training running: end it before another writes to the same folder."""
        known = read_json(self.folder / PROCESS)
        try:
            process = psutil.Process(known["pid"])
            if process.create_time() == known["started"]:
                process.kill()
                process.wait(KILL_SECONDS)
        except (KeyError, psutil.NoSuchProcess):
            pass

    def _report_progress(self, task: Task, log: Path) -> None:
        found = _progress(log)
        progress = {key: int(found[key]) for key in ("step", "steps", "epoch", "epochs") if key in found}
        if progress != {key: task.progress.get(key) for key in progress}:
            shown = "epoch {epoch} of {epochs}, step {step} of {steps}, loss {loss}".format(**found)
            loss, dice = found["loss"], found["dice"] or ""
            task.report(f"{shown}, validation Dice {dice}" if dice else shown, **progress, loss=loss, val_dice=dice)

    def _labelled(self, datastore: StudiesFolder) -> tuple[dict[str, Item], dict[str, str]]:
        """The final labels in this bundle's ids, by image; of each the version that no later submission changes.

        And why others are left out, but for those of other bundles.
        """
        items, left_out = {}, datastore.set_aside()
        for image_id in datastore.get_labeled_images():
            label, info = datastore.fixed_label(image_id, "final")
            try:
                image = datastore.image(image_id)
                if "model" not in info:
                    self._check_ids(label_ids(datastore, image_id, image, label, info))
                elif info["model"] != self.bundle.name:
                    continue
                problem = agreement_problem(read_grid(label), read_grid(image))  # a series may have grown since
                if problem:
                    raise RequestError(400, f"its label's {problem}")
                items[image_id] = {"image": str(image), "label": str(label)}
            except RequestError as error:
                logger.warning("training goes without %s: %s", image_id, error.message)
                left_out[image_id] = error.message
        return items, left_out

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Whether a label that was put there by hand is of this bundle, and certainly of no other that is served."""
        fitting = bundles_with(ids, self.served)
        if self.bundle.name not in fitting:
            raise RequestError(400, f"its label was put there by hand, with ids of another model: {list(ids)}")
        if len(fitting) > 1:
            models = ", ".join(fitting)
            raise RequestError(400, f"its label was put there by hand, and may be of {models}: serve one, or submit it")

    def _as_nifti(self, case: str, image: Path) -> Path:
        """Training reads NIfTI; images of another format are converted into the training's folder."""
        if image.name.endswith((".nii", ".nii.gz")):
            return image
        path = self.folder / "data" / f"{case}.nii.gz"
        nib.save(nib.Nifti1Image(read_voxels(image).astype(np.float32), read_grid(image).affine), path)
        return path

    def _finished_epochs(self) -> int:
        checkpoint = torch.load(self.folder / "models/last.pt", map_location="cpu", weights_only=True)
        return int(checkpoint["epoch"])

    def _remember(self, run: Mapping[str, Any]) -> None:
        write_json(self.folder / RUN, run)


def known_parts(bundle: Bundle) -> dict[str, str]:
    """The part, "training" or "validation", of every case that a version saw: training, where any was trained on it."""
    seen = [version["cases"] for version in list_versions(bundle) if "cases" in version]
    validation, training = (
        dict.fromkeys((case for cases in seen for case in cases[part]), part) for part in ("validation", "training")
    )
    return validation | training


def split_cases(
    cases: Mapping[str, Any], fraction: float, known: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Training and validation cases. A known case keeps its part, new ones get theirs by their names alone.

    With one case there is no validation. With more, and a fraction above 0, one new case validates where no known one
    does, whatever its name. Where nothing else is left to train on, validation cases are trained on.
    """
    known = known or {}
    parts = {part: [case for case in cases if known.get(case) == part] for part in ("training", "validation")}
    new = sorted((case for case in cases if case not in known), key=_position)
    count = 0
    if fraction > 0 and len(cases) > 1:
        count = max(sum(_position(case) < fraction for case in new), not parts["validation"])
        count = min(count, len(new) if parts["training"] else len(new) - 1)
    count = max(count, 0)
    training, validation = sorted(parts["training"] + new[count:]), sorted(parts["validation"] + new[:count])
    return (training, validation) if training else (validation, [])


def may_serve(new: float | None, serving: float | None, there_are_weights: bool, promotion: str) -> tuple[bool, str]:
    """Whether new weights take the place of those that serve, and why."""
    if promotion == "never":
        return False, "kept; by the server's settings no weights serve by themselves"
    if not there_are_weights:
        return True, "serves: there were no weights before"
    if new is None or serving is None:
        return False, "kept, but does not serve: without validation cases nothing shows that it is not worse"
    compared = f"validation Dice {new:.4f}, of the serving weights {serving:.4f}"
    if new > serving or (new == serving and promotion == "not worse"):
        return True, f"serves: {compared}"
    return False, f"kept, but does not serve: {compared}"


def _position(case: str) -> float:
    """A number from 0 to 1 that depends on the case's name alone."""
    return int(hashlib.sha256(case.encode()).hexdigest()[:12], 16) / 16**12


def _describe(left_out: Mapping[str, str]) -> str:
    first = "; ".join(f"{case}: {reason}" for case, reason in list(left_out.items())[:DESCRIBED])
    return f"left out {len(left_out)} image(s): {first}{'; ...' if len(left_out) > DESCRIBED else ''}"


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode("utf-8", errors="replace")


def _progress(log: Path) -> dict[str, str]:
    """What the training's newest line says; empty where there is none yet."""
    found = list(TrainingProgress.LINE.finditer(_tail(log)))
    return found[-1].groupdict() if found else {}


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in _tail(path).splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
