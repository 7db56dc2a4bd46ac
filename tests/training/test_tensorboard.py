from types import SimpleNamespace

import torch

from rep3d.training.tensorboard import write_dice, write_learning_rate


class Writer(dict):
    def add_scalar(self, name, value, epoch):
        self[name] = (value, epoch)


def test_dice_of_each_label():
    """The mean over the cases that have the label."""
    details = torch.tensor([[0.25, 0.875], [0.75, float("nan")]])
    state = SimpleNamespace(
        epoch=3, metrics={"val_mean_dice": 0.625}, metric_details={"dice": details}, key_metric_name="dice"
    )
    writer = Writer()
    write_dice(SimpleNamespace(state=state), writer, ["background", "left", "right"])
    assert writer == {"val_mean_dice": (0.625, 3), "val_dice/left": (0.5, 3), "val_dice/right": (0.875, 3)}


def test_learning_rate():
    engine = SimpleNamespace(
        state=SimpleNamespace(epoch=2), optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    )
    writer = Writer()
    write_learning_rate(engine, writer)
    assert writer == {"learning_rate": (0.1, 2)}
