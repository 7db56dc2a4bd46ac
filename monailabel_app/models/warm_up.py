"""The first call of a network with a new shape takes longer than the others: not while a user waits."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from monailabel_app.errors import RequestError
from monailabel_app.models import contract
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.turn import Priority
from rep3d.interactive.channels import CHANNELS

logger = logging.getLogger(__name__)

SHAPE = (48, 48, 48)
SECONDS = 5  # then no more: a slow network's first call takes hardly longer than the others


def prepare_models(models: Iterable[BundleInference], *, warm_up: bool) -> None:
    """Say which serve and which have no weights yet, and warm the former up where that is wanted."""
    models = list(models)
    serving = [model.bundle.name for model in models if model.is_valid()]
    if serving:
        logger.info("models that segment by themselves: %s", ", ".join(serving))
    for model in models:
        if not model.is_valid():
            weights = model.bundle.weights
            logger.warning("%s has no weights (%s): train it, or put them there", model.bundle.name, weights)
        elif warm_up:
            logger.info("warming up %s", model.bundle.name)
            warm_up_model(model)


def warm_up_prompted(network: PromptedNetwork) -> None:
    """Let the network that answers prompts, where it serves, answer one on nothing."""
    if not network.is_valid():
        return
    with suppress(RequestError), network.answering(Priority.SEGMENTATION) as ask:  # a GPU may be too small at the start
        ask(torch.zeros(1, len(CHANNELS), *[network.size] * 3))


def warm_up_model(model: BundleInference) -> None:
    """Segment noise, and as many windows at once as requests may, so that the first request finds all ready."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.nii.gz"
        noise = np.random.default_rng(0).normal(100, 50, SHAPE).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
        model.segment(path)
    config = model.configure(changes={contract.OVERLAP: 0})
    network = model.networks.on(config)
    *side, width = config.window_size(network, SHAPE)
    for count in range(config.sw_batch_size, 0, -1):
        if time.monotonic() - start > SECONDS:
            break
        with suppress(torch.cuda.OutOfMemoryError):  # requests take fewer windows then, too
            config.label_map(torch.randn(config.in_channels, *side, width * count), network)
