"""A simulated user in front of networks that do as they are told."""

import pytest
import torch
from torch import nn

from rep3d.interactive import rounds
from rep3d.interactive.prompts import draw
from rep3d.interactive.rounds import SimulatedUser

SIZE = 16


def batch(prediction=False, taken=False):
    target = torch.zeros(2, 1, SIZE, SIZE, SIZE, dtype=torch.bool)
    target[0, 0, 3:9, 4:10, 5:11] = True
    target[1, 0, 8:14, 2:12, 2:7] = True
    locked = torch.zeros_like(target)
    if taken:
        locked[:, :, 10:13, 10:] = True
        locked &= ~target
    return {
        "image": target.float() + 0.01 * torch.randn(target.shape),
        "target": target,
        "taken": locked,
        "prediction": torch.roll(target, 2, 2) if prediction else torch.zeros_like(target),
        "inside": torch.ones_like(target),
        "spacing": torch.tensor([1.0, 2.0], dtype=torch.float64),
    }


class Answers(nn.Module):
    """Gives what a function makes of its input, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked, self.norm = answer, [], nn.BatchNorm3d(5)

    def forward(self, channels):
        self.asked.append((channels.clone(), self.training, torch.is_grad_enabled()))
        self.norm(channels)
        return self.answer(channels)


class Prompted(nn.Module):
    """Finds what the prompts show."""

    def forward(self, channels):
        return channels[:, 2:3] - channels[:, 3:4] - 0.3


def nothing(channels):
    return -torch.ones_like(channels[:, :1])


def everything(channels):
    return torch.ones_like(channels[:, :1])


def test_inputs_and_targets():
    made = batch(taken=True)
    for seed in range(8):
        torch.manual_seed(seed)
        inputs, targets = SimulatedUser(Answers(nothing))(made, "cpu")
        assert inputs.shape == (2, 5, SIZE, SIZE, SIZE) and inputs.dtype == torch.float32
        assert targets.shape == (2, 2, SIZE, SIZE, SIZE) and targets.dtype == torch.float32
        assert torch.equal(targets[:, :1], made["target"].float())
        assert (targets[:, 1].flatten(1).amax(1) > 0).all(), "every case has an error to learn from"
        assert torch.equal(inputs[:, 4:], made["taken"].float())
        assert (inputs[:, 2:4].flatten(1).amax(1) > 0).all(), "every case has a prompt"


def test_rounds_run_as_the_network_will_serve():
    """Without gradients, without learning statistics, and the network goes on training."""
    network = Answers(nothing).train()
    for seed in range(12):
        torch.manual_seed(seed)
        SimulatedUser(network)(batch(), "cpu")
    assert network.asked and not any(training or gradients for _, training, gradients in network.asked)
    assert network.training and int(network.norm.num_batches_tracked) == 0


def test_numbers_of_rounds_differ():
    counts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        network = Answers(nothing)
        SimulatedUser(network)(batch(), "cpu")
        counts.add(len(network.asked))
    assert {0, 1, 2} <= counts


@pytest.mark.parametrize("clicks", [1, 2, 5])
def test_clicks_of_the_evaluating_user(clicks):
    """Each in what is wrong: where nothing is found all are positive, and the next mask is the last answer."""
    network = Answers(nothing)
    inputs, _ = SimulatedUser(network, clicks=clicks)(batch(), "cpu")
    assert len(network.asked) == clicks - 1
    assert not inputs[:, 1].any() and not inputs[:, 3].any() and (inputs[:, 2].flatten(1).amax(1) > 0).all()


def test_positive_clicks_take_nothing_away():
    made = batch()
    half = made["target"].clone()
    half[..., : half.shape[-1] // 2] = 0
    answers = iter([half.float() - 0.5, nothing(half.float())])
    inputs, _ = SimulatedUser(Answers(lambda channels: next(answers)), clicks=3)(made, "cpu")
    assert half.any() and torch.equal(inputs[:, 1:2].bool(), half.bool())


def test_what_is_wrongly_found_gets_negative_clicks_and_what_is_taken_is_left_out():
    made = batch(taken=True)
    inputs, _ = SimulatedUser(Answers(everything), clicks=2)(made, "cpu")
    assert torch.equal(inputs[:, 1:2].bool(), ~made["taken"])
    assert (inputs[:, 3].flatten(1).amax(1) > 0).all()
    wrong = ~made["target"] & ~made["taken"]
    peaks = inputs[:, 3].flatten(1).argmax(1)
    assert wrong.flatten(1)[[0, 1], peaks].all()


def test_a_perfect_answer_gets_no_more_clicks():
    made = batch()
    perfect = lambda channels: made["target"].float() - 0.5  # noqa: E731
    once, _ = SimulatedUser(Answers(perfect), clicks=2)(made, "cpu")
    more, _ = SimulatedUser(Answers(perfect), clicks=6)(made, "cpu")
    assert torch.equal(once, more) and torch.equal(more[:, 1:2].bool(), made["target"])


def test_starts():
    """From nothing, from a distorted truth, and from a prediction where there is one."""
    made, seen = batch(prediction=True), set()
    for seed in range(60):
        torch.manual_seed(seed)
        network = Answers(nothing)
        inputs, _ = SimulatedUser(network)(made, "cpu")
        first = network.asked[0][0] if network.asked else inputs
        for start, target, prediction in zip(first[:, 1:2].bool(), made["target"], made["prediction"], strict=True):
            seen.add("prediction" if torch.equal(start, prediction) else "distorted" if start.any() else "nothing")
            assert not torch.equal(start, target) or start.any()
    assert seen == {"nothing", "distorted", "prediction"}


def test_the_seed_of_the_training_decides():
    made, inputs = batch(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        inputs.append(SimulatedUser(Answers(nothing))(made, "cpu")[0])
    assert torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[0], inputs[2])


def test_workers_prompt_as_one_process_does():
    made = batch(prediction=True, taken=True)
    for seed in range(3):
        results = []
        for workers in (0, 2):
            torch.manual_seed(seed)
            results.append(SimulatedUser(Prompted(), workers=workers)(made, "cpu"))
        for alone, side_by_side in zip(*results, strict=True):
            assert torch.equal(alone, side_by_side)


def test_targets_go_on_beyond_the_scan_as_inputs_do():
    made = batch()
    made["inside"][:, :, 9:] = False  # the first label ends at this edge, the second one is cut by it
    made["target"] &= made["inside"]
    for clicks in (None, 2):
        inputs, targets = SimulatedUser(Answers(nothing), clicks=clicks)(made)
        for values in (inputs, targets):
            torch.testing.assert_close(values[:, :, 9:], values[:, :, 1:8].flip(2), atol=0, rtol=0)
        assert (targets[:, :1, :9] == made["target"][:, :, :9]).all() and targets[:, 0, 9:].any()


def draws(seeds, user=SimulatedUser, **settings):
    """The cases of many batches after their last round, each with the network's inputs."""
    made, prompted = batch(**settings), []
    for seed in seeds:
        torch.manual_seed(seed)
        network = Answers(nothing)
        inputs, targets = user(network)(made, "cpu")
        prompted += [(len(network.asked), *case) for case in zip(inputs, targets, strict=True)]
    return prompted


