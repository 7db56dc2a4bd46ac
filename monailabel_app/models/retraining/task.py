"""The retraining of one bundle: MONAI Label's training task, and the steps of it in order."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import contract
from monailabel_app.models.parameters import PromptTrainingParameters, TrainingParameters
from monailabel_app.models.retraining.averaging import save_half_way
from monailabel_app.models.retraining.dataset import write_dataset
from monailabel_app.models.retraining.labels import (
    Item,
    describe,
    describe_absent,
    describe_exchanged,
    find_labelled,
)
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.models.retraining.process import end_orphan, run_watched
from monailabel_app.models.retraining.promotion import promote
from monailabel_app.models.retraining.record import TrainingRecord, read_record, write_record
from monailabel_app.models.retraining.scoring import Scores, read_clicking, read_segmenting, write_held_out
from monailabel_app.models.versions import add_version
from monailabel_app.settings import PROMOTION
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.console.status import TRAINING_STATUS, read_status
from rep3d.data.lists import load_datalist
from rep3d.evaluation.click_cases import ALL
from rep3d.files import copy_whole
from rep3d.shipped import overlays_of
from rep3d.study.run import BundleRun
from rep3d.training.checkpoints import read_weights, save_whole

VALIDATIONS = 10  # of one training, at most
EPOCH_LENGTH = 24  # steps, of a bundle that takes prompts: users wait for the end
LEARNING_RATE = 0.0005  # at its start, of such a bundle: it goes on from good weights
BEGAN, ENDED = "began.pt", "ended.pt"  # the weights of such a bundle before and after


class BundleTraining(TrainTask):
    """Trains one bundle.

    Args:
        bundle: what to train; it needs no weights yet.
        promotion: one of PROMOTION.
        served: all bundles of the app, to tell which one a label belongs to that was put there by hand.
        phantoms: a bundle that takes prompts learns from them, too, and is judged by them; others need none.
        spared: cores that a training leaves to the server.
    """

    def __init__(
        self,
        bundle: Bundle,
        promotion: str = PROMOTION[0],
        served: Sequence[Bundle] = (),
        phantoms: Phantoms | None = None,
        spared: int = 1,
    ) -> None:
        super().__init__(bundle.description)
        self.bundle = bundle
        self.served = served or [bundle]
        self.promotion = promotion
        self.phantoms = phantoms if bundle.takes_prompts else None
        self.parameters = PromptTrainingParameters if bundle.takes_prompts else TrainingParameters
        self.spared = spared
        self.folder = bundle.root / "models/retraining"
        self.models = self.folder / "models"
        self.status_file = self.models / TRAINING_STATUS

    def config(self) -> dict[str, Any]:
        defaults = self.parameters()
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
        record = read_record(self.folder)
        if record.status == "RUNNING":
            status = read_status(self.status_file)
            best = {"best_metric": round(status.metric, 3)} if status and status.metric is not None else {}
            return {"epoch": status.epoch if status else 0, "total_epochs": record.options["max_epochs"], **best}
        dice = record.result.get("dice", {}).get("new" if record.result.get("serving") else "serving")
        return {"best_metric": dice, "total_time": "ended"} if dice is not None else {}

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        raise NotImplementedError("trainings are started by the app, in the background")

    def check(self, datastore: StudiesFolder, options: TrainingParameters) -> tuple[dict[str, Item], dict[str, str]]:
        """The images and labels that can be trained on, and why others are left out.

        Raises:
            RequestError: no label, or an unknown device.
        """
        if options.device and options.device not in device_list():
            raise RequestError(400, f"params['device']: {options.device!r}, expected one of {device_list()}")
        if self.phantoms is not None:
            self.phantoms.check()
            if not self.bundle.weights.is_file():
                raise RequestError(
                    400, f"model {self.bundle.name!r} has no weights to go on from, see docs/interactive.md"
                )
        items, left_out = find_labelled(self.bundle, self.served, datastore)
        if not items:
            message = f"there is no submitted label for {self.bundle.name!r} to train on"
            raise RequestError(400, f"{message}; {describe(left_out)}" if left_out else message)
        return items, left_out

    def prepare(self, datastore: StudiesFolder, options: TrainingParameters, user: str) -> None:
        """Write down what is to be trained; an earlier training's folder is replaced.

        Raises:
            RequestError: as `check`.
        """
        items, left_out = self.check(datastore, options)
        end_orphan(self.folder)
        self._keep_unfinished()
        if self.folder.exists():
            shutil.rmtree(self.folder)  # nothing may be left that the training would go on from
        data = self.folder / "data"
        data.mkdir(parents=True)
        cases = write_dataset(self.bundle, items, options.val_split, data, self.folder / "eval/digests.json")
        absent = "" if self.bundle.takes_prompts else describe_absent(self.bundle, items, datastore)
        remarks = "; ".join(filter(None, (describe_exchanged(items, datastore), absent)))
        write_record(self.folder, TrainingRecord("RUNNING", user, cases, left_out, remarks, options.model_dump()))

    def interrupted(self) -> TrainingRecord | None:
        """What was training when the server ended."""
        record = read_record(self.folder)
        return record if record.status == "RUNNING" else None

    def run(self, task: Task) -> dict[str, Any]:
        """Train what `prepare` wrote down, or go on with it; keep the result as a version, and let it serve if it may.

        Returns:
            What `promotion.promote` returns, or {"note": "stopped"}.

        Raises:
            RequestError: the training failed; the message has the reason.
        """
        record = self.interrupted()
        assert record is not None, "prepare comes first"
        try:
            result = None if task.stopping.is_set() else self._run(task, record)
        except BaseException:
            write_record(self.folder, replace(record, status="FAILED"))
            raise
        if result is None:
            write_record(self.folder, replace(record, status="STOPPED"))
            return {"note": "stopped"}
        write_record(self.folder, replace(record, status="DONE", result=result))
        return result

    def _run(self, task: Task, record: TrainingRecord) -> dict[str, Any] | None:
        options = TrainingParameters.model_validate(record.options)
        device = name_to_device(options.device)
        if record.left_out:
            task.report(describe(record.left_out))
        if record.remarks:
            task.report(record.remarks)
        if not record.cases["validation"]:
            task.report("there is no label to validate with: the new weights will not serve by themselves")
        if self.phantoms is not None and not self.phantoms.draw(task, self.bundle, self.folder):
            return None
        if self._finished_epochs() >= options.max_epochs:
            task.report("the training was finished already")
        elif not self._train(task, options, device, validated=bool(record.cases["validation"])):
            return None
        new = self.models / "model.pt"
        if not new.is_file():  # the server was killed between the last checkpoint and it
            save_whole(read_weights(new.with_name("last.pt")), new)
        self._turn_half_way(new)

        def score(weights: Path, name: str) -> Scores | None:
            return self._score(task, weights, self.folder / f"scores_{name}", device, record.cases["validation"])

        return promote(task, self.bundle, new, record, self.promotion, score)

    def _train(self, task: Task, options: TrainingParameters, device: str, validated: bool) -> bool:
        """Train, or go on with it; whether it came to its end."""
        overrides: dict[str, Any] = {
            contract.OUTPUT_DIR: self.folder / "eval",
            contract.CKPT_DIR: self.models,
            contract.EPOCHS: options.max_epochs,
            contract.VAL_INTERVAL: max(1, options.max_epochs // VALIDATIONS) if validated else options.max_epochs + 1,
            contract.RESUME: "auto",
            contract.NUM_WORKERS: 0,
        }
        if not validated:
            overrides[contract.VALIDATION_DATA] = []
        if self.phantoms is not None:
            overrides |= self._mixed(self.phantoms)
        weights = None
        if options.pretrained and self.bundle.weights.is_file():
            contract.check_trained(self.bundle)
            overrides[contract.INIT_FROM] = self.bundle.weights
            weights = self.bundle.weights
            if self.phantoms is not None and not (self.models / "last.pt").is_file():  # else it goes on from that
                copy_whole(weights, self.folder / BEGAN)
        run = self._bundle_run(contract.TRAINING, ["train.json"], device, overrides, weights)
        return run_watched(task, run, self.folder, self.status_file, self.spared)

    def _turn_half_way(self, new: Path) -> None:
        """Bring new weights of a bundle that takes prompts half-way back to those that the training began with."""
        began, ended = self.folder / BEGAN, self.folder / ENDED
        if not began.is_file():
            return
        if not ended.is_file():  # it is there where the server was killed after this
            copy_whole(new, ended)
        save_half_way(began, ended, new)

    def _mixed(self, phantoms: Phantoms) -> dict[str, Any]:
        """As often a case of the users as a phantom."""
        own, drawn = (len(load_datalist(folder, "training")) for folder in (self.folder / "data", phantoms.training))
        return {
            contract.MORE_DATA: [str(phantoms.training)],
            contract.REPEATS: [max(1, round(drawn / own)), max(1, round(own / drawn))],
            contract.EPOCH_LENGTH: EPOCH_LENGTH,
            contract.LEARNING_RATE: LEARNING_RATE,
        }

    def _score(self, task: Task, weights: Path, output: Path, device: str, cases: Sequence[str]) -> Scores | None:
        """Evaluate weights on the validation cases, and on phantoms; None where that was stopped."""
        overrides: dict[str, Any] = {contract.CHECKPOINT: weights, contract.OUTPUT_DIR: output}
        run_id, phantoms = contract.EVALUATING, [] if self.phantoms is None else self.phantoms.held_out()
        if phantoms:
            run_id, data = contract.COMPARING, self.folder / "held_out"
            write_held_out(self.folder / "data", cases, phantoms, data)
            overrides |= {contract.DATASET_DIR: data, contract.PART: ALL}
        run = self._bundle_run(run_id, ["train.json", "evaluate.json"], device, overrides, weights)
        if not run_watched(task, run, self.folder, output / "evaluation.status.json", self.spared):
            return None
        return read_clicking(output, phantoms) if phantoms else read_segmenting(output)

    def _bundle_run(
        self, run_id: str, configs: list[str], device: str, overrides: Mapping[str, Any], weights: Path | None
    ) -> BundleRun:
        """A run that starts from weights, with what their training was told, or uses them."""
        shared = {contract.DATASET_DIR: self.folder / "data", contract.DEVICE: device}
        told = [] if weights is None else overlays_of(weights)
        return BundleRun(self.bundle.root, run_id, [*configs, *told], {**shared, **overrides})

    def _finished_epochs(self) -> int:
        last = self.models / "last.pt"
        return int(torch.load(last, map_location="cpu", weights_only=True)["epoch"]) if last.is_file() else 0

    def _keep_unfinished(self) -> None:
        """New weights of a training that never came to its end become a version before another takes its folder."""
        weights, record = self.models / "model.pt", read_record(self.folder)
        if weights.is_file() and record.status != "DONE":
            origin = {"user": record.user, "cases": record.cases} if record.status else {}
            add_version(self.bundle, weights, {**origin, "note": "of a training that did not come to its end"})
