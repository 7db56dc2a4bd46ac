"""Scores of label maps, of which a test says the labels and the spacing."""

from collections.abc import Sequence

import numpy as np

from rep3d.evaluation.scores import Score, score_regions


def score_label_map(
    prediction: np.ndarray, truth: np.ndarray, labels: Sequence[int], spacing: Sequence[float]
) -> dict[int, Score]:
    """Scores by label, see `score_regions`; spacing in millimetres along each axis."""
    return score_regions(prediction, truth, {label: [label] for label in labels}, np.diag([*spacing, 1.0]))