def test_up_to_ten_rounds(monkeypatch):
    """The longest comes seldom, and a step pays for less than two answers more."""
    assert len(rounds.CORRECTIONS) == 10 and sum(rounds.CORRECTIONS) == pytest.approx(1)
    assert sum(times * share for times, share in enumerate(rounds.CORRECTIONS)) < 2
    monkeypatch.setattr(rounds, "CORRECTIONS", (0.0,) * 9 + (1.0,))
    network = Answers(nothing)
    SimulatedUser(network)(batch(), "cpu")
    assert len(network.asked) == 9


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_prompts_at_once(monkeypatch, count):
    """All of them are new: the loss looks near each, and they fade by their order."""
    monkeypatch.setattr(rounds, "AT_ONCE", tuple(float(n == count) for n in (1, 2, 3)))
    monkeypatch.setattr(rounds, "CORRECTIONS", (0.0, 0.0, 1.0))
    seen = []
    monkeypatch.setattr(rounds, "draw", lambda prompts, grid: seen.append(list(prompts)) or draw(prompts, grid))
    draws(range(3))
    assert len(seen) == 6 and all(len(newest) == count for newest in seen)


def test_on_nothing_negative_prompts_come_with_positive_ones(monkeypatch):
    monkeypatch.setattr(rounds, "CORRECTIONS", (1.0,))
    alone = both = 0
    user = lambda network: SimulatedUser(network, starts={"nothing": 1})  # noqa: E731
    for _, inputs, targets in draws(range(40), user, taken=True):
        positive, negative = (channel.amax() > 0 for channel in inputs[2:4])
        assert positive and not inputs[1].any()
        alone, both = alone + int(not negative), both + int(negative)
        surely = inputs[3] > 0.9  # the middle of a point or scribble; what looks like it has 0.5
        assert not (surely & (targets[0] > 0)).any() and not (surely & (inputs[4] > 0)).any()
    assert both and alone > 2 * both


@pytest.mark.parametrize("way", ["nothing", "distorted truth", "prediction"])
def test_starts_may_be_told(monkeypatch, way):
    monkeypatch.setattr(rounds, "CORRECTIONS", (1.0,))
    made = batch(prediction=True)
    user = lambda network: SimulatedUser(network, starts={way: 1, "nothing": 1e-9})  # noqa: E731
    for i, (_, inputs, _targets) in enumerate(draws(range(4), user, prediction=True)):
        is_prediction = torch.equal(inputs[1:2].bool(), made["prediction"][i % 2])
        assert is_prediction == (way == "prediction") and inputs[1].any() == (way != "nothing")


@pytest.mark.parametrize(
    "starts",
    [{"prediction": 1}, {"nothing": -1}, {"nothing": "often"}, {"thin air": 1}, {}, {"nothing": float("nan")}, 1],
)
def test_starts_that_are_none(starts):
    with pytest.raises(ValueError, match="^starts is .*, expected numbers from 0 for some of nothing, distorted truth"):
        SimulatedUser(Answers(nothing), starts=starts)


def test_nobody_clicks_beyond_the_scan():
    """Where the working grid reaches beyond it, what is found there is no error."""
    made = batch()
    made["inside"][:, :, 12:] = False
    made["target"] &= made["inside"]
    inputs, _ = SimulatedUser(Answers(everything), clicks=3)(made, "cpu")
    assert torch.equal(inputs[:, 1:2].bool(), torch.ones_like(made["inside"]))  # it goes on mirrored
    clicks = inputs[:, 3].flatten(1).argmax(1) // SIZE**2
    assert (clicks < 12).all() and (inputs[:, 3].flatten(1).amax(1) > 0.9).all()
