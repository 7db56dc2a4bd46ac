"""What runs in nnU-Net's environment, with a trainer that counts."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rep3d.study.nnunet import environment


class Validation:
    """Batches from processes."""

    ended = False

    def _finish(self):
        self.ended = True


class Trainer:
    """The doors of `nnUNetTrainer` that the program uses."""

    def __init__(self, folder):
        self.output_folder_base, self.output_folder = str(folder), str(folder / "fold_0")
        self.num_epochs, self.num_iterations_per_epoch, self.current_epoch = 1000, 250, 0
        self.steps, self.ended, self.dataloader_train = [], False, iter(lambda: "batch", None)
        self.dataloader_val, self.lr_scheduler = Validation(), SimpleNamespace(max_steps=1000)
        Path(self.output_folder).mkdir(exist_ok=True)

    def on_train_start(self):
        self.steps.clear()
        self.lr_scheduler.max_steps = self.num_epochs

    def on_epoch_start(self):
        pass

    def on_train_epoch_start(self):
        assert self.dataloader_val.ended  # nothing augments for a validation that is not run
        self.rate = (1 - self.current_epoch / self.lr_scheduler.max_steps) ** 0.9  # as nnU-Net's schedule

    def train_step(self, batch):
        if self.current_epoch == getattr(self, "breaks_at", None):
            raise KeyboardInterrupt
        self.steps.append(self.rate)
        return {"loss": 1.0}

    def on_train_epoch_end(self, outputs):
        assert len(outputs) == 1

    def on_train_end(self):
        self.ended = True
        (Path(self.output_folder) / "checkpoint_latest.pth").unlink(missing_ok=True)
        (Path(self.output_folder) / "checkpoint_final.pth").touch()

    def save_checkpoint(self, path):
        Path(path).write_text(str(self.current_epoch + 1))

    def load_checkpoint(self, path):
        self.current_epoch = int(Path(path).read_text())


@pytest.fixture
def program(monkeypatch, tmp_path):
    predicting, training, padding = map(ModuleType, ("predicting", "training", "padding"))
    made = []

    def get_trainer(dataset, configuration, fold, device, continue_training=False):
        assert (dataset, configuration, fold) == ("Dataset001_x", "3d_fullres", 0)
        made.append(Trainer(tmp_path))
        return made[-1]

    predicting.nnUNetPredictor, training.get_trainer_from_args, padding.pad_nd_image = object, get_trainer, None
    monkeypatch.setitem(sys.modules, "acvl_utils.cropping_and_padding.padding", padding)
    monkeypatch.setitem(sys.modules, "nnunetv2.inference.predict_from_raw_data", predicting)
    monkeypatch.setitem(sys.modules, "nnunetv2.run.run_training", training)
    for name in ("nnunetv2", "nnunetv2.inference", "nnunetv2.run", "acvl_utils", "acvl_utils.cropping_and_padding"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    spec = importlib.util.spec_from_file_location("nnunet_program", environment.PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.made = made
    return module


def test_the_learning_rate_reaches_its_end(program):
    assert program.train("Dataset001_x", 40)["steps"] == 40
    (trainer,) = program.made
    assert trainer.ended and len(trainer.steps) == 40
    assert trainer.steps[0] == 1 and trainer.steps[-1] == pytest.approx((1 / 40) ** 0.9)
    assert trainer.steps == sorted(trainer.steps, reverse=True)


def test_an_interrupted_training_goes_on(program, monkeypatch, tmp_path):
    monkeypatch.setattr(Trainer, "breaks_at", 60, raising=False)
    with pytest.raises(KeyboardInterrupt):
        program.train("Dataset001_x", 100)
    monkeypatch.delattr(Trainer, "breaks_at")
    program.train("Dataset001_x", 100)
    first, second = program.made
    assert len(first.steps) == 60 and len(second.steps) == 50  # from the last checkpoint, of step 50
    assert second.steps[0] == pytest.approx(0.5**0.9)
    program.train("Dataset001_x", 100)
    assert program.made[-1].steps == []  # it is finished


@pytest.mark.parametrize(
    ("pace", "steps"),
    [
        (lambda now: 2.0, 50),
        (lambda now: 2.0 if now < 100 else 8.0, 32),  # slower meanwhile, and faster
        (lambda now: 8.0 if now < 100 else 2.0, 29),
        (lambda now: 150.0, 1),
    ],
)
def test_a_training_of_so_much_time(program, monkeypatch, pace, steps):
    """The learning rate falls with the share of the time, and comes to its end whatever the pace."""
    now = [50.0]
    monkeypatch.setattr(program, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    times = []

    def step(self, batch, one=Trainer.train_step):
        times.append(now[0] - 50)
        now[0] += pace(now[0])
        return one(self, batch)

    monkeypatch.setattr(Trainer, "train_step", step)
    assert program.train_for("Dataset001_x", 100.0) == {"model": program.made[0].output_folder_base, "steps": steps}
    (trainer,) = program.made
    assert trainer.ended and trainer.steps == pytest.approx([(1 - time / 100) ** 0.9 for time in times])
    assert abs(now[0] - 150) < 8 or steps == 1


def test_steps_are_timed_without_the_first(program, monkeypatch):
    clock = iter([99.0, 99.5, 99.7, 100.0, 101.0, 102.0, *(102.0 + 2 * i for i in range(1, 11))])
    monkeypatch.setattr(program, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert program.measure("Dataset001_x") == {"seconds_per_step": 2.0}
    assert program.made[0].disable_checkpointing


def test_settings_and_result_are_files(program, monkeypatch, tmp_path):
    (tmp_path / "told.json").write_text(json.dumps({"dataset": "Dataset001_x", "steps": 2}))
    words = ["program.py", "train", str(tmp_path / "told.json"), str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    program.main()
    assert json.loads((tmp_path / "found.json").read_text()) == {"model": str(tmp_path), "steps": 2}
