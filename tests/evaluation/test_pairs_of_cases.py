"""The Wilcoxon test of a comparison is of pairs: the same case in both evaluations."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from rep3d.evaluation.comparison import comparison_table, p_value

REST = {"hd95_mm": 1.0, "surface_dice": 0.5, "volume_error_ml": 0.0, "truth_ml": 1.0}


def evaluation(dices):
    """By case and label."""
    return {
        f"case {i}": {label: {"dice": float(d), **REST} for label, d in zip(("left", "right"), row, strict=True)}
        for i, row in enumerate(dices)
    }


@pytest.fixture
def dices():
    return np.random.default_rng(0).uniform(0.5, 0.9, (12, 2))


def test_whatever_the_order_of_the_pairs(dices):
    """A case that has no score in either evaluation makes no pair."""
    baseline, values = dices.T
    expected = f"{wilcoxon(values, baseline).pvalue:.2g}"
    assert expected != f"{wilcoxon(np.sort(values), np.sort(baseline)).pvalue:.2g}"
    assert p_value(values, baseline) == p_value(values[::-1], baseline[::-1]) == expected
    assert p_value(np.array([*values, math.nan, 0.9]), np.array([*baseline, 0.1, math.nan])) == expected


def test_cases_in_another_order(dices):
    better = evaluation(dices + np.linspace(-0.01, 0.02, 24).reshape(12, 2))
    turned = dict(reversed(list(better.items())))
    texts = [comparison_table({"a": evaluation(dices), "b": one}) for one in (better, turned)]
    assert texts[0] == texts[1]
