"""The training of `rep3d.evaluation.deepedit`, as MONAI Label's radiology app trains it, within a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
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
from rep3d.evaluation.click_cases import load_case
from rep3d.evaluation.deepedit import FORMAT, NAMES, make_network, prepare, read_checkpoint
from rep3d.training.checkpoints import save_whole

logger = logging.getLogger(__name__)

LEARNING_RATE = 1e-4
CLICKED = 0.5  # of the steps have clicks; the others train the automatic answer
ROUNDS = 3  # of simulated clicks in such a step, at most


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
        ValueError: the file is there and `resume` is not told, or it is of another training.
    """
    settings = {"format": FORMAT, "ids": list(ids), "size": list(size), "seed": seed, "cases": len(items)}
    set_determinism(seed)
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    done = _resume(path, settings, network, optimizer, resume)
    set_determinism(seed + done["epochs"])
    data = [_prepared(item, ids, size) for item in items]
    trainer = SupervisedTrainer(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        max_epochs=10**6,
        train_data_loader=DataLoader(Dataset(data, _transform()), batch_size=1, shuffle=True),
        network=network.to("cuda" if torch.cuda.is_available() else "cpu"),
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        iteration_update=Interaction(CLICKED, _clicks(), train=True, label_names=NAMES, max_interactions=ROUNDS),
        decollate=False,
    )
    losses: list[float] = []
    begin = time.monotonic() - done["seconds"]

    def remember(engine: Engine) -> None:
        losses.append(float(engine.state.output["loss"]))  # type: ignore[index, call-overload]

    def save(engine: Engine) -> None:
        seconds = time.monotonic() - begin
        epochs, loss = done["epochs"] + engine.state.epoch, sum(losses) / len(losses)
        losses.clear()
        states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_whole({**settings, **states, "epochs": epochs, "seconds": seconds, "loss": loss}, path)
        logger.info("epoch %d, %.1f of %g minutes, loss %.3f", epochs, seconds / 60, minutes, loss)
        done["loss"] = loss

    def stop(engine: Engine) -> None:
        if time.monotonic() - begin >= 60 * minutes:
            engine.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, remember)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, save)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)
    if done["seconds"] < 60 * minutes:
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.run()
    return float(done["loss"])


def _resume(
    path: Path, settings: dict[str, Any], network: torch.nn.Module, optimizer: torch.optim.Optimizer, resume: bool
) -> dict[str, Any]:
    """How far an earlier training was; loads what it learned."""
    if not path.exists():
        return {"epochs": 0, "seconds": 0.0, "loss": float("nan")}
    if not resume:
        raise ValueError(f"{path} is there already: go on with --resume true, or give another file")
    content = read_checkpoint(path)
    for name, value in settings.items():
        if content.get(name) != value:
            raise ValueError(f"{path}: was trained with {name} {content.get(name)!r}, not {value!r}")
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return {name: content[name] for name in ("epochs", "seconds", "loss")}


def _prepared(item: Item, ids: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
    case = load_case(item)
    label = torch.isin(case.label, torch.tensor(list(ids), dtype=case.label.dtype)).float()
    resized = Resize(size, mode="nearest")(label[None])
    return {"image": prepare(case.image, size), "label": torch.as_tensor(resized), "label_names": dict(NAMES)}


def _transform() -> Compose:
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
    ]
