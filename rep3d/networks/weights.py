"""What a state dict tells of its network, in words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor

SHOWN = 3  # facts in a message
SIZE = "numbers in all"

Weights = Mapping[str, Tensor]


class NonFiniteWeights(ValueError):
    """Weights of which some are NaN or infinite."""


def non_finite(weights: Weights) -> str:
    """Which tensors of a state dict hold NaN or infinite values, in words; empty where none does."""
    wrong = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    return f"{len(wrong)} tensor(s) hold NaN or infinite values: {', '.join(wrong[:5])}" if wrong else ""


def digest(weights: Weights) -> str:
    """Tells a state dict from others, by the names, types, shapes and bytes of its tensors."""
    found = hashlib.sha256()
    for name, tensor in weights.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_finite(weights: Weights, source: object) -> None:
    """Refuse weights with which nothing can be computed.

    Args:
        weights: a state dict.
        source: what the message begins with, such as their file.

    Raises:
        NonFiniteWeights: names the tensors.
    """
    wrong = non_finite(weights)
    if wrong:
        raise NonFiniteWeights(f"{source}: {wrong}; expected the weights of a training that did not diverge")


def differences(weights: Weights, network: Weights) -> str:
    """How the network of some weights differs from another one: by what `Rep3D` was built with, else by its tensors.

    Args:
        weights, network: state dicts.

    Returns:
        Such as "classes 16 in the weights, 3 in the network; ...". Empty where names and shapes agree.
    """
    told, own = facts(weights), facts(network)
    found = [
        f"{fact} {told[fact]} in the weights, {own[fact]} in the network"
        for fact in told
        if fact in own and told[fact] != own[fact]
    ]
    found.sort(key=lambda text: SIZE in text)  # it follows from the others
    missing, further = sorted(network.keys() - weights.keys()), sorted(weights.keys() - network.keys())
    if missing:
        found.append(f"{len(missing)} tensors are in the network only, such as {missing[0]}")
    if further:
        found.append(f"{len(further)} in the weights only, such as {further[0]}")
    shapes = [name for name in weights.keys() & network.keys() if weights[name].shape != network[name].shape]
    for name in sorted(shapes)[:1]:
        found.append(f"{name} {tuple(weights[name].shape)} in the weights, {tuple(network[name].shape)} in the network")
    return "; ".join(found[:SHOWN])


def facts(weights: Weights) -> dict[str, object]:
    """What a `Rep3D` or a `UXNet` was built with, as far as a state dict tells; of other networks the size."""
    known: dict[str, object] = {SIZE: f"{sum(tensor.numel() for tensor in weights.values()):,}"}
    if "encoder.stages.0.0.kernel" in weights:
        return {"form": "deployed", **known}
    kernel = re.compile(r"encoder\.stages\.\d+\.0\.(weight|conv\.weight|conv\.kernel)")
    kernels = {name: tensor for name, tensor in weights.items() if kernel.fullmatch(name)}
    ends = ("out.conv.conv.weight", "encoder.downsamples.0.0.weight", "bottom.layer.conv1.conv.weight")
    if not kernels or not all(name in weights for name in ends):
        return known
    classes, stem, bottom = (weights[name] for name in ends)
    first = next(iter(kernels.values()))
    return {
        "form": "training",
        "classes": classes.shape[0],
        "input channels": stem.shape[1],
        "feature sizes": tuple(kernel.shape[0] for kernel in kernels.values()),
        "hidden size": bottom.shape[0],
        "kernel size": first.shape[-1],
        "modulation": _modulation(weights),
        **known,
    }


def _modulation(weights: Weights) -> str:
    marks = {"small_weight": "csla", "mask.log_beta": "lrbm", "mask.distance": "fixed"}
    return next((kind for mark, kind in marks.items() if any(name.endswith(mark) for name in weights)), "none")
