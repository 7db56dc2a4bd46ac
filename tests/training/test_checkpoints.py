import errno
import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.utils import set_determinism
from torch import nn

from rep3d.data.leakage import TrainingCases
from rep3d.files import read_json
from rep3d.shipped import settings_beside
from rep3d.training import checkpoints
from rep3d.training.checkpoints import (
    Checkpoints,
    initialize_from,
    is_better,
    load_deployed,
    load_weights,
    read_weights,
    save_whole,
    set_seed,
)

STEPS = 3  # per epoch
RATE = 0.1


class Score(Metric):
    """A validation score that is given beforehand, by epoch."""

    def __init__(self, trainer_state: dict, scores: dict[int, float]) -> None:
        self.trainer_state, self.scores = trainer_state, scores
        super().__init__()

    def reset(self) -> None: ...
    def update(self, output) -> None: ...

    def compute(self) -> float:
        return self.scores.get(self.trainer_state["epoch"], 0.0)


class Training:
    """A training of one linear layer, with what it did."""

    def __init__(self, folder: Path, epochs: int = 2, scores=None, val_interval: int = 1, schedule=None, **arguments):
        self.network = nn.Linear(1, 1)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE)
        if schedule is None:
            self.scheduler = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, epochs, power=1.0)
        else:
            self.scheduler = schedule(self.optimizer)
        data = [{"image": torch.full((1, 1), float(i)), "label": torch.ones(1, 1)} for i in range(STEPS)]
        state: dict = {}
        self.evaluator = SupervisedEvaluator(
            "cpu", data, self.network, key_val_metric={"score": Score(state, scores or {})}
        )
        self.trainer = SupervisedTrainer(
            "cpu",
            max_epochs=epochs,
            train_data_loader=data,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
        )
        self.seen: list[tuple[int, int, float]] = []
        self.trainer.add_event_handler(Events.EPOCH_STARTED, self._remember, state)
        ValidationHandler(val_interval, self.evaluator).attach(self.trainer)
        self.lr_handler = LrScheduleHandler(self.scheduler, print_lr=False)
        self.lr_handler.attach(self.trainer)
        self.checkpoints = Checkpoints(
            self.trainer, self.evaluator, self.network, self.optimizer, self.scheduler, folder, **arguments
        )

    def _remember(self, state: dict) -> None:
        state["epoch"] = self.trainer.state.epoch
        rate = round(self.optimizer.param_groups[0]["lr"], 9)
        self.seen.append((self.trainer.state.epoch, self.trainer.state.iteration, rate))

    def run(self) -> "Training":
        self.trainer.run()
        return self


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weight(path: Path) -> float:
    return read_weights(path)["weight"].item()


# --- writing and reading


def test_save_whole_replaces(tmp_path):
    for value in (1, 2):
        save_whole({"value": value}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"value": 2}
    assert files(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_save_leaves_the_old_file(interruption, tmp_path, monkeypatch):
    save_whole({"value": 1}, tmp_path / "a.pt")

    def half(content, file):
        file.write(b"half of a checkpoint")
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        for name in ("a.pt", "new.pt"):
            with pytest.raises(type(interruption)):
                save_whole({"value": 2}, tmp_path / name)
    assert files(tmp_path) == ["a.pt"]
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"value": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    (tmp_path / f".1.{threading.get_ident()}.part.a.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        save_whole({"value": torch.zeros(10_000)}, tmp_path / "a.pt")
    assert files(tmp_path) == []


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"network": state, "epoch": 3}])
def test_read_weights(wrap, tmp_path):
    state = nn.Linear(2, 3).state_dict()
    torch.save(wrap(state), tmp_path / "a.pt")
    weights = read_weights(str(tmp_path / "a.pt"))
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_read_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at .*absent.pt.*train first"):
        read_weights(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_read_garbage(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match="a.pt: no PyTorch checkpoint"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"network": {"weight": 1.0}}, torch.ones(2)])
