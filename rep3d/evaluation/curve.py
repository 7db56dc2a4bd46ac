"""The curve of a training, from what it wrote for TensorBoard."""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from rep3d.evaluation.okabe_ito import BLUE, VERMILION
from rep3d.evaluation.pictures import save_picture

Scalars = dict[str, list[Any]]  # of each tag the events (wall_time, step, value), by ascending step


def training_curve(tensorboard_dir: str | Path, path: str | Path) -> Path:
    """Draw training loss and validation Dice, 0 to 1, and return the path of the PNG, 1200 x 700 pixels.

    Reads all event files below the folder; where a later one, of a resumed run, goes back to an earlier step, it
    replaces what followed. The loss is the scalar with "loss" in its tag, the Dice the one with "dice", of the mean
    rather than of a class. A loss that is not finite in the end has diverged, which the legend says.

    Raises:
        FileNotFoundError: no event files.
        ValueError: neither a loss nor a Dice.
    """
    scalars = _read_scalars(Path(tensorboard_dir))
    losses, dices = _loss_tags(scalars), _dice_tags(scalars)
    if not losses and not dices:
        raise ValueError(f"{tensorboard_dir}: expected scalars named after 'loss' or 'dice', got {list(scalars)}")
    loss = scalars[losses[0]] if losses else []
    dice = scalars[dices[0]] if dices else []
    per_epoch = _iterations_per_epoch(loss, dice)
    unit = "epoch" if per_epoch > 1 else "step"

    figure = Figure(figsize=(8, 14 / 3), dpi=150, layout="constrained")
    left = figure.subplots()
    left.set_xlabel(unit)
    left.grid(alpha=0.25)
    lines = []
    if loss:
        lines.append(_draw_loss(left, loss, losses[0], per_epoch, unit))
    if dice:
        lines.append(_draw_dice(left.twinx(), dice, dices[0], unit))
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)
    return save_picture(figure, path)


def divergence(tensorboard_dir: str | Path) -> str:
    """In words, that a training diverged and when: its loss is not finite in the end. Empty where it did not."""
    scalars = _read_scalars(Path(tensorboard_dir))
    loss = [event for tag in _loss_tags(scalars)[:1] for event in scalars[tag]]
    if not loss or math.isfinite(loss[-1].value):
        return ""
    last = max((event.step for event in loss if math.isfinite(event.value)), default=0)
    return f"diverged: the loss was not finite any more after step {last}"


def _draw_loss(axes: Axes, loss: Sequence[Any], tag: str, per_epoch: float, unit: str) -> Line2D:
    """Draw the loss and its moving average, which is returned."""
    steps, values = np.array([(event.step / per_epoch, event.value) for event in loss]).T
    axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
    axes.set_ylabel("training loss", color=BLUE)
    finite, window = np.isfinite(values), np.ones(len(values) // 20 | 1)
    smooth = np.convolve(np.where(finite, values, 0), window, "same") / np.convolve(finite + 1e-9, window, "same")
    smooth[~finite] = np.nan  # a loss that diverged ends
    label = f"{tag}, smoothed" if finite[-1] else f"{tag}, smoothed, diverged before {unit} {steps[-1]:.3g}"
    return axes.plot(steps, smooth, color=BLUE, linewidth=2, label=label)[0]


def _draw_dice(axes: Axes, dice: Sequence[Any], tag: str, unit: str) -> Line2D:
    steps, values = np.array([(event.step, event.value) for event in dice]).T
    best = int(np.argmax(np.nan_to_num(values)))
    axes.set_ylim(0, 1)
    axes.set_ylabel("validation Dice", color=VERMILION)
    label = f"{tag}, best {values[best]:.3f} at {unit} {dice[best].step}"
    return axes.plot(steps, values, color=VERMILION, marker=".", label=label)[0]


def _read_scalars(folder: Path) -> Scalars:
    files = [EventAccumulator(str(file), {SCALARS: 0}).Reload() for file in folder.rglob("*tfevents*")]  # 0: all
    if not files:
        raise FileNotFoundError(f"{folder}: expected a folder with TensorBoard event files, *tfevents*, found none")
    scalars: Scalars = {}
    for tag in sorted({tag for file in files for tag in file.Tags()[SCALARS]}):
        parts = [file.Scalars(tag) for file in files if tag in file.Tags()[SCALARS]]
        for part in sorted(parts, key=lambda part: part[0].wall_time):
            part = sorted({event.step: event for event in part}.values(), key=lambda event: event.step)
            scalars[tag] = [event for event in scalars.get(tag, []) if event.step < part[0].step] + part
    return scalars


def _loss_tags(scalars: Mapping[str, Any]) -> list[str]:
    """Tags of losses, that of the training first; of equals the shortest: the name of a class makes a tag longer."""
    losses = [tag for tag in scalars if "loss" in tag.lower()]
    return sorted(losses, key=lambda tag: ("val" in tag.lower(), "train" not in tag.lower(), len(tag)))


def _dice_tags(scalars: Mapping[str, Any]) -> list[str]:
    """Tags of Dice, that of the mean in the validation first."""
    dices = [tag for tag in scalars if "dice" in tag.lower() and "loss" not in tag.lower()]
    return sorted(dices, key=lambda tag: ("train" in tag.lower(), "mean" not in tag.lower(), len(tag)))


def _iterations_per_epoch(loss: Sequence[Any], dice: Sequence[Any]) -> float:
    """Return how many iterations MONAI counts for the loss while it counts an epoch for the Dice, or 1 if not so."""
    times = [event.wall_time for event in loss]
    later = [event for event in dice if event.step > 0 and times and event.wall_time >= times[0]]
    ratios = [loss[bisect(times, event.wall_time) - 1].step / event.step for event in later]
    # The latest loss is never ahead of the Dice. Without a common ratio the steps count the same.
    common = max(ratios, default=1)
    return common if common > 1.5 and sum(ratio > 0.9 * common for ratio in ratios) > len(ratios) / 2 else 1
