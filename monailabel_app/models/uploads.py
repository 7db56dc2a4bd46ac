"""Weights that a client sends: checked before they replace anything, kept as a version, and served."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monailabel_app.errors import RequestError
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.versions import SETTINGS, add_version, keep_serving, serve_version
from rep3d.data.leakage import KEY, TrainingCases
from rep3d.networks.weights import NonFiniteWeights, non_finite
from rep3d.training.checkpoints import read_weights

MAX_RATIO = 4  # of a checkpoint's size to the network's: a `last.pt` holds the optimizer's state too
SPARE_BYTES = 2**20  # for names


def serve_upload(model: BundleInference, file: Path, user: str) -> dict[str, Any]:
    """Let a training checkpoint of the model's own network serve. The weights that served stay a version.

    The file is read without running anything in it. What is kept is the network's state dict with what it tells of the
    images that it was trained on, and nothing else of it.

    Returns:
        The new version, as `versions.list_versions` describes it.

    Raises:
        RequestError: 400, no checkpoint, one of another network, or values that are not finite; 413, too large.
    """
    network = model.configure().network()
    _check_size(file, network)
    cases = TrainingCases({}, {})
    cases.go_on_from(_load(network, file), file)
    checked = file.with_name("checked.pt")
    torch.save(cases.mark(network.state_dict()), checked)
    keep_serving(model.bundle)
    told = model.bundle.settings  # they fit the network that serves
    number = add_version(
        model.bundle, checked, {"user": user, "note": "uploaded", **({SETTINGS: told} if told else {})}
    )
    return serve_version(model.bundle, number)


def _check_size(file: Path, network: nn.Module) -> None:
    """A small file may unpack to gigabytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise RequestError(400, f"the file ({file.stat().st_size} bytes) is no checkpoint of torch.save") from error
    limit = MAX_RATIO * sum(tensor.nbytes for tensor in network.state_dict().values()) + SPARE_BYTES
    if unpacked > limit:
        raise RequestError(413, f"the checkpoint unpacks to {unpacked} bytes, at most {limit} for this network")


def _load(network: nn.Module, file: Path) -> Mapping[str, torch.Tensor]:
    """The weights of the file, which the network has then."""
    try:
        weights = read_weights(file)
        _check_images(weights)
        network.load_state_dict(weights)
    except NonFiniteWeights as error:
        raise RequestError(400, str(error).removeprefix(f"{file}: ")) from error
    except ValueError as error:
        raise RequestError(400, "the file holds no state dict of tensors, or more than that") from error
    except RuntimeError as error:
        raise RequestError(400, f"the weights do not fit: {' '.join(str(error).split())[:600]}") from error
    wrong = non_finite(network.state_dict())  # too large for float32
    if wrong:
        raise RequestError(400, wrong)
    return weights


def _check_images(weights: Mapping[str, torch.Tensor]) -> None:
    metadata = getattr(weights, "_metadata", {})
    images = metadata.get(KEY, {}) if isinstance(metadata, Mapping) else metadata
    if not isinstance(images, Mapping) or not all(isinstance(text, str) for pair in images.items() for text in pair):
        raise RequestError(
            400, f"the weights' {KEY!r} is {repr(images)[:200]}, expected the names of images by their digests"
        )
