"""Which image a clinician should label next, and the scores behind it.

Scores are computed in the background and kept with the image, under the model's name, together with stamps of the
weights and of the file that they were computed with: other weights make them void, and another file does.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.errors import RequestError
from monailabel_app.models.each_image import for_each_image
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uncertainty import VERSIONS, ImageScores, disagreement, score_image
from monailabel_app.models.versions import comparable_files, version_files
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.volumes import read_grid
from monailabel_app.tasks import Task

logger = logging.getLogger(__name__)

Scores = Mapping[str, ImageScores]  # by image


class Uncertainty(ScoringMethod):
    """Names the scoring to clients; the app computes it in the background, see `compute_scores`."""

    def __init__(self) -> None:
        super().__init__("Entropy, disagreement of versions and features of every image, for active learning")

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        raise NotImplementedError("scores are computed by the app, in the background")


class First(Strategy):
    """The unlabelled image that comes first by name."""

    def __init__(self) -> None:
        super().__init__("First unlabelled image by name")

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any] | None:
        images = _candidates(request, datastore)
        return {"id": images[0]} if images else None


class Random(Strategy):
    """Any unlabelled image."""

    def __init__(self) -> None:
        super().__init__("Random unlabelled image")

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any] | None:
        images = _candidates(request, datastore)
        return {"id": random.choice(images)} if images else None


class Scored(Strategy):
    """The unlabelled image with the highest score of a model; any one, with a note, while none has a score.

    Args:
        description: for clients.
        rank: from the scores of the unlabelled and of the labelled images to a number for each unlabelled one.
        models: inference by model name; `request["model"]` says which, otherwise the first that has weights.
    """

    def __init__(
        self,
        description: str,
        rank: Callable[[Scores, Scores], dict[str, float]],
        models: Mapping[str, BundleInference],
    ) -> None:
        super().__init__(description)
        self._rank = rank
        self._models = models

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any] | None:
        images = _candidates(request, datastore)
        if not images:
            return None
        model = choose_model(self._models, request.get("model", ""))
        scores = known_scores(datastore, model)
        ranks = self._rank(
            {image: scores[image] for image in images if image in scores},
            {image: scores[image] for image in datastore.get_labeled_images() if image in scores},
        )
        if not ranks:
            return {"id": random.choice(images), "note": "a random image: the scores are not computed yet"}
        best = max(ranks, key=lambda image: ranks[image])
        return {"id": best, "weight": ranks[best]}


def _candidates(request: Mapping[str, Any], datastore: StudiesFolder) -> list[str]:
    """The unlabelled images, but those that `pick_sample` had to skip."""
    return [image for image in datastore.get_unlabeled_images() if image not in request.get("skipped", ())]


def by_entropy(unlabeled: Scores, labeled: Scores) -> dict[str, float]:
    """Entropy under changes of the image."""
    return {image: scores.entropy for image, scores in unlabeled.items()}


def by_disagreement(unlabeled: Scores, labeled: Scores) -> dict[str, float]:
    """Disagreement of the newest versions of the weights."""
    return {image: scores.disagreement for image, scores in unlabeled.items() if scores.disagreement is not None}


def by_diversity(unlabeled: Scores, labeled: Scores) -> dict[str, float]:
    """Entropy times the distance of the features to the nearest labelled image, in units of the largest distance."""
    if not labeled:
        return by_entropy(unlabeled, labeled)
    known = np.array([scores.features for scores in labeled.values()])
    distances = {
        image: float(np.linalg.norm(known - np.array(scores.features), axis=1).min())
        for image, scores in unlabeled.items()
    }
    largest = max(distances.values(), default=0.0) or 1.0
    return {image: unlabeled[image].entropy * distance / largest for image, distance in distances.items()}


# The strategies that go by scores, by the names that clients see: description and rank.
RANKINGS: dict[str, tuple[str, Callable[[Scores, Scores], dict[str, float]]]] = {
    "entropy": ("Most uncertain under changes of contrast and noise", by_entropy),
    "disagreement": ("Where the newest versions of the weights disagree most", by_disagreement),
    "diverse": ("Uncertain and unlike what is labelled", by_diversity),
}


def make_strategies(models: Mapping[str, BundleInference]) -> dict[str, Strategy]:
    """The strategies by the names that clients see."""
    scored = {name: Scored(description, rank, models) for name, (description, rank) in RANKINGS.items()}
    return {"random": Random(), "first": First(), **scored}


def pick_sample(
    strategies: Mapping[str, Strategy], request: Mapping[str, Any], datastore: StudiesFolder
) -> dict[str, Any]:
    """The image that `request["strategy"]` picks, and what is known of it; empty where all are labelled.

    One that cannot be had, such as a DICOM series that makes no volume, is skipped: the answer has it under "skipped",
    with the reason, whether or not another one is found.

    Raises:
        RequestError: 404, there is no such strategy; 507, an image cannot be stored.
    """
    if request["strategy"] not in strategies:
        raise RequestError(404, f"there is no strategy {request['strategy'][:100]!r}")
    skipped: dict[str, str] = {}
    strategy = strategies[request["strategy"]]
    while (sample := strategy({**request, "skipped": skipped}, datastore)) and sample["id"] not in skipped:
        try:
            image = _describe_image(datastore, sample["id"])
        except RequestError as error:
            if error.status == 507:
                raise
            logger.warning("next sample: skipped %s: %s", sample["id"], error.message)
            skipped[sample["id"]] = error.message
        else:
            return {**image, **sample, **({"skipped": skipped} if skipped else {})}
    return {"skipped": skipped} if skipped else {}


def _describe_image(datastore: StudiesFolder, image_id: str) -> dict[str, Any]:
    """What a client needs to load an image, and what is known of it.

    Raises:
        RequestError: the image cannot be had, or is no volume.
    """
    path = datastore.image(image_id)
    read_grid(path)
    file = {"name": path.name, "path": str(path), "checksum": datastore.checksum(image_id)}
    return {**datastore.get_image_info(image_id), **file}


def choose_model(models: Mapping[str, BundleInference], name: str) -> BundleInference:
    """The named model, or the first that has weights.

    Raises:
        RequestError: 404, there is none.
    """
    found = models.get(name) if name else next((model for model in models.values() if model.is_valid()), None)
    if found is None or not found.is_valid():
        raise RequestError(404, f"there is no model {name[:100]!r} with weights")
    return found


def known_scores(datastore: StudiesFolder, model: BundleInference) -> Scores:
    """The scores of all images, as they are now, that the model's present weights and versions gave."""
    found, weights = {}, _stamp(model)
    for image, file in datastore.stamps().items():
        kept = datastore.knowledge(image).get("scores", {}).get(model.bundle.name)
        # Scores without a stamp of the file are those of an older version of this software.
        if kept and kept["weights"] == weights and kept.get("file", file) == file:
            found[image] = ImageScores(kept["entropy"], kept["features"], kept.get("disagreement"))
    return found