def test_read_another_content(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt: expected a state dict of tensors"):
        read_weights(tmp_path / "a.pt")


def test_read_the_content_of_newer_code(tmp_path):
    torch.save({"network": nn.Linear(1, 1).state_dict(), "format": 2}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt: .*2"):
        read_weights(tmp_path / "last.pt")


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "a.pt")  # loading it would run its code
    with pytest.raises(ValueError, match="a.pt: no PyTorch checkpoint"):
        read_weights(tmp_path / "a.pt")


def test_load_weights(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "a.pt")
    network = nn.Linear(2, 3)
    assert load_weights(network, tmp_path / "a.pt") is network
    assert torch.equal(network.weight, read_weights(tmp_path / "a.pt")["weight"])


@pytest.mark.parametrize("other", [nn.Linear(2, 4), nn.Conv1d(2, 3, 1), nn.Linear(2, 3, bias=False)])
def test_load_weights_of_another_network(other, tmp_path):
    torch.save(other.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt: the weights are of another network: .* in the (network|weights)"):
        load_weights(nn.Linear(2, 3), tmp_path / "a.pt")


def test_load_deployed(tmp_path, tiny_rep3d, relative_error):
    network, x = tiny_rep3d(), torch.randn(2, 1, 32, 32, 32)
    network(x)  # moves the running statistics
    torch.save(network.state_dict(), tmp_path / "a.pt")
    deployed = load_deployed(tiny_rep3d(), tmp_path / "a.pt")
    assert not deployed.training
    with torch.no_grad():
        assert relative_error(deployed(x), network.eval()(x)) < 1e-5


@pytest.mark.parametrize("regions", [None, {"a": [1]}], ids=["labels", "regions"])
def test_load_several_deployed(regions, tmp_path, relative_error):
    """The mean of their probabilities, or of regions the logits of these."""
    x, means = torch.randn(4, 2), []
    for name in "ab":
        network = nn.Linear(2, 3)
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
        means.append(network(x).sigmoid() if regions else network(x).softmax(1))
    ensemble = load_deployed(nn.Linear(2, 3), [tmp_path / "a.pt", str(tmp_path / "b.pt")], regions)
    mean = ensemble(x).sigmoid() if regions else ensemble(x)
    assert relative_error(mean, (means[0] + means[1]) / 2) < 1e-5
    assert not ensemble.networks[0].training
    with pytest.raises(ValueError, match=r"checkpoint is \[\], expected a file or a list of files"):
        load_deployed(nn.Linear(2, 3), [])


# --- starting from other weights


def test_initialize_from_partly_fitting_weights(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.save({**nn.Linear(2, 3).state_dict(), "bias": torch.zeros(4), "extra": torch.ones(1)}, tmp_path / "a.pt")
    network = nn.Sequential()
    network.weight = nn.Parameter(torch.zeros(3, 2))
    network.bias = nn.Parameter(torch.full((3,), 7.0))
    network.new = nn.Parameter(torch.full((1,), 8.0))
    initialize_from(network, tmp_path / "a.pt")
    assert torch.equal(network.weight, read_weights(tmp_path / "a.pt")["weight"])
    assert (network.bias == 7).all() and network.new == 8
    text = caplog.text
    assert "loaded 1 of the network's 3 tensors from" in text and "a.pt" in text
    assert "kept the initial bias (3,): shape (4,) in the file" in text
    assert "kept the initial new (1,): not in the file" in text
    assert "extra of the file is not in the network" in text


def test_initialize_from_fitting_weights_warns_of_nothing(tmp_path, caplog):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "a.pt")
    initialize_from(nn.Linear(2, 3), tmp_path / "a.pt")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_initialize_from_weights_that_do_not_fit(tmp_path):
    torch.save(nn.Linear(2, 4).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"init_from: .*a.pt has no tensor whose name and shape fit.*bias \(4,\) in"):
        initialize_from(nn.Linear(2, 3), tmp_path / "a.pt")


def test_training_starts_from_other_weights(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pt")
    training = Training(tmp_path / "out", init_from=str(tmp_path / "a.pt"))
    assert training.network.weight.item() == weight(tmp_path / "a.pt")
    assert training.run().seen[0] == (1, 0, RATE)


@pytest.mark.parametrize("keep", [False, True])
def test_how_kernels_grow_is_handed_on(keep, tmp_path, monkeypatch):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pt")
    kept = []
    monkeypatch.setattr(checkpoints, "initialize_from", lambda *args, keep_kernel_sums: kept.append(keep_kernel_sums))
    Training(tmp_path / "out", init_from=str(tmp_path / "a.pt"), keep_kernel_sums=keep)
    assert kept == [keep]


def test_weights_to_start_from_that_were_trained_on_validation_cases(tmp_path):
    Training(tmp_path, cases=TrainingCases({"d": "case 1"}, {})).run()
    with pytest.raises(ValueError, match="model.pt was trained on 1 of the 1 validation cases"):
        Training(tmp_path / "out", init_from=str(tmp_path / "model.pt"), cases=TrainingCases({}, {"d": "case 1"}))


def test_training_starts_from_the_weights_it_replaces(tmp_path):
    Training(tmp_path).run()
    before = weight(tmp_path / "model.pt")
    assert Training(tmp_path, init_from=str(tmp_path / "model.pt")).network.weight.item() == before


# --- a whole training


def test_best_and_last(tmp_path):
    weights = {}
    training = Training(tmp_path, epochs=3, scores={1: 0.2, 2: 0.5, 3: 0.4})
    training.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: weights.update({training.trainer.state.epoch: training.network.weight.item()})
    )
    training.run()
    assert files(tmp_path) == ["last.pt", "model.pt"]
    assert weight(tmp_path / "model.pt") == weights[2]
    assert weight(tmp_path / "last.pt") == weights[3]
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (last["format"], last["epoch"], last["best_metric"], last["best_metric_epoch"]) == (1, 3, 0.5, 2)


@pytest.mark.parametrize("epochs, val_interval", [(1, 3), (2, 3)])
def test_training_without_validation_leaves_its_weights(epochs, val_interval, tmp_path, caplog):
    training = Training(tmp_path, epochs=epochs, val_interval=val_interval).run()
    assert weight(tmp_path / "model.pt") == training.network.weight.item()
    assert "no epoch was validated: model.pt holds the last weights" in caplog.text


@pytest.mark.parametrize("left_out", [(2,), (1, 2)])
def test_the_score_of_an_epoch_that_is_not_saved_does_not_count(left_out, tmp_path):
    """Its last step was left out; a later epoch is compared with what is in the file."""
    steps = SimpleNamespace(in_a_row=0)
    training = Training(tmp_path / "a/b", epochs=3, scores={1: 0.2, 2: 0.9, 3: 0.5}, steps=steps)

    def leave_out(engine):
        steps.in_a_row = int(engine.state.epoch in left_out)

    training.trainer.add_event_handler(Events.EPOCH_STARTED, leave_out)
    training.run()
    assert weight(tmp_path / "a/b/model.pt") == training.network.weight.item()
    last = torch.load(tmp_path / "a/b/last.pt", weights_only=True)
    assert (last["best_metric"], last["best_metric_epoch"]) == (0.5, 3)


@pytest.mark.parametrize(("left_out", "val_interval", "diverged"), [(1, 1, False), (1, 9, True), (2, 1, True)])
def test_a_training_whose_last_steps_were_left_out(left_out, val_interval, diverged, tmp_path):
    """One is a chance, unless there are no weights of before."""
    steps = SimpleNamespace(in_a_row=0)
    training = Training(tmp_path, scores={1: 0.2}, val_interval=val_interval, steps=steps)
    training.trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: setattr(steps, "in_a_row", left_out * (engine.state.epoch == 2))
    )
    if diverged:
        with pytest.raises(RuntimeError, match=f"the training diverged: its last {left_out} step"):
            training.run()
    else:
        training.run()
    assert (tmp_path / "model.pt").is_file() == (val_interval == 1)


def test_the_score_of_weights_that_are_gone_does_not_count(tmp_path, caplog):
    Training(tmp_path, epochs=1, scores={1: 0.9}).run()
    (tmp_path / "model.pt").unlink()
    second = Training(tmp_path, epochs=2, scores={2: 0.4}, resume=True).run()
    assert "model.pt is gone, and its score is discarded" in caplog.text
    assert weight(tmp_path / "model.pt") == second.network.weight.item()


def test_weights_under_another_name_have_lost_their_settings(tmp_path, caplog):
    Training(tmp_path, as_trained={"spacing": [2, 2, 2]}).run()
    assert load_deployed(nn.Linear(1, 1), tmp_path / "model.pt") and "nothing tells" not in caplog.text
    (tmp_path / "model.pt").rename(tmp_path / "model_best.pt")
    load_deployed(nn.Linear(1, 1), tmp_path / "model_best.pt")
    assert "model_best.pt: nothing tells what it was trained with, expected" in caplog.text


def test_other_processes_do_not_write(tmp_path):
    Training(tmp_path / "out", writes=False).run()
    assert not (tmp_path / "out").exists()


def test_previous_weights_are_kept(tmp_path, caplog):
    befores, noons = [], [1_000_000_000, 1_000_086_400]
    for noon in noons:
        Training(tmp_path).run()
        for name in ("model.pt", "last.pt"):
            os.utime(tmp_path / name, (noon, noon))
        befores.append(weight(tmp_path / "model.pt"))
    Training(tmp_path)
    assert (tmp_path / "model.pt").exists()  # nothing moves before the training starts
    Training(tmp_path).run()
    kept = sorted(tmp_path.glob("model_*.pt"))
    assert [time.mktime(time.strptime(path.stem, "model_%Y%m%d-%H%M%S")) for path in kept] == noons
    assert [weight(path) for path in kept] == befores
    assert len(files(tmp_path)) == 6
    assert kept[1].name in caplog.text


def test_previous_weights_of_one_second_are_kept(tmp_path):
    befores = []
    for _ in range(2):
        Training(tmp_path).run()
        for name in ("model.pt", "last.pt"):
            os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
        befores.append(weight(tmp_path / "model.pt"))
    Training(tmp_path).run()
    assert {weight(path) for path in tmp_path.glob("model_*.pt")} == {*befores} and len({*befores}) == 2


@pytest.mark.parametrize("below", [".", "a/b"])
def test_folder_that_cannot_be_made(below, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="ckpt_dir .*file.* cannot be made"):
        Training(tmp_path / "file" / below)


# --- resuming


@pytest.mark.parametrize("resume", [True, "true", "True"])
def test_resumed_training_goes_on(resume, tmp_path):
    def epochs_of_four(optimizer):
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, 4, power=1.0)

    whole = Training(tmp_path / "whole", epochs=4).run()
    assert whole.seen == [(1, 0, 0.1), (2, 3, 0.075), (3, 6, 0.05), (4, 9, 0.025)]

    first = Training(tmp_path / "out", epochs=2, scores={2: 0.5}, schedule=epochs_of_four).run()
    moments = first.optimizer.state_dict()["state"]
    second = Training(tmp_path / "out", epochs=4, scores={3: 0.4, 4: 0.3}, resume=resume)
    assert torch.equal(second.network.weight, first.network.weight)
    assert torch.equal(second.optimizer.state_dict()["state"][0]["exp_avg"], moments[0]["exp_avg"])
    assert second.run().seen == whole.seen[2:]
    assert second.trainer.state.iteration == 4 * STEPS
    assert weight(tmp_path / "out/model.pt") == first.network.weight.item()  # neither epoch was better
    assert torch.load(tmp_path / "out/last.pt", weights_only=True)["best_metric"] == 0.5
    assert files(tmp_path / "out") == ["last.pt", "model.pt"]


