"""The Dice by which a training chooses its best weights counts as the evaluation does."""

import math

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from score_helpers import score_label_map

from rep3d.training import ValidationDice

EMPTY, LEFT, RIGHT, BOTH = [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 2, 2], [1, 1, 2, 2]


def label_map(row):
    return torch.tensor(row, dtype=torch.float32).reshape(1, 4, 1, 1)


def validated(*pairs):
    """The evaluator, after cases of these predictions and truths."""
    cases = [{"image": label_map(pred)[None], "label": label_map(truth)[None]} for pred, truth in pairs]
    dice = ValidationDice(False, num_classes=3, output_transform=from_engine(["pred", "label"]))
    evaluator = SupervisedEvaluator("cpu", cases, torch.nn.Identity(), key_val_metric={"dice": dice})
    evaluator.run(1)
    return evaluator


def score(*pairs):
    return validated(*pairs).state.metrics["dice"]


@pytest.mark.parametrize("prediction", [EMPTY, LEFT, BOTH], ids=["nothing", "one label", "all labels"])
def test_without_a_label_in_the_truth_there_is_no_score(prediction):
    """Or the first epoch that was validated would be the best for ever."""
    evaluator = validated((prediction, EMPTY), (EMPTY, EMPTY))
    assert math.isnan(evaluator.state.metrics["dice"]) and math.isnan(evaluator.state.best_metric)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(BOTH, BOTH)], 1),
        ([(EMPTY, BOTH)], 0),
        ([(LEFT, LEFT), (EMPTY, EMPTY)], 1),
        ([(BOTH, LEFT)], 0.5),
        ([(LEFT, LEFT), (RIGHT, EMPTY)], 0.5),
        ([([1, 0, 0, 0], LEFT)], 2 / 3),
    ],
)
def test_score(pairs, expected):
    assert score(*pairs) == pytest.approx(expected)


def test_each_label_counts_as_in_the_evaluation():
    rows = [EMPTY, LEFT, RIGHT, BOTH, [2, 1, 0, 2]]
    pairs = [(prediction, truth) for prediction in rows for truth in rows]
    maps = np.reshape(pairs, (-1, 2, 4, 1, 1))
    counted = [[score["dice"] for score in score_label_map(*pair, [1, 2], (1, 1, 1)).values()] for pair in maps]
    np.testing.assert_allclose(validated(*pairs).state.metric_details["dice"], counted, rtol=1e-6)


def test_what_other_processes_saw_counts(monkeypatch):
    """The cases of this one show nothing."""
    monkeypatch.setattr(idist, "all_reduce", lambda number: number + 1)
    assert score((EMPTY, EMPTY)) == 0


def test_every_validation_begins_anew():
    evaluator = validated((LEFT, LEFT))
    evaluator.data_loader = [{"image": label_map(EMPTY)[None], "label": label_map(EMPTY)[None]}]
    evaluator.run(2)
    assert math.isnan(evaluator.state.metrics["dice"]) and evaluator.state.best_metric == 1
