"""What label maps are worth: scores, comparisons, and the report that people read."""

from rep3d.evaluation.scores import CaseScores

__all__ = ["CaseScores"]
