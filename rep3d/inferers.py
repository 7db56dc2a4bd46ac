"""Mixed precision for any MONAI inferer, and sliding windows whose memory does not grow with the classes' maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import compute_divisible_spatial_size
from monai.utils import PytorchPadMode, convert_to_dst_type, ensure_tuple, ensure_tuple_rep, fall_back_tuple
from torch import nn

from rep3d.console.progress import Progress
from rep3d.data.regions import paint
from rep3d.networks.ensemble import Ensemble
from rep3d.networks.input_sizes import divisor_of
from rep3d.precision import check_layers, has_fast_bfloat16

SAMPLED, BINS = 2**20, 256  # voxels and bins of a histogram


class AutocastInferer(Inferer):
    """Runs an inferer under bfloat16 autocast where that is fast, and returns float32.

    MONAI's engines know autocast on CUDA only. bfloat16 has float32's range, so no gradient scaling is needed. In
    training on a CPU, layers that bfloat16 gets wrong on this machine compute in float32, see `rep3d.precision`.

    Args:
        inferer: what calls the network.
        enabled: None: where bfloat16 is fast, see `has_fast_bfloat16`.
    """

    def __init__(self, inferer: Inferer, enabled: bool | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        device = torch.device(getattr(self.inferer, "sw_device", None) or inputs.device)  # the network's
        enabled = has_fast_bfloat16(device) if self.enabled is None else self.enabled
        if enabled and device.type == "cpu" and torch.is_grad_enabled() and isinstance(network, nn.Module):
            check_layers(network)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            outputs = self.inferer(inputs, network, *args, **kwargs)
        return [_float(output) for output in outputs] if isinstance(outputs, list | tuple) else _float(outputs)


class LabelMapInferer(SlidingWindowInferer):
    """`SlidingWindowInferer` that returns the label map, (B, C, D, H, W) -> (B, 1, D, H, W) of uint8.

    The label is the class with the largest sum of weighted logits, as from the argmax of `SlidingWindowInferer`. A
    region is where its sum is above 0, which is a probability above one half.
    Windows go along the first axis; rows that no later window reaches turn into labels at once, so the float maps of
    the classes are as deep as one window, not as the image.

    Args:
        body: gives of an image (C, D, H, W) where it shows something, (D, H, W) of bool, such as `above_lowest`.
            Windows without any of it are left out, and a voxel that lies in no window is background; the labels of the
            body stay what they were. None: all windows count.
        class_order: of a network of regions, the id that each paints in a label map, one after another; None: the
            channels are labels. See `rep3d.data.regions`.
        divisor: voxels, for all axes or for each: a window whose edge is no multiple of it is enlarged to the next. A
            network's own goes before it, see `rep3d.networks.input_sizes.divisor_of`.
        **kwargs: as of `monai.inferers.SlidingWindowInferer`: roi_size, sw_batch_size, overlap, mode, sigma_scale,
            padding_mode, cval, sw_device, device and progress: a bar in a terminal, elsewhere a line in the log now and
            then.

    Raises:
        ValueError: a divisor below 1, an overlap of 1 or more, more than 256 classes, an output that is not finite, or
            an ensemble of labels where there are regions.
    """

    def __init__(
        self,
        *args: Any,
        divisor: int | Sequence[int] = 1,
        body: Callable[[torch.Tensor], torch.Tensor] | None = None,
        class_order: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.body = body
        if min(ensure_tuple(divisor)) < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor!r}")
        if not all(0 <= overlap < 1 for overlap in ensure_tuple(self.overlap)):
            raise ValueError(f"overlap must be >= 0 and < 1, got {self.overlap!r}.")  # in MONAI's words
        self.divisor = divisor
        self.class_order = class_order

    @torch.no_grad()  # no gradient flows through labels
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if isinstance(network, Ensemble) and network.has_regions != (self.class_order is not None):
            raise ValueError("the checkpoints are averaged as of labels, and there are regions, or the other way round")
        roi = self.window_size(network, inputs.shape[2:])
        call = lambda windows: network(windows, *args, **kwargs)  # noqa: E731
        labels = torch.stack([self._label_map(image, call, roi) for image in inputs])
        return convert_to_dst_type(labels, inputs, dtype=torch.uint8)[0]

    def window_size(self, network: Callable[..., Any], shape: Sequence[int]) -> tuple[int, ...]:
        """The edges, in voxels, of the windows that a network gets of an image of a shape."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        divisor = ensure_tuple_rep(divisor_of(network) or self.divisor, len(shape))
        return compute_divisible_spatial_size(fall_back_tuple(self.roi_size, shape), divisor)

    def _label_map(
        self, image: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor], roi: tuple[int, ...]
    ) -> torch.Tensor:
        """(C, D, H, W) -> (1, D, H, W)."""
        shape = image.shape[1:]
        missing = [max(r - n, 0) for r, n in zip(roi, shape, strict=True)]
        padding = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
        body = None if self.body is None else F.pad(self.body(image), padding)
        if any(padding):
            mode = PytorchPadMode(self.padding_mode)
            image = F.pad(image.unsqueeze(0), padding, mode=mode, value=self.cval).squeeze(0)
        device = torch.device(self.device or image.device)
        importance = compute_importance_map(roi, self.mode, self.sigma_scale, device, torch.float32)
        labels = torch.zeros(image.shape[1:], dtype=torch.uint8, device=device)
        sums = torch.empty(0, device=device)  # of weighted logits, (classes, rows of one layer, H, W)
        layers = self._layers(image.shape[1:], roi)
        starts = [layer[0][0].start for layer in layers]
        ends = [*starts[1:], image.shape[1]]
        if body is not None:
            layers = [[window for window in layer if body[window].any()] for layer in layers]
        progress = Progress(sum(map(len, layers)) if self.progress else 0, "  windows", "window", leave=False)
        for layer, start, end in zip(layers, starts, ends, strict=True):
            for first in range(0, len(layer), self.sw_batch_size):
                windows = layer[first : first + self.sw_batch_size]
                batch = torch.stack([image[(slice(None), *window)] for window in windows])
                logits = network(batch.to(self.sw_device or image.device)).to(device, torch.float32)
                if not torch.isfinite(logits).all():
                    raise ValueError(
                        "the network's output is NaN or infinite: its weights may be of a training that diverged"
                    )
                if not len(sums):
                    self._check_classes(logits.shape[1])
                    sums = torch.zeros(logits.shape[1], roi[0], *image.shape[2:], device=device)
                for window, values in zip(windows, logits, strict=True):
                    sums[(slice(None), slice(None), *window[1:])] += values * importance
                progress.update(len(windows))
            if not len(sums):  # no window had a body yet
                continue
            done = end - start
            labels[start:end] = self._labels(sums[:, :done])
            for rows in sums:
                rows[: roi[0] - done] = rows[done:].clone()
                rows[roi[0] - done :] = 0
        progress.close()
        inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, shape, strict=True))
        return labels[inside].unsqueeze(0)

    def _check_classes(self, number: int) -> None:
        if number > 256:
            raise ValueError(f"a label map of uint8 holds 256 classes, the network gives {number}")
        if number == 1 and self.class_order is None:
            raise ValueError("the network gives 1 class, expected the background and at least one more, or regions")

    def _labels(self, sums: torch.Tensor) -> torch.Tensor:
        """(K, D, H, W) -> (D, H, W)."""
        return sums.argmax(0) if self.class_order is None else paint(sums > 0, self.class_order)

    def _layers(self, shape: Sequence[int], roi: Sequence[int]) -> list[list[tuple[slice, ...]]]:
        """The windows by their position on the first axis."""
        axes = zip(roi, shape, ensure_tuple_rep(self.overlap, len(roi)), strict=True)
        steps = [r if r == n else max(1, int(r * (1 - overlap))) for r, n, overlap in axes]
        windows = dense_patch_slices(shape, roi, steps)
        return [list(layer) for _, layer in groupby(windows, lambda window: window[0].start)]