def test_resumed_training_saves_better_weights(tmp_path):
    Training(tmp_path, epochs=2, scores={2: 0.5}).run()
    second = Training(tmp_path, epochs=3, scores={3: 0.6}, resume=True).run()
    assert weight(tmp_path / "model.pt") == second.network.weight.item()


def test_a_finished_training_learns_on_when_it_is_prolonged(tmp_path):
    first = Training(tmp_path, epochs=2).run()
    assert first.optimizer.param_groups[0]["lr"] == pytest.approx(0)  # the schedule has ended
    second = Training(tmp_path, epochs=4, resume=True).run()
    assert second.seen == [(3, 6, 0.05), (4, 9, 0.025)]
    assert second.network.weight.item() != first.network.weight.item()


def test_another_schedule_goes_on(tmp_path):
    def halving(optimizer):
        return torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda _: 0.5)

    Training(tmp_path, epochs=2, schedule=halving).run()
    second = Training(tmp_path, epochs=4, schedule=halving, resume=True).run()
    assert [rate for _, _, rate in second.seen] == [RATE / 4, RATE / 8]


def test_resumed_equals_uninterrupted(tmp_path):
    def constant(optimizer):
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    networks = []
    for name, interruptions in (("whole", [4]), ("parts", [1, 3, 4])):
        torch.manual_seed(1)
        for number, epochs in enumerate(interruptions):
            training = Training(tmp_path / name, epochs, schedule=constant, resume=number > 0).run()
        networks.append(training.network)
    assert torch.equal(networks[0].weight, networks[1].weight)