def _keep(
    datastore: StudiesFolder, image: str, model: BundleInference, stamps: Mapping[str, str], scores: ImageScores
) -> None:
    known = {name: value for name, value in asdict(scores).items() if value is not None}
    kept = datastore.knowledge(image).get("scores", {})
    datastore.update_image_info(image, {"scores": {**kept, model.bundle.name: {**stamps, **known}}})


def _stamp(model: BundleInference) -> str:
    return f"{model.networks.stamp()}-{len(version_files(model.bundle))}"


def compute_scores(task: Task, datastore: StudiesFolder, model: BundleInference) -> dict[str, Any]:
    """Compute and keep the scores that are missing; see `for_each_image`."""
    known = known_scores(datastore, model)
    missing = [image for image in datastore.list_images() if image not in known]
    versions = comparable_files(model.bundle)[-VERSIONS:]

    def score(image: str) -> None:
        datastore.image(image)  # fetches what a PACS has
        stamps, path = {"weights": _stamp(model), "file": datastore.stamp(image)}, datastore.image(image)
        scores = score_image(model, path, task.stopping.is_set)
        if len(versions) > 1:
            scores = replace(scores, disagreement=disagreement(model, path, versions, task.stopping.is_set))
        _keep(datastore, image, model, stamps, scores)

    return for_each_image(task, "scoring", missing, score)