def above_lowest(image: torch.Tensor) -> torch.Tensor:
    """The body in an image (C, D, H, W) whose air has its lowest value, (D, H, W): an intensity window cuts air off.

    So have margins that a scanner or a crop filled up. What the body encloses, such as lungs, belongs to it.
    """
    return _with_enclosed((image > image.amin(dim=(1, 2, 3), keepdim=True)).any(0))


def above_noise(image: torch.Tensor) -> torch.Tensor:
    """The body in an image (C, D, H, W) without units, whose air is noise, (D, H, W), with what it encloses.

    The threshold lies half way from the darkest voxel to where Otsu's method parts air and tissue: some air may stay.
    """
    return _with_enclosed(torch.stack([channel > _noise_threshold(channel) for channel in image]).any(0))


def _noise_threshold(values: torch.Tensor) -> torch.Tensor:
    """Half of Otsu's threshold, of voxels as far as their 99th percentile: few bright ones are no class."""
    step = math.ceil((values.numel() / SAMPLED) ** (1 / 3))
    sample = values[::step, ::step, ::step].flatten().float()
    low, high = sample.min(), sample.quantile(0.99)
    counts = torch.histc(sample, BINS, low.item(), high.item())
    tops = torch.linspace(low.item(), high.item(), BINS + 1, device=values.device)[1:]
    below, weighted = counts.cumsum(0), (counts * tops).cumsum(0)
    between = (weighted[-1] * below / below[-1] - weighted) ** 2 / (below * (below[-1] - below))
    return low + (tops[between.nan_to_num(0, 0, 0).argmax()] - low) / 2


def _with_enclosed(body: torch.Tensor) -> torch.Tensor:
    """(D, H, W) with the voxels that have some of it on both sides along two axes."""
    between = [_before(body, axis) & _before(body.flip(axis), axis).flip(axis) for axis in range(body.ndim)]
    return torch.stack(between).sum(0) >= 2


def _before(body: torch.Tensor, axis: int) -> torch.Tensor:
    """Where some of a body is at a voxel or before it."""
    return body.to(torch.uint8).cummax(axis).values.bool()


def _float(output: torch.Tensor) -> torch.Tensor:
    return output.float() if output.is_floating_point() else output
