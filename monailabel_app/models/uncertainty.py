"""How unsure a bundle's network is of an image, and how the image looks to it. Rep3D has no dropout to draw from.

`entropy`: of the class probabilities averaged over changes of the image that should not matter (contrast, noise).
`disagreement`: 1 - Dice between the label maps of the newest versions of the weights.
`features`: the mean of the network's deepest map, to tell images apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.data.utils import dense_patch_slices

from monailabel_app.models.each_image import Stopped
from monailabel_app.models.inference import BundleInference, InTurns, Network
from monailabel_app.models.out_of_memory import TO_SCORE, Step, with_less_memory
from monailabel_app.models.turn import Priority, TakeTurn
from rep3d.networks.capabilities import encoder_features
from rep3d.precision import has_fast_bfloat16
from rep3d.training.checkpoints import load_deployed

NOISE = 0.1  # standard deviations of the image
VERSIONS = 3  # that are compared

CHANGES: tuple[Callable[[torch.Tensor, torch.Generator], torch.Tensor], ...] = (
    lambda x, _: x,
    lambda x, _: _gamma(x, 0.8),
    lambda x, _: _gamma(x, 1.25),
    lambda x, generator: x + NOISE * x.std() * torch.randn(x.shape, generator=generator).to(x),
    lambda x, generator: x + NOISE * x.std() * torch.randn(x.shape, generator=generator).to(x),
)


@dataclass(frozen=True)
class ImageScores:
    """What is known of an image under certain weights; what was not computed has its default."""

    entropy: float = math.nan  # 0 to 1, mean over what may be foreground
    features: Sequence[float] = ()
    disagreement: float | None = None


def score_image(model: BundleInference, image: Path, is_stopping: Callable[[], bool] = lambda: False) -> ImageScores:
    """Entropy and features of an image.

    Goes window by window, without overlap, and lets requests in between.

    Raises:
        RequestError: the image cannot be prepared.
        Stopped: `is_stopping` said so.
    """
    x = model.prepare(image, Priority.SCORING).data["image"].as_tensor()

    def score(step: Step) -> ImageScores:
        config = model.configure(changes=step.changes)
        network = model.networks.on(config)
        encoder = lambda x: encoder_features(network, x)  # noqa: E731
        windows = (window.to(config.device) for window in _windows(x, config.window_size(network, x.shape[1:])))
        with model.turn.line(Priority.SCORING) as take, torch.inference_mode(), _autocast(config.device):
            my_turn = _until_stopped(take, is_stopping)
            turns = InTurns(network, my_turn), InTurns(encoder, my_turn)
            return _score(windows, *turns, has_regions=config.has_regions)

    return with_less_memory(TO_SCORE, score, model.networks.free_memory)


def disagreement(
    model: BundleInference, image: Path, weights: Sequence[Path], is_stopping: Callable[[], bool] = lambda: False
) -> float:
    """1 - the mean Dice of every pair of label maps that the weights give.

    The Dice is over the labels that either map has. Goes window by window, and lets requests in between.

    Raises:
        RequestError: the image cannot be prepared.
        Stopped: `is_stopping` said so.
    """
    x = model.prepare(image, Priority.SCORING).data["image"].as_tensor()

    def label_map(step: Step, path: Path) -> torch.Tensor:
        config = model.configure(changes=step.changes)
        network = load_deployed(config.network(), path).to(config.device)
        with model.turn.line(Priority.SCORING) as take:
            return config.label_map(x, InTurns(network, _until_stopped(take, is_stopping)))

    def label_maps(step: Step) -> list[torch.Tensor]:
        return [label_map(step, path) for path in weights]

    maps = with_less_memory(TO_SCORE, label_maps, model.networks.free_memory)
    dices = [_mean_dice(one, other) for one, other in combinations(maps, 2)]
    return 1 - sum(dices) / len(dices)


def _score(windows: Iterator[torch.Tensor], network: Network, encoder: Network, *, has_regions: bool) -> ImageScores:
    activate = torch.sigmoid if has_regions else partial(torch.softmax, dim=1)
    generator = torch.Generator().manual_seed(0)
    unsure, weight, features = 0.0, 0.0, []
    for window in windows:
        changed = [activate(network(change(window, generator)).float()) for change in CHANGES]
        mean = torch.stack(changed).mean(0)
        entropy = _entropy(torch.stack([mean, 1 - mean], 1)).mean(1) if has_regions else _entropy(mean)
        foreground = mean.amax(1) if has_regions else 1 - mean[:, 0]
        unsure += float((entropy * foreground).sum())
        weight += float(foreground.sum())
        features.append(encoder(window)[0].cpu())
    mean_features = torch.stack(features).mean(0)
    return ImageScores(unsure / max(weight, 1e-9), [round(float(value), 5) for value in mean_features])


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Of the classes along the second axis, from 0 to 1."""
    logs = probabilities.clamp(min=1e-9).log()
    return -(probabilities * logs).sum(1) / math.log(probabilities.shape[1])


def _windows(x: torch.Tensor, size: Sequence[int]) -> Iterator[torch.Tensor]:
    """(C, D, H, W) -> windows (1, C, *size) side by side; an image that is smaller than one is padded."""
    missing = [max(0, s - n) for s, n in zip(size, x.shape[1:], strict=True)]
    x = F.pad(x, [side for m in reversed(missing) for side in (0, m)])
    for window in dense_patch_slices(x.shape[1:], size, size):
        yield x[(slice(None), *window)].unsqueeze(0)


def _until_stopped(take: TakeTurn, is_stopping: Callable[[], bool]) -> TakeTurn:
    def take_unless_stopped() -> AbstractContextManager[None]:
        if is_stopping():
            raise Stopped
        return take()

    return take_unless_stopped


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
