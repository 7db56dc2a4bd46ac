"""What TensorBoard shows beyond the loss: the learning rate, and the Dice of each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from monai.engines import SupervisedTrainer, Workflow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def write_learning_rate(engine: SupervisedTrainer, writer: SummaryWriter) -> None:
    """The trainer's learning rate, that of the first parameter group, after each epoch."""
    writer.add_scalar("learning_rate", engine.optimizer.param_groups[0]["lr"], engine.state.epoch)


def write_dice(engine: Workflow, writer: SummaryWriter, label_names: Sequence[str]) -> None:
    """The evaluator's metrics, and the mean over the cases of each label of its key metric.

    Args:
        label_names: of the ids 0, 1, ...; the key metric leaves 0, the background, out.
    """
    for name, value in engine.state.metrics.items():
        writer.add_scalar(name, value, engine.state.epoch)
    details = engine.state.metric_details[engine.state.key_metric_name]  # (cases, labels), NaN where a label is absent
    for name, dice in zip(label_names[1:], details.nanmean(0).tolist(), strict=True):
        writer.add_scalar(f"val_dice/{name}", dice, engine.state.epoch)
