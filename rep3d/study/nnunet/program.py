"""Trains and predicts with nnU-Net, version 2. Runs in nnU-Net's own environment, which has no rep3d.

    PYTHON program.py COMMAND SETTINGS.json RESULT.json

The settings are the arguments of the function of the command's name; what it returns goes to the other file. The data
set is planned and preprocessed, and nnU-Net's environment variables say where.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

CONFIGURATION, FOLD = "3d_fullres", 0
WARM_UP, TIMED = 5, 10  # steps
SAVED_EVERY = 25  # steps
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(dataset: str) -> dict[str, Any]:
    """Seconds of a training step, once the processes that augment have filled their queues."""
    trainer = _trainer(dataset, WARM_UP + TIMED)
    trainer.disable_checkpointing = True
    ends = _train(trainer)
    return {"seconds_per_step": (ends[-1] - ends[WARM_UP - 1]) / TIMED}


def train(dataset: str, steps: int) -> dict[str, Any]:
    """Train with nnU-Net's default trainer, whose learning rate falls to nothing over so many steps.

    Goes on from the last checkpoint, where there is one; one that is finished stays.

    Args:
        dataset: its name.
        steps: of the optimizer.
    """
    trainer = _trainer(dataset, steps)
    folder = Path(trainer.output_folder)
    last = folder / "checkpoint_latest.pth"  # goes when the final one is written
    if last.is_file() or not (folder / "checkpoint_final.pth").is_file():
        if last.is_file():
            trainer.load_checkpoint(str(last))
        _train(trainer, last)
    return {"model": trainer.output_folder_base, "steps": steps}


def train_for(dataset: str, seconds: float) -> dict[str, Any]:
    """Train with nnU-Net's default trainer, whose learning rate falls to nothing over so much time.

    Args:
        dataset: its name.
        seconds: of the steps; the start before them comes on top.
    """
    trainer = _trainer(dataset, 1)
    _train(trainer, seconds=seconds)
    return {"model": trainer.output_folder_base, "steps": trainer.current_epoch}


def predict(model: str, images: str, output: str, mirroring: bool) -> dict[str, Any]:
    """Segment a folder of images as nnU-Net does it by default.

    Args:
        model: the folder of a training.
        images: the folder of the images.
        output: the folder of the label maps.
        mirroring: whether windows are segmented mirrored, too, which nnU-Net does by default.
    """
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=DEVICE, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, (FOLD,))
    Path(output).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    predictor.predict_from_files_sequential(images, output)
    return {"seconds": time.perf_counter() - began}


def time_windows(dataset: str, image: str, windows: int) -> dict[str, Any]:
    """What a prediction takes with the network that was planned, untrained: nnU-Net's time goes by its windows.

    Args:
        dataset: its name; it needs no training.
        image: of one channel.
        windows: that are timed, after one that is not.
    """
    trainer = _trainer(dataset, 1)
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # tells the axes
    configuration = trainer.configuration_manager
    classes = trainer.label_manager.num_segmentation_heads
    network = trainer.build_network_architecture(trainer.plans_manager, configuration, 1, classes, False)
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, *_ = preprocessor.run_case([image], None, trainer.plans_manager, configuration, trainer.dataset_json)
    padded, _ = pad_nd_image(torch.from_numpy(data), configuration.patch_size, "constant", {"value": 0}, True, None)
    found: dict[str, Any] = {"patch_size": list(configuration.patch_size)}
    for mirroring in (False, True):
        predictor = nnUNetPredictor(use_mirroring=mirroring, device=DEVICE, allow_tqdm=False)
        predictor.manual_initialization(
            network.to(DEVICE).eval(),
            trainer.plans_manager,
            configuration,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        slices = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
        ends = [_predicted(predictor, padded[slices[i % len(slices)]][None]) for i in range(windows + 1)]
        found["windows"] = len(slices)
        found["mirrored" if mirroring else "plain"] = (ends[-1] - ends[0]) / windows
    return found


def _predicted(predictor: Any, window: torch.Tensor) -> float:
    """Segment a window; the time at which that is done."""
    predictor._internal_maybe_mirror_and_predict(window.to(DEVICE)).cpu()
    return time.perf_counter()


def _trainer(dataset: str, steps: int) -> Any:
    """The default trainer, with epochs of one step, so that its learning rate falls with each."""
    trainer = get_trainer_from_args(dataset, CONFIGURATION, FOLD, device=DEVICE)
    trainer.num_epochs, trainer.num_iterations_per_epoch = steps, 1
    return trainer


def _train(trainer: Any, last: Path | None = None, seconds: float | None = None) -> list[float]:
    """What the trainer's `run_training` does, but for its validations; the times at which the steps ended.

    Args:
        trainer: an `nnUNetTrainer`.
        last: written now and then, to resume from.
        seconds: that take the place of the trainer's number of steps.
    """
    ends: list[float] = []
    trainer.on_train_start()
    if hasattr(trainer.dataloader_val, "_finish"):  # it has processes, which nobody needs
        trainer.dataloader_val._finish()
    began = time.perf_counter()
    while trainer.current_epoch < trainer.num_epochs:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
        if last and (trainer.current_epoch + 1) % SAVED_EVERY == 0:
            trainer.save_checkpoint(f"{last}.part")
            os.replace(f"{last}.part", last)
        trainer.current_epoch += 1
        ends.append(time.perf_counter())
        if seconds is not None:
            _end_after(trainer, ends[-1] - began, seconds)
    trainer.on_train_end()
    return ends


def _end_after(trainer: Any, elapsed: float, seconds: float) -> None:
    """Let the schedule end with as many steps as end, to the nearest, within a time at the pace so far."""
    steps = trainer.current_epoch
    left = (seconds - elapsed) / (elapsed / steps)
    trainer.num_epochs = steps + (left >= 0.5)  # one more, whose end decides on the next
    trainer.lr_scheduler.max_steps = steps + max(left, 0)  # of which the rate falls with the share of the time


def main() -> None:
    """Run the command that was given."""
    command, settings, result = sys.argv[1:]
    functions = {one.__name__: one for one in (measure, train, train_for, predict, time_windows)}
    found = functions[command](**json.loads(Path(settings).read_text()))
    part = Path(f"{result}.part")
    part.write_text(json.dumps(found))
    os.replace(part, result)


if __name__ == "__main__":
    main()
