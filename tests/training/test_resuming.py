"""A resumed training goes by the settings it was given, and says which of them are new."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from rep3d.training.parameters import parameter_groups
from rep3d.training.resuming import optimization_settings, resume_learning

EPOCHS = 4


class Learning:
    """Optimizer and schedule of one layer, some epochs long."""

    def __init__(self, schedule, rate=0.1, optimizer=torch.optim.AdamW, **options):
        self.network = nn.Linear(1, 1)
        weight, bias = self.network.parameters()
        groups = [{"params": [weight], "weight_decay": options.pop("weight_decay", 0.08)}, {"params": [bias]}]
        self.optimizer = optimizer(groups, lr=rate, **options)
        self.schedule = schedule(self.optimizer)
        self.settings = optimization_settings(self.optimizer, self.schedule)

    def run(self, epochs=EPOCHS):
        for _ in range(epochs):
            self.optimizer.zero_grad()
            self.network(torch.ones(1, 1)).backward()
            self.optimizer.step()
            if isinstance(self.schedule, schedules.ReduceLROnPlateau):
                self.schedule.step(0.5)
            else:
                self.schedule.step()
        return self

    def checkpoint(self):
        content = {
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.schedule.state_dict(),
            "settings": self.settings,
        }
        return copy.deepcopy(content)

    @property
    def rate(self):
        return self.optimizer.param_groups[0]["lr"]


def polynomial(total=10, power=0.9):
    return lambda optimizer: schedules.PolynomialLR(optimizer, total, power)


def plateau(factor=0.5, patience=0):
    return lambda optimizer: schedules.ReduceLROnPlateau(optimizer, "max", factor=factor, patience=patience)


SCHEDULES = {
    "polynomial": (polynomial(), polynomial(20, 2.0)),
    "step": (lambda o: schedules.StepLR(o, 2, 0.1), lambda o: schedules.StepLR(o, 3, 0.5)),
    "exponential": (lambda o: schedules.ExponentialLR(o, 0.9), lambda o: schedules.ExponentialLR(o, 0.5)),
    "cosine": (lambda o: schedules.CosineAnnealingLR(o, 10), lambda o: schedules.CosineAnnealingLR(o, 30)),
    "constant": (lambda o: schedules.ConstantLR(o, 1.0), lambda o: schedules.ConstantLR(o, 0.5, 9)),
}
RESTARTING = {
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda _: 0.5),
    "plateau": plateau(),
    "lambda": lambda o: schedules.LambdaLR(o, lambda epoch: 0.9**epoch),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3),
}


@pytest.mark.parametrize("schedule", [*(old for old, _ in SCHEDULES.values()), *RESTARTING.values()])
def test_same_settings_go_on_silently(schedule, caplog):
    first, whole = Learning(schedule).run(), Learning(schedule).run()
    second = Learning(schedule)
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == first.rate
    assert second.run(3).rate == pytest.approx(whole.run(3).rate)
    assert not caplog.records


@pytest.mark.parametrize("schedule", [*(old for old, _ in SCHEDULES.values()), *RESTARTING.values()])
def test_new_learning_rate_counts(schedule, caplog):
    """As if the training had had it from the start."""
    first, whole = Learning(schedule).run(), Learning(schedule, 0.003).run()
    second = Learning(schedule, 0.003)
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == pytest.approx(whole.rate)
    assert second.run(3).rate == pytest.approx(whole.run(3).rate)
    assert [record.getMessage() for record in caplog.records] == [
        "resume: learning rate is 0.003, was 0.1: the new one counts"
    ]


@pytest.mark.parametrize("name", SCHEDULES)
def test_new_schedule_counts(name, caplog):
    old, new = SCHEDULES[name]
    first, whole = Learning(old).run(), Learning(new).run()
    second = Learning(new)
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == pytest.approx(whole.rate)
    assert second.run(3).rate == pytest.approx(whole.run(3).rate)
    assert "the new one counts" in caplog.text


def test_plateau_with_other_settings(caplog):
    """What it has learned about the scores stays."""
    first = Learning(plateau()).run()
    second = Learning(plateau(0.1, patience=7))
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == first.rate
    assert (second.schedule.factor, second.schedule.patience, second.schedule.best) == (0.1, 7, 0.5)
    assert "factor is 0.1, was 0.5: the new one counts" in caplog.text
    assert "patience is 7, was 0" in caplog.text


def test_more_epochs(caplog):
    """The bundle's schedule ends with its epochs, which is what people typed."""
    first = Learning(polynomial(10)).run()
    second = Learning(polynomial(20))
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert [record.getMessage() for record in caplog.records] == [
        "resume: the number of epochs in the schedule is 20, was 10: the new one counts"
    ]


