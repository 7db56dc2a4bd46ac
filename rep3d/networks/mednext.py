"""MedNeXt: a U-Net of inverted bottlenecks with depthwise kernels, in its up- and downsampling as well.

"MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation" (Roy et al., MICCAI 2023),
https://arxiv.org/abs/2303.09975. MONAI's class of that name expands less in the down blocks of B, M and L.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from rep3d.networks.arguments import check_choice, check_positive
from rep3d.networks.depthwise import DepthwiseConv3d
from rep3d.networks.recomputing import recomputable, recompute
from rep3d.networks.segmentation_network import SegmentationNetwork

STAGES = 4  # of the encoder and of the decoder, each; the bottleneck is between them


class Size(NamedTuple):
    """For the encoder's stages from the finest on, the bottleneck, and the decoder's stages from the coarsest on."""

    expansion_ratios: tuple[int, ...]
    block_counts: tuple[int, ...]


SIZES = {
    "S": Size((2, 2, 2, 2, 2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 2, 2, 2)),
    "B": Size((2, 3, 4, 4, 4, 4, 4, 3, 2), (2, 2, 2, 2, 2, 2, 2, 2, 2)),
    "M": Size((2, 3, 4, 4, 4, 4, 4, 3, 2), (3, 4, 4, 4, 4, 4, 4, 4, 3)),
    "L": Size((3, 4, 8, 8, 8, 8, 8, 4, 3), (3, 4, 8, 8, 8, 8, 8, 4, 3)),
}
Response = Callable[[int], nn.Module]


class MedNeXtBlock(nn.Module):
    """skip(x) + project(response(GELU(expand(norm(conv(x)))))): (B, C_in, D, H, W) -> (B, C_out, D, H, W).

    "down" halves the size: the convolution and the skip have stride 2. "up" doubles it: both are transposed and
    give one voxel less, so that the first plane of each axis is zero.

    Args:
        in_channels, out_channels: C_in and C_out; they are equal without resampling.
        expansion_ratio: of the channels between `expand` and `project` to C_in.
        kernel_size: k, odd, 3 to 31.
        resampling: "none", "down" or "up".
        response: (channels) -> what follows the GELU.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion_ratio: int,
        kernel_size: int,
        resampling: str = "none",
        response: Response = nn.Identity,
    ) -> None:
        super().__init__()
        self.use_checkpoint = False
        self.conv = DepthwiseConv3d(in_channels, kernel_size, resampling)
        self.norm = nn.GroupNorm(in_channels, in_channels)
        self.expand = nn.Conv3d(in_channels, expansion_ratio * in_channels, 1)
        self.activation = nn.GELU()
        self.response = response(expansion_ratio * in_channels)
        self.project = nn.Conv3d(expansion_ratio * in_channels, out_channels, 1)
        if resampling == "down":
            self.skip: nn.Module = nn.Conv3d(in_channels, out_channels, 1, stride=2)
        elif resampling == "up":
            self.skip = nn.ConvTranspose3d(in_channels, out_channels, 1, stride=2)
        else:
            self.skip = nn.Identity()
        self.pad = nn.ConstantPad3d((1, 0, 1, 0, 1, 0), 0.0) if resampling == "up" else nn.Identity()

    @recomputable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.response(self.activation(self.expand(self.norm(self.conv(x))))))
        return self.pad(self.skip(x) + y)


class MedNeXt(SegmentationNetwork):
    """MedNeXt: (B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W).

    With deep supervision it gives, in training mode, a list of logits: of the full size, and of 1/2, 1/4, 1/8 and
    1/16 of it. Every axis of the input must be a multiple of 16.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        size: "S", "B", "M" or "L" of the paper, see `SIZES`.
        init_filters: channels at the full size; each stage doubles them.
        kernel_size: edge of the depthwise kernels in voxels, odd, 3 to 31 (paper: 3 and 5).
        deep_supervision: see above.
        response: what follows the GELU of each block, see `MedNeXtBlock`.
        use_checkpoint: keep only the inputs of the blocks for the backward pass, as in `Rep3D`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: str = "S",
        init_filters: int = 32,
        kernel_size: int = 3,
        deep_supervision: bool = False,
        response: Response = nn.Identity,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels)
        check_choice("size", size, list(SIZES))
        check_positive("init_filters", init_filters)
        channels = [init_filters * 2**stage for stage in range(STAGES + 1)]
        channels += channels[-2::-1]
        ratios, counts = SIZES[size]

        def block(stage: int, before: int, resampling: str = "none") -> MedNeXtBlock:
            return MedNeXtBlock(
                channels[before], channels[stage], ratios[stage], kernel_size, resampling, response=response
            )

        stages = [nn.Sequential(*(block(i, i) for _ in range(count))) for i, count in enumerate(counts)]
        self.stem = nn.Conv3d(in_channels, init_filters, 1)
        self.encoder = nn.ModuleList(stages[:STAGES])
        self.downs = nn.ModuleList(block(i + 1, i, "down") for i in range(STAGES))
        self.bottleneck = stages[STAGES]
        self.ups = nn.ModuleList(block(i + 1, i, "up") for i in range(STAGES, 2 * STAGES))
        self.decoder = nn.ModuleList(stages[STAGES + 1 :])
        heads = STAGES + 1 if deep_supervision else 1
        self.heads = nn.ModuleList(nn.Conv3d(c, out_channels, 1) for c in channels[:heads])  # the full size first
        self.deep_supervision = deep_supervision
        recompute(self, use_checkpoint)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_tracing():  # a trace would record the check and warn of it
            self.check_input(x)
        x, skips = self.encode(x)
        maps = [x]
        for up, stage in zip(self.ups, self.decoder):  # noqa: B905, not scriptable
            maps.append(stage(up(maps[-1]) + skips.pop()))
        if not torch.jit.is_scripting():
            if self.training and self.deep_supervision:
                return [head(x) for head, x in zip(self.heads, reversed(maps), strict=True)]  # type: ignore[return-value]
        return self.heads[0](maps[-1])

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The bottleneck's map, (B, 16 C, D/16, H/16, W/16), and those that skip to the decoder, the finest first."""
        x = self.stem(x)
        skips: list[torch.Tensor] = []
        for stage, down in zip(self.encoder, self.downs):  # noqa: B905, not scriptable
            x = stage(x)
            skips.append(x)
            x = down(x)
        return self.bottleneck(x), skips

    def encoder_features(self, x: torch.Tensor) -> torch.Tensor:
        """The bottleneck's map, (B, 16 C, D/16, H/16, W/16)."""
        return self.encode(x)[0]