def test_each_part_of_a_training_draws_anew(tmp_path):
    """And the same as another time; what is wrong with the file is for `Checkpoints` to say."""

    def draw(resume=True):
        set_seed(5, resume, tmp_path)
        return torch.rand(1).item(), float(np.random.rand())

    parts = [draw(False), draw("auto"), draw()]
    assert len(set(parts)) == 1
    for epochs in (1, 2):
        Training(tmp_path, epochs, resume="auto").run()
        parts.append(draw("true"))
        assert draw("auto") == draw() == parts[-1] and draw(False) == parts[0]
    assert len(set(parts)) == 3
    set_determinism(5 + 2 * checkpoints.SEEDS_APART)
    assert torch.rand(1).item() == parts[-1][0]
    (tmp_path / "last.pt").write_text("junk")
    assert draw() == parts[0]
    torch.save({"epoch": 2, "code": nn.Linear(1, 1)}, tmp_path / "last.pt")  # loading it would run its code
    assert draw() == parts[0]


@pytest.mark.parametrize("resume", ["yes", "", 1, None, "0"])
def test_junk_for_resume(resume, tmp_path):
    with pytest.raises(ValueError, match=f"resume must be true, false or auto, got {resume!r}"):
        Training(tmp_path, resume=resume)


def test_resume_auto_starts_and_then_goes_on(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(Training(tmp_path / "other").network.state_dict(), weights)
    first = Training(tmp_path / "out", epochs=2, resume="auto", init_from=str(weights)).run()
    assert first.seen[0] == (1, 0, RATE)
    second = Training(tmp_path / "out", epochs=3, resume="auto", init_from=str(weights)).run()
    assert second.seen[0][0] == 3


@pytest.mark.parametrize("resume", [False, "false", "False"])
def test_no_resume(resume, tmp_path):
    Training(tmp_path).run()
    assert Training(tmp_path, resume=resume).run().seen[0] == (1, 0, RATE)


def test_kernel_sums_without_kernels_that_grow(tmp_path):
    with pytest.raises(ValueError, match="keep_kernel_sums is true, and no kernels grow without init_from"):
        Training(tmp_path, keep_kernel_sums=True)
    assert list(tmp_path.iterdir()) == []


def test_resume_and_init_from_exclude_each_other(tmp_path):
    Training(tmp_path).run()
    with pytest.raises(ValueError, match="resume and init_from exclude each other.*model.pt"):
        Training(tmp_path, resume=True, init_from=str(tmp_path / "model.pt"))
    assert files(tmp_path) == ["last.pt", "model.pt"]


def test_resume_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at .*last.pt"):
        Training(tmp_path, resume=True)


def test_resume_of_weights_only(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "last.pt")
    with pytest.raises(ValueError, match="resume: .*last.pt holds weights only.*init_from"):
        Training(tmp_path, resume=True)


@pytest.mark.parametrize("epochs", [1, 2])
def test_resume_of_a_finished_training(epochs, tmp_path):
    Training(tmp_path, epochs=2).run()
    with pytest.raises(ValueError, match=f"last.pt has finished epoch 2 of {epochs}; give more --epochs"):
        Training(tmp_path, epochs=epochs, resume=True)
    assert files(tmp_path) == ["last.pt", "model.pt"]


def test_resume_with_other_settings(tmp_path):
    """What lies beside the weights says with which; it stays as it is."""
    told = {"spacing": [1.0, 1.0, 2.0], "label_names": ["background", "bone"]}
    Training(tmp_path, as_trained=told).run()
    before = (tmp_path / "as_trained.json").read_bytes()
    for other, said in (
        (
            {"spacing": [2.0, 2.0, 2.0]},
            r"last.pt was trained with spacing \[1.0, 1.0, 2.0\], now \[2.0, 2.0, 2.0\]: give",
        ),
        ({"label_names": ["background"]}, "now .*: train anew"),
    ):
        for resume in (True, "auto"):
            with pytest.raises(ValueError, match=f"resume: .*{said}"):
                Training(tmp_path, epochs=3, resume=resume, as_trained={**told, **other})
    assert (tmp_path / "as_trained.json").read_bytes() == before
    Training(tmp_path, epochs=3, resume=True, as_trained=told).run()
    assert (tmp_path / "as_trained.json").read_bytes() == before


def test_earlier_weights_keep_what_they_were_told(tmp_path):
    Training(tmp_path, as_trained={"spacing": [1.0] * 3}).run()
    os.utime(tmp_path / "model.pt", (0, 0))  # another time than that of last.pt
    Training(tmp_path, as_trained={"spacing": [2.0] * 3}).run()
    kept = [path for path in tmp_path.glob("*_*.pt")]
    assert len(kept) == 2 and {read_json(settings_beside(path))["spacing"][0] for path in kept} == {1.0}
    assert read_json(tmp_path / "as_trained.json") == {"spacing": [2.0] * 3}


def test_kill_while_saving_does_not_disturb(tmp_path, monkeypatch):
    Training(tmp_path, epochs=2).run()
    (tmp_path / ".4711.last.pt").write_bytes(b"half of a checkpoint")
    (tmp_path / ".4711.model.pt").write_bytes(b"half of a checkpoint")
    assert Training(tmp_path, epochs=3, resume=True).run().seen[0][:2] == (3, 2 * STEPS)


def test_full_disk_in_training_leaves_a_file_to_resume_from(tmp_path, monkeypatch):
    save, saved = checkpoints.save_whole, []

    def full_later(content, path):
        saved.append(path)
        if len(saved) > 2:  # epoch 1: model.pt and last.pt
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_whole", full_later)
        with pytest.raises(OSError, match="No space left"):
            Training(tmp_path, epochs=3, scores={1: 0.5}).run()
    assert [epoch for epoch, _, _ in Training(tmp_path, epochs=3, resume=True).run().seen] == [2, 3]


# --- weights that are not finite


def broken(value: float) -> dict:
    return {**nn.Linear(1, 1).state_dict(), "bias": torch.tensor([value])}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"network": state, "epoch": 3}])
