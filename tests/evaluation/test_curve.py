import math

import numpy as np
import pytest
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from rep3d.evaluation.curve import divergence, training_curve


def write_events(folder, epochs, *, iterations=8, loss=1.0, start=1e9):
    """Write what MONAI's handlers do: the loss at each iteration, the Dice at each second epoch."""
    with SummaryWriter(str(folder)) as writer:
        for epoch in epochs:
            for step in range((epoch - 1) * iterations + 1, epoch * iterations + 1):
                writer.add_scalar("train_loss", loss / step, step, walltime=start + step)
            if epoch % 2 == 0:
                now = start + epoch * iterations + 0.5
                writer.add_scalar("val_mean_dice", 1 - 1 / epoch, epoch, walltime=now)
                writer.add_scalar("val_dice_anterior", 0.1, epoch, walltime=now)


def test_curve_is_a_readable_png(tmp_path, drawn):
    write_events(tmp_path / "events", range(1, 9))
    path = training_curve(tmp_path / "events", tmp_path / "new" / "curve.png")
    assert imread(path).shape[:2] == (700, 1200)
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    left, right = drawn[0].axes
    assert left.get_xlabel() == "epoch"
    assert right.get_ylim() == (0, 1)
    np.testing.assert_allclose(left.lines[0].get_xdata()[[0, -1]], [1 / 8, 8])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [2, 4, 6, 8])
    assert right.lines[0].get_label() == "val_mean_dice, best 0.875 at epoch 8"  # not the Dice of a class


def test_resumed_runs_merge(tmp_path, drawn):
    write_events(tmp_path / "events" / "first", range(1, 7))
    write_events(tmp_path / "events" / "resumed", range(5, 6), loss=7.0, start=2e9)  # sixth epoch never came
    training_curve(tmp_path / "events", tmp_path / "curve.png")
    left, right = drawn[0].axes
    steps = np.arange(1, 41)
    np.testing.assert_allclose(left.lines[0].get_xdata() * 8, steps)
    np.testing.assert_allclose(left.lines[0].get_ydata(), np.where(steps > 32, 7.0, 1.0) / steps, rtol=1e-6)


def test_curve_in_one_unit_of_steps(tmp_path, drawn):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 31):
            writer.add_scalar("Loss", float("nan") if step > 20 else 1 / step, step)
            writer.add_scalar("val_mean_dice", 0.5, step)
    training_curve(tmp_path, tmp_path / "curve.png")
    left = drawn[0].axes[0]
    assert left.get_xlabel() == "step"
    assert left.lines[0].get_xdata()[-1] == 30
    assert np.isnan(left.lines[1].get_ydata()[20:]).all()  # a diverged loss does not look like zero


@pytest.mark.parametrize(
    "losses, expected",
    [
        ([1.0, 0.5, math.nan, math.nan], "diverged: the loss was not finite any more after step 2"),
        ([math.inf] * 2, "diverged: the loss was not finite any more after step 0"),
        ([1.0, math.nan, 0.5], ""),  # one step was left out
        ([1.0], ""),
    ],
)
def test_divergence_in_words(losses, expected, tmp_path, drawn):
    with SummaryWriter(tmp_path / "logs") as writer:
        for step, value in enumerate(losses, 1):
            writer.add_scalar("train_loss", value, step)
    assert divergence(tmp_path / "logs") == expected
    training_curve(tmp_path / "logs", tmp_path / "curve.png")
    (legend,) = drawn[0].legends
    assert ("diverged" in legend.get_texts()[0].get_text()) == bool(expected)


def test_curve_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*event files"):
        training_curve(tmp_path / "nowhere", tmp_path / "curve.png")
    with SummaryWriter(str(tmp_path / "events")) as writer:
        writer.add_scalar("speed", 1.0, 1)
    with pytest.raises(ValueError, match=r"events: expected .*'loss' or 'dice'.*speed"):
        training_curve(tmp_path / "events", tmp_path / "curve.png")
