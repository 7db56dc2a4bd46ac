"""A training validates every so many epochs and after the last one."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, TRAIN, make_dataset, run, workflow
from ignite.engine import Engine, Events

from rep3d.data.lists import load_datalist
from rep3d.training import Validation, attach_schedule
from rep3d.training.checkpoints import read_weights

BUNDLE = ROOT / "bundles/msd_hippocampus"


def validated(epochs, interval, cases=("a",)):
    """The epochs after which a training validates."""
    evaluator, trainer, seen = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None), []
    evaluator.run = seen.append
    Validation(evaluator, list(cases), interval).attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    return seen


@pytest.mark.parametrize(
    ("epochs", "interval", "expected"),
    [(2, 5, [2]), (5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 1, [1, 2, 3]), (1, 1, [1]), (3, 0, [])],
)
def test_the_last_epoch_is_validated(epochs, interval, expected):
    assert validated(epochs, interval) == expected


def test_without_cases_nothing_is_validated():
    assert validated(2, 1, cases=()) == []


def test_a_training_that_goes_on_validates_its_new_last_epoch():
    evaluator, trainer, seen = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None), []
    evaluator.run = seen.append
    Validation(evaluator, ["a"], 5).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), trainer.terminate)
    trainer.run([0], max_epochs=3)
    trainer.run([0], max_epochs=7)
    assert seen == [5, 7]


@pytest.mark.parametrize(
    ("interval", "cases", "counts", "told"),
    [
        (0, ["a"], "evaluator", "its schedule goes by validations, and val_interval is 0"),
        (3, [], "evaluator", "its schedule goes by validations, and there are no validation cases"),
        (3, ["a"], "evaluator", ""),
        (0, ["a"], "trainer", ""),
    ],
)
def test_a_schedule_that_waits_for_validations(interval, cases, counts, told, caplog):
    engines = {name: Engine(lambda engine, batch: None) for name in ("evaluator", "trainer")}
    attached = []
    handler = SimpleNamespace(attach=attached.append)
    attach_schedule(handler, engines[counts], engines["evaluator"], cases, interval)
    assert attached == [engines[counts]]
    assert told in caplog.text and bool(told) == bool(caplog.text)


@pytest.mark.slow
def test_a_bundle_of_the_paper_says_that_its_learning_rate_stays(tmp_path, caplog):
    data = make_dataset(tmp_path / "data", ROOT / "bundles/msd_pancreas", count=5)
    workflow(ROOT / "bundles/msd_pancreas", TRAIN, data, tmp_path, "training", val_interval=0)
    assert "the learning rate stays as it is" in caplog.text


def test_negative_interval():
    with pytest.raises(ValueError, match="val_interval is -1, expected 0 .never. or a number of epochs"):
        Validation(Engine(lambda engine, batch: None), ["a"], -1)


@pytest.mark.slow
def test_a_short_training_of_a_bundle_has_a_score(tmp_path):
    """The bundle validates every fifth epoch."""
    make_dataset(tmp_path / "data", BUNDLE, count=5)
    done = run(BUNDLE, TRAIN, tmp_path / "data", tmp_path, "training", epochs=2, val_interval=5)
    state = done.parser.get_parsed_content("validate#evaluator").state
    assert state.best_metric_epoch == 2 and state.best_metric >= 0
    assert "best validation Dice" in (tmp_path / "models/training.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_a_label_to_validate_with_the_last_weights_count(tmp_path, caplog):
    """All labels of the validation cases are background."""
    data = make_dataset(tmp_path / "data", BUNDLE, count=5)
    for item in load_datalist(data, "validation"):
        label = nib.load(item["label"])
        nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), item["label"])
    run(BUNDLE, TRAIN, data, tmp_path, "training", epochs=2)
    best, last = (read_weights(tmp_path / f"models/{name}.pt") for name in ("model", "last"))
    assert all(torch.equal(best[name], last[name]) for name in last)
    assert "no epoch was validated, every score is NaN: model.pt holds the last weights" in caplog.text
