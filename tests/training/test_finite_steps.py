"""A training does not go on from numbers that are not finite, and does not keep them."""

import math
from contextlib import nullcontext

import pytest
import torch
from bundle_helpers import BUNDLES, TRAIN, make_dataset, read, workflow
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn

from rep3d.console.errors import root_cause
from rep3d.training import finite_steps as training
from rep3d.training.checkpoints import Checkpoints, read_weights
from rep3d.training.finite_steps import FiniteSteps

NAN, INF = math.nan, math.inf
BUNDLE = next(bundle for bundle in BUNDLES if bundle.name == "msd_hippocampus")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(1), nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(self.norm(x))


def trainer(batches, *, loss=None, optimizer=torch.optim.AdamW, epochs=1, steps=None, **arguments):
    """Of steps whose images are the given numbers, with what was attached."""
    network = Net()
    data = [{"image": torch.tensor([[0.0], [number]]), "label": torch.ones(2, 1)} for number in batches]
    engine = SupervisedTrainer(
        "cpu",
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=optimizer(network.parameters(), 0.1),
        loss_function=loss or nn.MSELoss(),
        **arguments,
    )
    steps = steps or FiniteSteps()
    steps.attach(engine)
    return engine, network, steps


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("length", [0, -1, 2.5])
def test_epochs_without_steps_are_refused(length):
    """MONAI ends the first of these trainings at once, as if it were over, and the last one never."""
    with pytest.raises(ValueError, match=rf"an epoch has {length} steps .*expected 1 or more"):
        trainer([1.0], epoch_length=length)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_step_is_left_out(bad, caplog):
    """Weights, moments, weight decay and running statistics are those of a training without it."""
    networks = []
    for batches in ([1.0, 2.0, bad, 3.0], [1.0, 2.0, 3.0]):
        torch.manual_seed(0)
        engine, network, steps = trainer(batches)
        engine.run()
        networks.append((state(network), engine.optimizer.state_dict()["state"], steps.skipped))
    (one, moments, skipped), (other, expected, none) = networks
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(moments[i][name], expected[i][name]) for i in moments for name in moments[i])
    assert (skipped, none) == (1, 0)
    assert "epoch 1, step 3: left out, loss nan" in caplog.text
    assert "1 of 4 steps were left out" in caplog.text


def test_infinite_loss_with_finite_gradients_is_left_out():
    engine, network, steps = trainer([1.0], loss=lambda y, label: y.mean() + torch.tensor(INF))
    before = state(network)
    engine.run()
    assert steps.skipped == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in state(network).items())


def test_infinite_gradient_of_a_finite_loss_is_left_out():
    engine, network, steps = trainer([1.0], loss=lambda y, label: (y - y.detach()).abs().sqrt().sum())
    engine.run()
    assert steps.skipped == 1
    assert all(tensor.isfinite().all() for tensor in state(network).values())


def test_several_in_a_row_end_the_training():
    engine, _, _ = trainer([1.0, NAN, NAN, 2.0, NAN, NAN, NAN, 3.0], epochs=2, steps=FiniteSteps(patience=3))
    expected = r"diverged at epoch 1, step 7: 3 steps in a row.*loss nan.*--learning_rate \(now 0.1\).*--resume true"
    with pytest.raises(RuntimeError, match=expected):
        engine.run()


def test_row_goes_on_over_the_epochs():
    engine, _, _ = trainer([1.0, NAN], epochs=9)
    engine.run()
    engine, _, _ = trainer([NAN, NAN], epochs=9)
    with pytest.raises(RuntimeError, match="epoch 3, step 5"):
        engine.run()


@pytest.mark.parametrize("max_norm", [0.01, 1e6, None])
def test_clipping(max_norm):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self):
            seen.append(torch.nn.utils.get_total_norm([p.grad for p in self.param_groups[0]["params"]]))

    engine, _, _ = trainer([1.0, 5.0], optimizer=Watched, steps=FiniteSteps(max_norm))
    engine.run()
    if max_norm == 0.01:
        assert seen == pytest.approx([0.01, 0.01], rel=1e-3)
    else:
        assert min(seen) > 0.01


def test_accumulated_gradients():
    engine, network, steps = trainer([1.0, NAN, 2.0, 3.0], accumulation_steps=2)
    engine.run()
    assert steps.skipped == 1
    assert all(tensor.isfinite().all() for tensor in state(network).values())


def test_gradients_are_clipped_once_they_are_added_up():
    """Two batches that pull far to opposite sides are a short step, and not the second one's direction."""
    seen = []

    class Watched(torch.optim.SGD):
        def step(self):
            seen.append([p.grad.clone() for p in self.param_groups[0]["params"]])

    def run(max_norm):
        torch.manual_seed(0)
        weights, mean = iter([50.0, -48.0, 3.0, 1.0]), nn.MSELoss()
        engine, _, _ = trainer(
            [1.0, 5.0, 2.0],
            loss=lambda prediction, label: next(weights) * mean(prediction, label),
            optimizer=Watched,
            steps=FiniteSteps(max_norm),
            accumulation_steps=2,
        )
        engine.run()
        return [seen.pop(0) for _ in range(2)]

    whole = run(None)
    for gradients, expected in zip(run(0.01), whole, strict=True):
        norm = torch.nn.utils.get_total_norm(expected)
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other * (0.01 / norm), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"max_norm": 0}, {"max_norm": NAN}, {"max_norm": -1.0}, {"patience": 0}])
def test_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must be .*, got {arguments[name]}"):
        FiniteSteps(**arguments)


def test_every_bundle_clips_as_nnunet_does():
    assert {read(bundle, "train")["gradient_clipping"] for bundle in BUNDLES} == {12}


