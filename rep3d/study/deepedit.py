"""The training of `rep3d.evaluation.deepedit`, as MONAI Label's radiology app trains it, within a time."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.apps.deepedit.interaction import Interaction
from monai.apps.deepedit.transforms import (
    AddGuidanceSignalDeepEditd,
    AddInitialSeedPointMissingLabelsd,
    AddRandomGuidanceDeepEditd,
    FindAllValidSlicesMissingLabelsd,
    FindDiscrepancyRegionsDeepEditd,
)
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    Lambdad,
    RandFlipd,
    RandRotated,
    RandShiftIntensityd,
    Resize,
    SelectItemsd,
    ToNumpyd,
    ToTensord,
)
from monai.utils import set_determinism

from rep3d.data.cases import Item
from rep3d.data.leakage import TrainingCases, training_cases
from rep3d.evaluation.click_cases import load_case
from rep3d.evaluation.deepedit import FORMAT, NAMES, make_network, prepare, read_checkpoint
from rep3d.locks import FolderLocks
from rep3d.training.checkpoints import save_whole

logger = logging.getLogger(__name__)

LEARNING_RATE = 1e-4
CLICKED = 0.5  # of the steps have clicks; the others train the automatic answer
ROUNDS = 3  # of simulated clicks in such a step, at most
MOST_EPOCHS = 10**6  # the time ends it


def train(
    items: Sequence[Item],
    ids: Sequence[int],
    path: Path,
    *,
    minutes: float,
    size: Sequence[int],
    seed: int = 0,
    resume: bool = False,
) -> float:
    """Train until the time is over, in all parts together, and return the mean loss of the last epoch.

    Args:
        items: {"image": path, "label": path} to learn from.
        ids: of labels, which are one.
        path: of the weights, with all that resuming needs; written after every epoch.
        minutes: of the training.
        size: voxels to which scans are resized.
        seed: of initialization, augmentation and clicks.
        resume: whether to go on where an earlier call ended.

    Raises:
        ValueError: the file is there and `resume` is not told, or it is of another training or of other cases.
    """
    locks = FolderLocks([path.parent], "deepedit")
    settings = {"format": FORMAT, "ids": list(ids), "size": list(size), "seed": seed, "cases": len(items)}
    try:
        set_determinism(seed)
        training = _Training(path, settings, 60 * minutes, training_cases(items, []))
        training.start(resume)
        if training.seconds < training.most_seconds:
            set_determinism(seed + training.epochs)
            training.run([_prepared(item, ids, size) for item in items], seed + training.epochs)
        return training.loss
    finally:
        locks.release()


class _Training:
    """The network, how far its training is, and the file of both."""

    def __init__(self, path: Path, settings: Mapping[str, Any], most_seconds: float, cases: TrainingCases) -> None:
        self.path, self.settings, self.most_seconds, self.cases = path, settings, most_seconds, cases
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = make_network().to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE)
        self.epochs, self.seconds, self.loss = 0, 0.0, math.nan
        self.losses: list[float] = []  # of the epoch

    def start(self, resume: bool) -> None:
        """Go on where an earlier call ended."""
        if not self.path.exists():
            return
        if not resume:
            raise ValueError(f"{self.path} is there already: go on with --resume true, or give another file")
        content = read_checkpoint(self.path)
        for name, value in self.settings.items():
            if content.get(name) != value:
                raise ValueError(f"{self.path}: was trained with {name} {content.get(name)!r}, not {value!r}")
        if others := self.cases.trained_otherwise(content["network"]):
            raise ValueError(f"{self.path} is of other cases: {others}; give another file")
        self.cases.go_on_from(content["network"], self.path)
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epochs, self.seconds, self.loss = content["epochs"], content["seconds"], content["loss"]

    def run(self, data: Sequence[Mapping[str, Any]], seed: int) -> None:
        """Train until the time is over; at least for an epoch."""
        clicks = Compose(_clicks()).set_random_state(seed)
        simulate: Any = Interaction(CLICKED, clicks, train=True, label_names=NAMES, max_interactions=ROUNDS)
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=MOST_EPOCHS,
            train_data_loader=DataLoader(Dataset(data, _augmentation()), batch_size=1, shuffle=True),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            iteration_update=simulate,
            decollate=False,
        )
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._remember)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        self._begin = time.monotonic() - self.seconds
        trainer.run()

    def _remember(self, engine: Any) -> None:
        self.losses.append(float(engine.state.output["loss"]))

    def _end_epoch(self, engine: Engine) -> None:
        self.epochs += 1
        self.seconds = time.monotonic() - self._begin
        self.loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        states = {"network": self.cases.mark(self.network.state_dict()), "optimizer": self.optimizer.state_dict()}
        progress = {"epochs": self.epochs, "seconds": self.seconds, "loss": self.loss}
        save_whole({**self.settings, **states, **progress}, self.path)
        minutes, most = self.seconds / 60, self.most_seconds / 60
        logger.info("epoch %d, %.1f of %g minutes, loss %.3f", self.epochs, minutes, most, self.loss)
        if self.seconds >= self.most_seconds:
            engine.terminate()


def _prepared(item: Item, ids: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
    case = load_case(item)
    label = torch.isin(case.label, torch.tensor(list(ids), dtype=case.label.dtype)).float()
    resized = Resize(size, mode="nearest")(label[None])
    return {"image": prepare(case.image, size), "label": torch.as_tensor(resized), "label_names": dict(NAMES)}


def _augmentation() -> Compose:
    """Augmentation, and a first click."""
    keys = ("image", "label")
    return Compose(
        [
            *(RandFlipd(keys, prob=0.1, spatial_axis=axis) for axis in range(3)),
            RandRotated(keys, 0.3, 0.3, 0.3, prob=0.5, mode=("bilinear", "nearest"), padding_mode="border"),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            ToNumpyd(keys),
            FindAllValidSlicesMissingLabelsd(keys="label", sids="sids"),
            AddInitialSeedPointMissingLabelsd(keys="label", guidance="guidance", sids="sids"),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance"),
            ToTensord(keys),
            SelectItemsd((*keys, "guidance", "label_names")),
        ]
    )


def _clicks() -> list[Any]:
    """What adds clicks where the prediction is wrong."""
    return [
        Activationsd("pred", softmax=True),
        AsDiscreted("pred", argmax=True),
        ToNumpyd(("image", "label", "pred")),
        FindDiscrepancyRegionsDeepEditd(keys="label", pred="pred", discrepancy="discrepancy"),
        AddRandomGuidanceDeepEditd(
            keys="NA", guidance="guidance", discrepancy="discrepancy", probability="probability"
        ),
        AddGuidanceSignalDeepEditd(keys="image", guidance="guidance"),
        ToTensord(("image", "label")),
        Lambdad("guidance", _in_words),
    ]


def _in_words(guidance: Mapping[str, Any]) -> dict[str, str]:
    """The clicks as text, as they were at first: collated and taken apart again, an empty list of them is None."""
    return {name: json.dumps(clicks, default=int) for name, clicks in guidance.items()}
