"""Fold trained networks into their inference form, and read the released code's checkpoints."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from rep3d.networks.capabilities import folded
from rep3d.networks.recomputing import recompute
from rep3d.precision import stop_checking

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def reparameterize(model: ModuleT) -> ModuleT:
    """A deployed copy of `model`: in place of every module with a method `deployed` stands what that returns.

    A `Rep3DBlock` folds mask and BatchNorm into one convolution; the outputs equal those of `model` in eval mode. A
    network of other modules is copied as it is. The argument is left as it was.
    """
    deployed = copy.deepcopy(model)
    stop_checking(deployed)
    recompute(deployed, False)
    return folded(deployed)  # type: ignore[return-value]


# Official name prefix -> ours.
_OFFICIAL_PREFIXES = (
    (r"^rep3d\.downsample_layers\.", "encoder.downsamples."),
    (r"^rep3d\.stages\.", "encoder.stages."),
    (r"^rep3d\.norm(\d)\.", r"encoder.norms.\1."),
    (r"^encoder([1-4])\.", r"skip\1."),
    (r"^encoder5\.", "bottom."),
    (r"^decoder1\.", "last."),
    (r"^decoder5\.", "up4."),
    (r"^decoder4\.", "up3."),
    (r"^decoder3\.", "up2."),
    (r"^decoder2\.", "up1."),
    (r"^out\.", "out."),
)
_OFFICIAL_BATCH_NORM_EPS = 1e-5


def convert_official_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of the released code, https://github.com/leeh43/Rep3D, as one for `Rep3D(..., deploy=True)`.

    The released kernels are already effective (its training multiplied the mask into them), so the generators are
    dropped and the BatchNorms folded.

    Raises:
        ValueError: a name that the released network does not have.
    """
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        name = name.removeprefix("module.")
        if re.search(r"\.(prior_map|prior_conv2?|norm_w2?)(\.|$)", name):
            continue
        for pattern, ours in _OFFICIAL_PREFIXES:
            renamed, count = re.subn(pattern, ours, name)
            if count:
                converted[renamed] = tensor
                break
        else:
            raise ValueError(f"state_dict has the name {name!r}, which the released Rep3D network does not have")
    for prefix in [name.removesuffix("dwconv.weight") for name in converted if name.endswith(".dwconv.weight")]:
        _fold_official_block(converted, prefix)
    return converted


def _fold_official_block(state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    kernel = state_dict.pop(f"{prefix}dwconv.weight")
    state_dict.pop(f"{prefix}norm.num_batches_tracked", None)
    weight, bias, mean, variance = (
        state_dict.pop(f"{prefix}norm.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / torch.sqrt(variance + _OFFICIAL_BATCH_NORM_EPS)
    state_dict[f"{prefix}kernel"] = (kernel * scale.view(-1, 1, 1, 1, 1)).to(kernel)
    state_dict[f"{prefix}bias"] = (bias - mean * scale).to(kernel)