def test_weight_decay_and_betas(caplog):
    first = Learning(polynomial()).run()
    second = Learning(polynomial(), weight_decay=0.3, betas=(0.8, 0.99))
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.3, 0.01]
    assert second.optimizer.param_groups[1]["betas"] == (0.8, 0.99)
    assert second.optimizer.state_dict()["state"][0]["step"] == EPOCHS
    assert [record.getMessage() for record in caplog.records] == [
        "resume: betas is (0.8, 0.99), was (0.9, 0.999): the new one counts",
        "resume: weight_decay is 0.3, was 0.08: the new one counts",
    ]


def test_another_kind_of_schedule(caplog):
    first = Learning(polynomial()).run()
    second = Learning(plateau())
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == 0.1
    assert not hasattr(second.schedule, "total_iters")
    assert "lr_scheduler is ReduceLROnPlateau, was PolynomialLR: it starts anew" in caplog.text


def test_another_optimizer(caplog):
    first = Learning(polynomial()).run()
    second = Learning(polynomial(), optimizer=torch.optim.SGD)
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert second.rate == first.rate
    second.run(1)
    assert "optimizer is SGD, was AdamW: it starts without moments" in caplog.text


def test_other_parameter_groups():
    first = Learning(polynomial()).run()
    second = Learning(polynomial())
    optimizer = torch.optim.AdamW(second.network.parameters())
    with pytest.raises(
        ValueError,
        match=r"parameter groups of \[.*\] parameters, the optimizer of \[.*\]; start .*init_from",
    ):
        resume_learning(optimizer, second.schedule, first.checkpoint())


def test_nested_schedules_say_what_they_ignore(caplog):
    def warm_up(epochs):
        return lambda optimizer: schedules.SequentialLR(
            optimizer, [schedules.LinearLR(optimizer, 0.5, total_iters=epochs), polynomial()(optimizer)], [epochs]
        )

    first = Learning(warm_up(2)).run()
    second = Learning(warm_up(3))
    resume_learning(second.optimizer, second.schedule, first.checkpoint())
    assert "_schedulers is" in caplog.text and "the checkpoint's counts" in caplog.text


def test_older_checkpoint(caplog):
    content = Learning(polynomial()).run().checkpoint()
    del content["settings"]
    second = Learning(polynomial(), 0.5)
    resume_learning(second.optimizer, second.schedule, content)
    assert second.rate == content["optimizer"]["param_groups"][0]["lr"]
    assert "learning rate, weight decay and schedule are the checkpoint's" in caplog.text


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        ((0.1, 0.2), (0.1, 0.3), ["small_kernel_lr is 0.3, was 0.2"]),
        ((0.1, None), (0.1, 0.3), ["small_kernel_lr is 0.3, was 0.1"]),
        ((0.1, 0.2), (0.4, 0.2), ["learning rate is 0.4, was 0.1"]),
        ((0.1, None), (0.4, None), ["learning rate is 0.4, was 0.1"]),
    ],
)
def test_the_rate_of_the_small_kernels(before, now, named, tiny_rep3d, caplog):
    def learning(rate, small):
        groups = parameter_groups(tiny_rep3d(modulation="csla"), small_kernel_lr=small)
        optimizer = torch.optim.AdamW(groups, lr=rate)
        return optimizer, polynomial()(optimizer)

    optimizer, schedule = learning(*before)
    checkpoint = {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    checkpoint["settings"] = optimization_settings(optimizer, schedule)
    resume_learning(*learning(*now), checkpoint)
    assert [record.getMessage() for record in caplog.records] == [
        f"resume: {line}: the new one counts" for line in named
    ]