def test_read_non_finite_weights(value, wrap, tmp_path):
    """Which is what resuming, starting from weights, ensembles, inference and export go through."""
    torch.save(wrap(broken(value)), tmp_path / "a.pt")
    expected = r"a.pt: 1 tensor\(s\) hold NaN or infinite values: bias; expected"
    for read in (read_weights, lambda path: load_weights(nn.Linear(1, 1), path)):
        with pytest.raises(ValueError, match=expected):
            read(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=expected):
        initialize_from(nn.Linear(1, 1), tmp_path / "a.pt")
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=expected):
        load_deployed(nn.Linear(1, 1), [tmp_path / "b.pt", tmp_path / "a.pt"])


@pytest.mark.parametrize("resume, init_from", [("true", None), ("auto", None), (False, "last.pt")])
def test_training_does_not_start_from_non_finite_weights(resume, init_from, tmp_path):
    Training(tmp_path).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "network": broken(float("nan"))}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt: 1 tensor.*NaN"):
        Training(tmp_path, epochs=3, resume=resume, init_from=init_from and str(tmp_path / init_from))


@pytest.mark.parametrize("when", [Events.EPOCH_STARTED, Events.EPOCH_COMPLETED])
def test_non_finite_weights_are_not_saved(when, tmp_path):
    """Neither as the best nor as the last; what the epoch before left stays."""
    training = Training(tmp_path, epochs=3, scores={1: 0.2, 2: 0.5})
    before = {}

    def spoil():
        if training.trainer.state.epoch == 2:
            before.update({name: (tmp_path / name).read_bytes() for name in files(tmp_path)})
            training.network.bias.data.fill_(float("nan"))

    training.trainer.add_event_handler(when, spoil)
    with pytest.raises(RuntimeError, match=r"diverged in epoch [23]: .*NaN.*: .*bias.* not saved.*--learning_rate"):
        training.run()
    if when is Events.EPOCH_STARTED:
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    for name in ("last.pt", "model.pt"):
        read_weights(tmp_path / name)


