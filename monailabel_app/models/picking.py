"""Which cases a strategy of active learning picks in a simulation, with the app's own scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from monailabel_app.models.active_learning import RANKINGS
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uncertainty import VERSIONS, ImageScores, disagreement, score_image
from rep3d.files import copy_whole, read_json, write_json

BASELINE = "random"
STRATEGIES = (BASELINE, *RANKINGS)


class Picker:
    """Picks among the cases of a set.

    Args:
        model: serves a copy of a bundle, whose weights are replaced.
        image_of: the images, by case.
    """

    def __init__(self, model: BundleInference, image_of: Mapping[str, Path]) -> None:
        self.model = model
        self.image_of = image_of

    def pick(
        self, strategy: str, count: int, unlabelled: Sequence[str], labelled: Sequence[str], versions: Sequence[Path]
    ) -> list[str]:
        """So many cases, in the order in which they are picked; each counts as labelled for the next.

        Args:
            strategy: one of STRATEGIES.
            unlabelled: to choose from; BASELINE takes the first.
            versions: all weights so far, the oldest first; scores are kept beside them.
        """
        left, picked = list(unlabelled), list[str]()
        if strategy == BASELINE:
            return left[:count]
        _, rank = RANKINGS[strategy]
        if strategy == "disagreement":
            scores = self._disagreements(left, versions[-VERSIONS:])
        else:
            scores = self._scores([*left, *labelled] if strategy == "diverse" else left, versions[-1])
        while len(picked) < count:
            known = {case: scores[case] for case in (*labelled, *picked) if case in scores}
            ranks = rank({case: scores[case] for case in left}, known)
            best = max(ranks, key=lambda case: ranks[case]) if ranks else left[0]  # without scores, as the app: any
            left.remove(best)
            picked.append(best)
        return picked

    def _scores(self, cases: Sequence[str], weights: Path) -> dict[str, ImageScores]:
        """Entropy and features by case."""
        path = weights.with_name("uncertainty.json")
        known = read_json(path)
        copy_whole(weights, self.model.bundle.own_weights)
        missing = [case for case in cases if case not in known]
        for case in tqdm(missing, desc="Scoring", leave=False):
            scores = score_image(self.model, self.image_of[case])
            known[case] = {"entropy": scores.entropy, "features": scores.features}
        write_json(path, known)
        return {case: ImageScores(**scores) for case, scores in known.items()}

    def _disagreements(self, cases: Sequence[str], versions: Sequence[Path]) -> dict[str, ImageScores]:
        """Disagreement by case; with one version there is none, as in the app."""
        if len(versions) < 2:
            return {case: ImageScores() for case in cases}
        return {
            case: ImageScores(disagreement=disagreement(self.model, self.image_of[case], versions))
            for case in tqdm(cases, desc="Comparing", leave=False)
        }
