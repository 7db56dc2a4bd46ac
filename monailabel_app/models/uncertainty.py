"""How unsure a bundle's network is of an image, and how the image looks to it. Rep3D has no dropout to draw from.

`entropy`: of the class probabilities averaged over changes of the image that should not matter (contrast, noise).
`disagreement`: 1 - Dice between the label maps of the newest versions of the weights.
`features`: the mean of the network's deepest map, to tell images apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.data.utils import dense_patch_slices

from monailabel_app.models.inference import BundleInference
from rep3d.networks.capabilities import encoder_features
from rep3d.precision import has_fast_bfloat16
from rep3d.training.checkpoints import load_deployed

NOISE = 0.1  # standard deviations of the image
VERSIONS = 3  # that are compared
# The GPU gets one window at a time, never the image.
IN_WINDOWS = {
    "sw_batch_size": 1,
    "sliding_window#inferer#device": "cpu",
    "sliding_window#inferer#sw_device": "@device",
}

CHANGES: tuple[Callable[[torch.Tensor, torch.Generator], torch.Tensor], ...] = (
    lambda x, _: x,
    lambda x, _: _gamma(x, 0.8),
    lambda x, _: _gamma(x, 1.25),
    lambda x, generator: x + NOISE * x.std() * torch.randn(x.shape, generator=generator).to(x),
    lambda x, generator: x + NOISE * x.std() * torch.randn(x.shape, generator=generator).to(x),
)


def score_image(
    inference: BundleInference, image: Path, is_stopping: Callable[[], bool] = lambda: False, device: str = ""
) -> dict[str, float | list[float]] | None:
    """Entropy (0 to 1, mean over what may be foreground) and features of an image; None where it was stopped.

    Goes window by window, without overlap, and lets requests in between.

    Args:
        device: a name of `inference.config()["device"]`, or empty for the first of them.

    Raises:
        RequestError: the image cannot be prepared.
    """
    parser = inference.parser(device)
    x = inference.prepare(parser, image)["image"].as_tensor()
    patch = parser.get_parsed_content("patch_size")
    missing = [max(0, p - n) for p, n in zip(patch, x.shape[1:], strict=True)]
    x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])
    generator = torch.Generator().manual_seed(0)
    windows = dense_patch_slices(x.shape[1:], patch, patch)
    unsure, weight, features = 0.0, 0.0, torch.zeros(1)
    for window in windows:
        if is_stopping():
            return None
        piece = x[(slice(None), *window)].unsqueeze(0).to(parser["device"])
        probabilities = []
        for change in CHANGES:
            with inference.turn(), torch.inference_mode(), _autocast(piece.device):
                probabilities.append(inference.network(parser)(change(piece, generator)).float().softmax(1))
        mean = torch.stack(probabilities).mean(0)
        entropy = -(mean * mean.clamp(min=1e-9).log()).sum(1) / math.log(mean.shape[1])
        foreground = 1 - mean[:, 0]
        unsure += float((entropy * foreground).sum())
        weight += float(foreground.sum())
        with inference.turn(), torch.inference_mode(), _autocast(piece.device):
            features = features + encoder_features(inference.network(parser), piece)[0].cpu() / len(windows)
    return {"entropy": unsure / max(weight, 1e-9), "features": [round(float(value), 5) for value in features]}


def disagreement(
    inference: BundleInference,
    image: Path,
    weights: Sequence[Path],
    is_stopping: Callable[[], bool] = lambda: False,
    device: str = "",
) -> float | None:
    """1 - the mean Dice of every pair of label maps that the weights give; None where it was stopped.

    The Dice is over the labels that either map has. Goes window by window, and lets requests in between.

    Args:
        device: a name of `inference.config()["device"]`, or empty for the first of them.

    Raises:
        RequestError: the image cannot be prepared.
    """
    parser = inference.parser(device, IN_WINDOWS)
    x = inference.prepare(parser, image)["image"].as_tensor().unsqueeze(0)
    try:
        maps = [_label_map(inference, parser, x, path, is_stopping) for path in weights]
    except _Stopped:
        return None
    dices = [_mean_dice(one, other) for one, other in combinations(maps, 2)]
    return 1 - sum(dices) / len(dices)


class _Stopped(Exception):
    """Ends the windows of an image."""


def _label_map(
    inference: BundleInference, parser: ConfigParser, x: torch.Tensor, weights: Path, is_stopping: Callable[[], bool]
) -> torch.Tensor:
    network = load_deployed(parser.get_parsed_content("network_def"), weights).to(parser["device"])

    def in_turn(windows: torch.Tensor) -> torch.Tensor:
        if is_stopping():
            raise _Stopped
        with inference.turn():
            return network(windows)

    with torch.inference_mode():
        return parser.get_parsed_content("inferer")(x, in_turn)[0]


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))


def _mean_dice(one: torch.Tensor, other: torch.Tensor) -> float:
    labels = [label for label in torch.cat([one.unique(), other.unique()]).unique() if label]
    if not labels:
        return 1.0
    masks = [(one == label, other == label) for label in labels]
    return float(torch.stack([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks]).mean())


def _gamma(x: torch.Tensor, exponent: float) -> torch.Tensor:
    low, high = x.min(), x.max()
    return ((x - low) / (high - low).clamp(min=1e-9)) ** exponent * (high - low) + low