def test_nan_score_is_not_the_best(tmp_path, caplog):
    nan = float("nan")
    training = Training(tmp_path, epochs=2, scores={1: nan, 2: nan})
    training.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: kept.append((tmp_path / "model.pt").exists()))
    kept = []
    training.run()
    assert kept == [False, False]
    assert weight(tmp_path / "model.pt") == training.network.weight.item()
    assert "no epoch was validated, every score is NaN: model.pt holds the last weights" in caplog.text


def test_a_training_without_a_score_goes_on(tmp_path, caplog):
    """It had no best weights that could be gone."""
    nan = float("nan")
    training = Training(tmp_path, epochs=2, scores={1: nan, 2: nan})
    training.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), training.trainer.terminate)
    training.run()
    assert files(tmp_path) == ["last.pt"]
    Training(tmp_path, epochs=2, resume=True)
    assert "is gone" not in caplog.text


# --- resuming with other validation cases


def validated_on(*digests: str) -> TrainingCases:
    return TrainingCases({}, {digest: f"case_{digest}" for digest in digests})


def test_a_score_of_other_validation_cases_counts_no_more(tmp_path, caplog):
    """The best weights so far stay beside the new ones."""
    first = Training(tmp_path, epochs=2, scores={1: 0.9, 2: 0.8}, cases=validated_on("a", "b"))
    first.run()
    best = weight(tmp_path / "model.pt")
    second = Training(tmp_path, epochs=4, scores={3: 0.4, 4: 0.3}, cases=validated_on("a", "c"), resume=True)
    assert "the validation cases are others than before: the best score, 0.900 in epoch 1, is discarded" in caplog.text
    second.run()
    assert (second.evaluator.state.best_metric, second.evaluator.state.best_metric_epoch) == (0.4, 3)
    (kept,) = tmp_path.glob("model_*.pt")
    assert weight(kept) == best != weight(tmp_path / "model.pt")
    assert not list(tmp_path.glob("last_*.pt"))
    caplog.clear()
    third = Training(tmp_path, epochs=5, scores={5: 0.1}, cases=validated_on("c", "a"), resume=True).run()
    assert (third.evaluator.state.best_metric, third.evaluator.state.best_metric_epoch) == (0.4, 3)
    assert "validation cases" not in caplog.text


