"""What label maps are worth: scores, comparisons, and the report that people read."""

from rep3d.evaluation.click_cases import list_cases
from rep3d.evaluation.click_check import check_clicks
from rep3d.evaluation.click_scoring import score_clicks
from rep3d.evaluation.refinement_choice import choose_refinement, chosen_on
from rep3d.evaluation.scores import CaseScores
from rep3d.evaluation.scoring import score_each

__all__ = ["CaseScores", "check_clicks", "choose_refinement", "chosen_on", "list_cases", "score_clicks", "score_each"]
