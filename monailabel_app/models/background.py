"""What runs in the background: training, batch inference, and the scores of active learning."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from monailabel_app.errors import RequestError
from monailabel_app.models.active_learning import choose_model, compute_scores
from monailabel_app.models.batch import segment_all
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import InferenceParameters, TrainingParameters
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task, TaskList

logger = logging.getLogger(__name__)


class BackgroundWork:
    """Starts and lists background tasks.

    Args:
        infers: inference by model name.
        trainers: training by model name.
        datastore: where images and labels are.
        scoring: whether scores are computed without being asked for.
    """

    def __init__(
        self,
        infers: Mapping[str, BundleInference],
        trainers: Mapping[str, BundleTraining],
        datastore: StudiesFolder,
        *,
        scoring: bool = True,
    ) -> None:
        self.batches, self.trainings, self.scorings = map(TaskList, ("batch inference", "training", "scoring"))
        self._infers = infers
        self._trainers = trainers
        self._datastore = datastore
        self._scoring = scoring

    def training_parameters(self, model: str) -> type[TrainingParameters]:
        """What a client may set for the training of a bundle.

        Raises:
            RequestError: no such model.
        """
        if model not in self._trainers:
            raise RequestError(404, f"there is no model {model[:100]!r}, expected one of {', '.join(self._trainers)}")
        return self._trainers[model].parameters

    def start_training(self, model: str, options: TrainingParameters, user: str, enqueue: bool = False) -> Task:
        """Train a bundle on the submitted labels, in the background.

        Raises:
            RequestError: no label, or a training is running.
        """
        trainer = self._trainers[model]

        def prepare_and_run(task: Task) -> dict[str, Any]:
            trainer.prepare(self._datastore, options, user)
            try:
                return trainer.run(task)
            finally:
                self.keep_scores()

        trainer.check(self._datastore, options)
        return self.trainings.start(prepare_and_run, {"model": model, **options.model_dump()}, enqueue=enqueue)

    def resume_trainings(self) -> None:
        """Go on with what was training when the server ended."""
        for name, trainer in self._trainers.items():
            if trainer.interrupted():
                logger.warning("%s was training when the server ended: going on", name)
                self.trainings.start(trainer.run, {"model": name, "resumed": True}, enqueue=True)

    def keep_scores(self) -> None:
        """Compute the scores that are missing, where that is wanted and not going on already."""
        if self._scoring and not self.scorings.running():
            with contextlib.suppress(RequestError):  # another request was faster
                self.start_scoring("")

    def start_scoring(self, model: str) -> Task:
        """Compute the missing scores of a model, or, without a name, of all that have weights.

        Raises:
            RequestError: no such model with weights, or a scoring is running.
        """
        chosen = [choose_model(self._infers, model)] if model else [m for m in self._infers.values() if m.is_valid()]
        score = lambda task: {m.bundle.name: compute_scores(task, self._datastore, m) for m in chosen}  # noqa: E731
        return self.scorings.start(score, {"model": model})

    def start_batch(
        self, model: str, images: str, options: InferenceParameters, user: str, request: dict[str, Any]
    ) -> Task:
        """Segment all, the labeled or the unlabeled images in the background; results are "original" labels.

        Args:
            model: one of the names.
            request: what the task's status tells of it.

        Raises:
            RequestError: a batch is running.
        """
        inference, store = self._infers[model], self._datastore
        listing = {"all": store.list_images, "labeled": store.get_labeled_images}
        chosen = listing.get(images, store.get_unlabeled_images)()
        run = lambda task: segment_all(task, inference, store, chosen, options, user)  # noqa: E731
        return self.batches.start(run, request)
