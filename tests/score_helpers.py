"""Scores of plain labels, for tests."""

import numpy as np

from rep3d.evaluation.scores import score_regions


def score_label_map(prediction, truth, labels, spacing):
    """By label id, see `score_regions`; the spacing is in millimetres along each axis."""
    return score_regions(prediction, truth, {label: [label] for label in labels}, np.diag([*spacing, 1.0]))