def test_a_checkpoint_that_does_not_tell_its_validation_cases(tmp_path, caplog):
    """As an older one: its best score counts."""
    Training(tmp_path, scores={2: 0.5}).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["validated_on"]
    torch.save(content, tmp_path / "last.pt")
    second = Training(tmp_path, epochs=3, cases=validated_on("a"), resume=True)
    assert second.evaluator.state.best_metric == 0.5 and "validation cases" not in caplog.text


@pytest.mark.parametrize(("cases", "rate"), [("a", RATE / 2), ("b", RATE)])
def test_nor_does_it_lower_the_learning_rate(cases, rate, tmp_path):
    """A plateau is one of scores that can be compared."""

    def training(epochs, **arguments):
        def plateau(optimizer):
            return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience=0)

        started = Training(tmp_path, epochs, schedule=plateau, **arguments)
        handler = started.lr_handler
        handler.step_transform = lambda engine: started.evaluator.state.metrics["score"]
        return started.run()

    training(1, scores={1: 0.9}, cases=validated_on("a"))
    second = training(2, scores={2: 0.5}, cases=validated_on(cases), resume=True)
    assert second.optimizer.param_groups[0]["lr"] == rate


def test_any_score_is_better_than_nan():
    nan = float("nan")
    assert is_better(0.2, 0.1) and is_better(0.0, nan)
    assert not is_better(0.1, 0.1) and not is_better(nan, 0.1)