@pytest.mark.slow
def test_diverging_bundle_keeps_its_last_finite_weights(tmp_path):
    """And says what to do; resuming with a lower rate goes on."""
    dataset = make_dataset(tmp_path / "data", BUNDLE)
    settings = {"train#trainer#epoch_length": 4, "val_interval": 2}
    workflow(BUNDLE, TRAIN, dataset, tmp_path, epochs=1, **settings).run()
    created = workflow(
        BUNDLE, TRAIN, dataset, tmp_path, epochs=6, resume=True, learning_rate=1e25, gradient_clipping=None, **settings
    )
    with pytest.raises(RuntimeError) as raised:
        created.run()
    assert "diverged" in str(root_cause(raised.value))  # said by the steps, or by the validation before
    for name in ("last.pt", "model.pt"):
        read_weights(tmp_path / "models" / name)


@pytest.mark.slow
def test_an_epoch_that_ends_with_a_left_out_step_is_not_saved(tmp_path):
    """Finite weights may be spoilt all the same; and a training that ends so has diverged."""
    dataset = make_dataset(tmp_path / "data", BUNDLE)
    workflow(BUNDLE, TRAIN, dataset, tmp_path, epochs=1).run()
    good = read_weights(tmp_path / "models/last.pt")
    settings = {"epochs": 2, "resume": True, "learning_rate": 1e20}
    with pytest.raises(RuntimeError) as raised:
        workflow(BUNDLE, TRAIN, dataset, tmp_path, **settings).run()
    assert "diverged" in str(root_cause(raised.value))
    kept = read_weights(tmp_path / "models/last.pt")
    assert all(torch.equal(kept[name], good[name]) for name in good)


def test_all_processes_leave_a_step_out_together(monkeypatch):
    """This one has finite numbers in every step, another one had a NaN in the second."""
    asked = []

    def all_reduce(finite, operation):
        asked.append((int(finite), operation))
        finite.mul_(len(asked) != 2)

    monkeypatch.setattr(training, "is_distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    engine, _, steps = trainer([1.0, 2.0, 3.0])
    engine.run()
    assert steps.skipped == 1
    assert asked == [(1, torch.distributed.ReduceOp.MIN)] * 4  # and once after the epoch


# --- the last step of an epoch: no further one shows what it did


class Overshooting(torch.optim.SGD):
    """Whose step of one number makes the weights finite ones, with which nothing can be computed."""

    def __init__(self, parameters, rate, *, at):
        super().__init__(parameters, rate)
        self.steps, self.at = 0, at

    def step(self):
        self.steps += 1
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(1e30 if self.steps == self.at else 0.1)


@pytest.mark.parametrize(("at", "saved"), [(2, None), (4, 1), (3, 1), (5, 2)])
def test_what_the_last_step_spoilt_is_not_saved(at, saved, tmp_path, caplog):
    """Loss and gradients were finite before that step, and the weights are after it."""
    epochs = 1 if saved is None else 2
    engine, network, steps = trainer(
        [1.0, 2.0], epochs=epochs, optimizer=lambda parameters, rate: Overshooting(parameters, rate, at=at)
    )
    evaluator = SupervisedEvaluator("cpu", [], network)
    schedule = torch.optim.lr_scheduler.ConstantLR(engine.optimizer)
    Checkpoints(engine, evaluator, network, engine.optimizer, schedule, tmp_path, steps=steps)
    with nullcontext() if at > 2 * epochs else pytest.raises(RuntimeError, match="the training diverged"):
        engine.run()
    assert (tmp_path / "last.pt").is_file() == (saved is not None)
    assert saved is None or torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == saved
    assert ("the loss after its last step is not finite" in caplog.text) == (at in (2, 4))


def test_looking_again_changes_nothing():
    """Neither statistics nor random numbers."""
    states = []
    for attached in (True, False):
        torch.manual_seed(0)
        engine, network, steps = trainer([1.0, 2.0, 3.0], epochs=2)
        if not attached:
            engine.remove_event_handler(steps._check_last, IterationEvents.MODEL_COMPLETED)
        engine.run()
        states.append([*state(network).values(), torch.get_rng_state()])
        assert network.training
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


class NoGradient(torch.autograd.Function):
    """What it was given, of which the gradients are NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, NAN)


class Loss(nn.MSELoss):
    """The mean squared error, of which some steps have gradients that are not finite."""

    def __init__(self, bad):
        super().__init__()
        self.bad = iter(bad)

    def forward(self, prediction, truth):
        return super().forward(NoGradient.apply(prediction) if next(self.bad, False) else prediction, truth)


@pytest.fixture
def scaler(monkeypatch):
    """That of a GPU, on a CPU."""
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: torch.amp.GradScaler("cpu"))


def test_a_scaler_that_finds_its_scale_is_left_alone(scaler, caplog):
    engine, network, steps = trainer([1.0] * 9, loss=Loss([True] * 8 + [False]), amp=True)
    before = state(network)
    engine.run()
    assert engine.scaler.get_scale() == 2**8 and steps.skipped == 0 and not caplog.records
    assert not torch.equal(network.linear.weight, before["linear.weight"])


def test_gradients_that_no_scale_makes_finite_end_a_training(scaler):
    """It would come to its end with the weights that it began with."""
    engine, _, _ = trainer([1.0] * 40, loss=Loss([True] * 40), amp=True)
    with pytest.raises(RuntimeError, match="diverged at epoch 1, step 21: 5 steps in a row were not finite"):
        engine.run()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_scaler_of_a_cpu_leaves_no_step_out():
    """It does nothing there."""
    engine, network, steps = trainer([1.0] * 3, loss=Loss([False, True, False]), amp=True)
    engine.run()
    assert not engine.scaler.is_enabled() and steps.skipped == 1
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
