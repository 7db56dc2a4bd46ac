"""The names of released code as ours, so that its checkpoints load: Rep3D, 3D RepUX-Net, 3D UX-Net and MedNeXt."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

Renaming = tuple[str, str]  # a pattern of names, and what takes its place

_DECODER: tuple[Renaming, ...] = (
    (r"^encoder([1-4])\.", r"skip\1."),
    (r"^encoder5\.", "bottom."),
    (r"^decoder1\.", "last."),
    (r"^decoder5\.", "up4."),
    (r"^decoder4\.", "up3."),
    (r"^decoder3\.", "up2."),
    (r"^decoder2\.", "up1."),
    (r"^out\.", "out."),
)


def _encoder(name: str) -> tuple[Renaming, ...]:
    return (
        (rf"^{name}\.downsample_layers\.", "encoder.downsamples."),
        (rf"^{name}\.stages\.", "encoder.stages."),
        (rf"^{name}\.norm(\d)\.", r"encoder.norms.\1."),
    )


_FAMILIES: dict[str, tuple[Renaming, ...]] = {  # by how a name of theirs begins that no other has
    "rep3d.": (*_encoder("rep3d"), *_DECODER),
    "repuxnet_3d.": (*_encoder("repuxnet_3d"), *_DECODER),
    "uxnet_3d.": (*_encoder("uxnet_3d"), *_DECODER),
    "enc_block_0.": (
        (r"^(stem|bottleneck)\.", r"\1."),
        (r"^enc_block_(\d)\.", r"encoder.\1."),
        (r"^down_(\d)\.", r"downs.\1."),
        *((rf"^up_{3 - i}\.", f"ups.{i}.") for i in range(4)),
        *((rf"^dec_block_{3 - i}\.", f"decoder.{i}.") for i in range(4)),
        (r"^out_(\d)\.conv_out\.", r"heads.\1."),
    ),
}
_IN_BLOCKS: dict[str, tuple[Renaming, ...]] = {
    "uxnet_3d.": (
        (r"\.dwconv\.weight$", ".conv.kernel"),
        (r"\.dwconv\.bias$", ".conv.bias"),
        (r"\.pwconv1\.", ".expand."),
        (r"\.pwconv2\.", ".project."),
        (r"\.gamma$", ".scale"),
    ),
    "enc_block_0.": (
        (r"\.conv1\.weight$", ".conv.kernel"),
        (r"\.conv1\.bias$", ".conv.bias"),
        (r"\.conv2\.", ".expand."),
        (r"\.conv3\.", ".project."),
        (r"\.res_conv\.", ".skip."),
        (r"\.grn_(beta|gamma)$", r".response.\1"),
    ),
}
_UNUSED = r"\.(prior_map|prior_conv2?|norm_w2?)(\.|$)|^dummy_tensor$"
_BATCH_NORM_EPS = 1e-5


def convert_official_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a network's released code as one for ours; the names tell which network it is.

    - Rep3D, https://github.com/leeh43/Rep3D, and 3D RepUX-Net, https://github.com/MASILab/RepUX-Net, for
      `Rep3D(..., deploy=True)`: their kernels are already effective (their training multiplied the mask into them), so
      the generators are dropped and the BatchNorms folded.
    - 3D UX-Net, https://github.com/MASILab/3DUX-Net, for `UXNet`.
    - MedNeXt, https://github.com/MIC-DKFZ/MedNeXt, for `MedNeXt`, and with its `grn=True` for `MedNeXtV2`, whose
      first down block has a normalization that the released one lacks: it gets one that changes nothing.

    Raises:
        ValueError: a name that the released network does not have, or names of none of them.
    """
    released = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    family = next((mark for mark in _FAMILIES if any(name.startswith(mark) for name in released)), None)
    if family is None:
        raise ValueError(
            f"state_dict has the names {list(released)[:3]}, not those of Rep3D, 3D RepUX-Net, 3D UX-Net or MedNeXt"
        )
    converted = {_renamed(name, family): tensor for name, tensor in released.items() if not re.search(_UNUSED, name)}
    if family in ("rep3d.", "repuxnet_3d."):
        for prefix in [name.removesuffix("dwconv.weight") for name in converted if name.endswith(".dwconv.weight")]:
            _fold_block(converted, prefix)
    if family == "enc_block_0.":
        converted = {name: _mednext_tensor(name, tensor) for name, tensor in converted.items()}
        if "downs.1.response.gamma" in converted:
            for name in ("downs.0.response.gamma", "downs.0.response.beta"):
                converted.setdefault(name, torch.zeros_like(converted["downs.0.expand.bias"]))
    return converted


def _renamed(name: str, family: str) -> str:
    for pattern, ours in _FAMILIES[family]:
        renamed, count = re.subn(pattern, ours, name)
        if count:
            break
    else:
        raise ValueError(f"state_dict has the name {name!r}, which the released network does not have")
    for pattern, ours in _IN_BLOCKS.get(family, ()):
        renamed = re.sub(pattern, ours, renamed)
    return renamed


def _fold_block(state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    """Of Rep3D and RepUX-Net, whose convolution has a bias."""
    kernel = state_dict.pop(f"{prefix}dwconv.weight")
    kernel_bias = state_dict.pop(f"{prefix}dwconv.bias", torch.zeros(())).double()
    state_dict.pop(f"{prefix}norm.num_batches_tracked", None)
    weight, bias, mean, variance = (
        state_dict.pop(f"{prefix}norm.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / torch.sqrt(variance + _BATCH_NORM_EPS)
    state_dict[f"{prefix}kernel"] = (kernel * scale.view(-1, 1, 1, 1, 1)).to(kernel)
    state_dict[f"{prefix}bias"] = (bias + (kernel_bias - mean) * scale).to(kernel)


def _mednext_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Transposed convolutions as plain ones, and normalizations without the axes of the voxels."""
    if re.match(r"ups\.\d\.conv\.kernel", name):
        return tensor.flip(2, 3, 4)
    if re.match(r"heads\.\d\.weight", name):
        return tensor.transpose(0, 1)
    return tensor.flatten() if ".response." in name else tensor
