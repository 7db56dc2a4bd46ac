"""The models that take prompts, as clients get to know them: by a model's type they show their tools for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.inference import BundleInference

logger = logging.getLogger(__name__)

BACKGROUND = "background"  # the label of points that belong to none
EDIT = "_edit"  # after a bundle's name
SCRIBBLES = "scribbles"


class PromptedModel(InferTask):
    """One way to show the bundle that takes prompts what to segment.

    Args:
        kind: "deepgrow": points and a box for any label; "deepedit": points for the labels of `start`; "scribbles".
        network: answers; the model is not valid as long as it has no weights.
        start: what segments before the first prompt.
    """

    def __init__(self, kind: InferType, network: PromptedNetwork, start: BundleInference | None = None) -> None:
        labels = {BACKGROUND: 0, **start.bundle.labels} if start else {}
        super().__init__(kind, labels, 3, _describe(kind, start))
        self.network = network
        self.start = start

    def is_valid(self) -> bool:
        return self.network.is_valid() and (self.start is None or self.start.is_valid())

    def config(self) -> dict[str, Any]:
        if self.type == InferType.SCRIBBLES:
            return {"lock_others": False}
        if self.start is None:
            return {"lock_submitted": False, "continue_from": ""}
        return {**self.start.config(), "lock_submitted": False}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError("prompts are answered in a session, see web.prompted_inference")


def serve_prompts(network: PromptedNetwork, models: Mapping[str, BundleInference]) -> dict[str, PromptedModel]:
    """The models by the names that clients see; none where no bundle takes prompts.

    Args:
        models: segment by themselves, by name.

    Raises:
        ValueError: a bundle has one of these names.
    """
    if network.bundle is None:
        return {}
    served = {
        network.bundle.name: PromptedModel(InferType.DEEPGROW, network),
        SCRIBBLES: PromptedModel(InferType.SCRIBBLES, network),
        **{f"{name}{EDIT}": PromptedModel(InferType.DEEPEDIT, network, model) for name, model in models.items()},
    }
    clash = sorted(set(served) & set(models))
    if clash:
        raise ValueError(f"the bundle {clash[0]!r} has the name of a model that takes prompts: rename its folder")
    return served


def tell_prompted(network: PromptedNetwork, models: Mapping[str, PromptedModel]) -> None:
    """Say in the log which of them serve."""
    if network.is_valid():
        logger.info("models that take prompts: %s", ", ".join(n for n, model in models.items() if model.is_valid()))
    elif network.bundle is not None:
        name, weights = network.bundle.name, network.bundle.weights
        logger.warning("%s has no weights (%s): no model takes prompts until it has", name, weights)


def _describe(kind: InferType, start: BundleInference | None) -> str:
    if start is not None:
        return f"Corrects what {start.bundle.name} finds: points of each label and of the background"
    if kind == InferType.SCRIBBLES:
        return "Corrects a segment by scribbles on it and on what is not"
    return "Segments whatever structure points and a box show"
