"""3D UX-Net: Rep3D's predecessor, whose blocks are ConvNeXt's with large kernels and channels that stay apart.

"3D UX-Net: A Large Kernel Volumetric ConvNet Modernizing Hierarchical Transformer for Medical Image Segmentation" (Lee
et al., ICLR 2023), https://arxiv.org/abs/2209.15076. Rep3D's paper enlarges its kernels (Table 4) and masks them (3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rep3d.networks.arguments import check_choice
from rep3d.networks.depthwise import DepthwiseConv3d, MaskedDepthwiseConv3d
from rep3d.networks.lrbm import LRBM, FixedMask
from rep3d.networks.recomputing import recomputable, recompute
from rep3d.networks.rep3d import ChannelNorm, Rep3DEncoder
from rep3d.networks.unetr_decoder import NormName, UnetrDecoderNetwork

MODULATIONS = ("none", "fixed", "lrbm")
EXPANSION = 4
LAYER_SCALE = 1e-6  # at the start


class UXBlock(nn.Module):
    """x + s project(GELU(expand(LayerNorm(conv(x))))): (B, C, D, H, W) -> (B, C, D, H, W).

    `expand` and `project` make four maps of each channel, and one of these again; they mix no channels.

    Args:
        channels: C.
        kernel_size: k, odd, 3 to 31.
        modulation: "none", or "fixed" or "lrbm" for a mask on the large kernel, as of `Rep3DBlock`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, channels: int, kernel_size: int = 7, modulation: str = "none") -> None:
        super().__init__()
        check_choice("modulation", modulation, MODULATIONS)
        self.use_checkpoint = False
        if modulation == "none":
            self.conv: nn.Module = DepthwiseConv3d(channels, kernel_size)
        else:
            mask = LRBM(channels, kernel_size) if modulation == "lrbm" else FixedMask(kernel_size)
            self.conv = MaskedDepthwiseConv3d(channels, kernel_size, mask)
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv3d(channels, EXPANSION * channels, 1, groups=channels)
        self.activation = nn.GELU()
        self.project = nn.Conv3d(EXPANSION * channels, channels, 1, groups=channels)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    @recomputable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.activation(self.expand(self.norm(self.conv(x)))))
        return x + self.scale.view(-1, 1, 1, 1) * y


class UXNet(UnetrDecoderNetwork):
    """3D UX-Net: (B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W).

    Every axis of the input must be a multiple of 16.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        feature_size: channels per encoder stage.
        depths: blocks per encoder stage.
        hidden_size: channels at the bottom of the decoder.
        kernel_size: edge of the large depthwise kernels in voxels, odd, 3 to 31.
        modulation: "none", "fixed" or "lrbm", see `UXBlock`.
        norm_name: normalization of the decoder, as in `monai.networks.layers.get_norm_layer`.
        use_checkpoint: keep only the inputs of the blocks for the backward pass, as in `Rep3D`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        feature_size: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden_size: int = 768,
        kernel_size: int = 7,
        modulation: str = "none",
        norm_name: NormName = "instance",
        use_checkpoint: bool = False,
    ) -> None:
        encoder = Rep3DEncoder(
            in_channels, feature_size, depths, UXBlock, kernel_size=kernel_size, modulation=modulation
        )
        super().__init__(encoder, in_channels, out_channels, feature_size, hidden_size, norm_name)
        recompute(self, use_checkpoint)
