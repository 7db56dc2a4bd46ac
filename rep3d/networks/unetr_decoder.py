"""The U-shaped decoder that Rep3D shares with 3D UX-Net, RepUX-Net and UNETR, of MONAI's blocks.

"UNETR: Transformers for 3D Medical Image Segmentation" (Hatamizadeh et al., WACV 2022), https://arxiv.org/abs/2103.10504.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import nn

from rep3d.networks.arguments import check_positive, check_stages
from rep3d.networks.recomputing import recomputable
from rep3d.networks.segmentation_network import SegmentationNetwork

NormName = str | tuple


class BasicBlock(UnetrBasicBlock):
    """Two 3x3x3 convolutions with a residual: (B, C_in, D, H, W) -> (B, C_out, D, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, norm_name: NormName) -> None:
        norm_name = _fast_norm(norm_name, out_channels)
        super().__init__(3, in_channels, out_channels, kernel_size=3, stride=1, norm_name=norm_name, res_block=True)
        self.use_checkpoint = False

    @recomputable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class UpBlock(UnetrUpBlock):
    """Twice the size, joined with a skip: (B, C_in, D, H, W), (B, C_out, 2D, 2H, 2W) -> (B, C_out, 2D, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, norm_name: NormName) -> None:
        norm_name = _fast_norm(norm_name, out_channels)
        super().__init__(
            3, in_channels, out_channels, kernel_size=3, upsample_kernel_size=2, norm_name=norm_name, res_block=True
        )
        self.use_checkpoint = False

    @recomputable
    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv_block(torch.cat((self.transp_conv(x), skip), dim=1))


class UnetrDecoderNetwork(SegmentationNetwork):
    """An encoder of four stages with this decoder: (B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W).

    Every axis of the input must be a multiple of 16. Abstract: a family's class builds the encoder.

    Args:
        encoder: (B, in_channels, D, H, W) -> maps of `feature_size` channels, of 1/2, 1/4, 1/8 and 1/16 of the size.
        in_channels: channels of the image.
        out_channels: classes, background included.
        feature_size: channels per encoder stage.
        hidden_size: channels at the bottom of the decoder.
        norm_name: normalization of the decoder, as in `monai.networks.layers.get_norm_layer`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        in_channels: int,
        out_channels: int,
        feature_size: Sequence[int],
        hidden_size: int,
        norm_name: NormName,
    ) -> None:
        super().__init__(in_channels, out_channels)
        check_positive("hidden_size", hidden_size)
        check_stages("feature_size", feature_size)
        c1, c2, c3, c4 = feature_size
        self.encoder = encoder
        self.skip1 = BasicBlock(in_channels, c1, norm_name)
        self.skip2 = BasicBlock(c1, c2, norm_name)
        self.skip3 = BasicBlock(c2, c3, norm_name)
        self.skip4 = BasicBlock(c3, c4, norm_name)
        self.bottom = BasicBlock(c4, hidden_size, norm_name)
        self.up4 = UpBlock(hidden_size, c4, norm_name)
        self.up3 = UpBlock(c4, c3, norm_name)
        self.up2 = UpBlock(c3, c2, norm_name)
        self.up1 = UpBlock(c2, c1, norm_name)
        self.last = BasicBlock(c1, c1, norm_name)
        self.out = UnetOutBlock(spatial_dims=3, in_channels=c1, out_channels=out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_tracing():  # a trace would record the check and warn of it
            self.check_input(x)
        x1, x2, x3, x4 = self.encoder(x)
        y = self.bottom(x4)
        y = self.up4(y, self.skip4(x3))
        y = self.up3(y, self.skip3(x2))
        y = self.up2(y, self.skip2(x1))
        y = self.up1(y, self.skip1(x))
        return self.out(self.last(y))

    def encoder_features(self, x: torch.Tensor) -> torch.Tensor:
        """The encoder's deepest map, (B, C, D/16, H/16, W/16)."""
        return self.encoder(x)[-1]


def _fast_norm(norm_name: NormName, channels: int) -> NormName:
    if norm_name == "instance":  # one channel per group is the same norm, and several times faster on a CPU
        return "group", {"num_groups": channels, "affine": False}
    return norm_name
