"""MedNeXt-v2: MedNeXt with a global response normalization in each block, kernels of 3 voxels, and more channels.

"MedNeXt-v2: Scaling 3D ConvNeXts for Large-Scale Supervised Representation Learning in Medical Image Segmentation" (Roy
et al., 2025), https://arxiv.org/abs/2512.17774. Its code and weights are announced for nnU-Net's repository and not yet
there; the normalization is that of the authors' earlier code, https://github.com/MIC-DKFZ/MedNeXt (`grn=True`).
"""

from __future__ import annotations

import torch
from torch import nn

from rep3d.networks.mednext import MedNeXt


class GlobalResponseNorm(nn.Module):
    """x + gamma x n + beta, where n is a channel's norm over the voxels in units of the channels' mean.

    Equations 1-3 of "ConvNeXt V2" (Woo et al., CVPR 2023), https://arxiv.org/abs/2301.00808, in three dimensions:
    (B, C, D, H, W) -> (B, C, D, H, W). It starts as the identity.

    Args:
        channels: C.
        eps: added to the mean.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True)
        n = norm / (norm.mean(dim=1, keepdim=True) + self.eps)
        return x + self.gamma.view(-1, 1, 1, 1) * x * n + self.beta.view(-1, 1, 1, 1)


class MedNeXtV2(MedNeXt):
    """MedNeXt-v2: (B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W), see `MedNeXt`.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        size: depths and expansion ratios (paper: those of MedNeXt L).
        init_filters: channels at the full size (paper: 32, and 64 for the wide one).
        deep_supervision: as of `MedNeXt`.
        use_checkpoint: as of `MedNeXt`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: str = "L",
        init_filters: int = 32,
        deep_supervision: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            size=size,
            init_filters=init_filters,
            kernel_size=3,
            deep_supervision=deep_supervision,
            response=GlobalResponseNorm,
            use_checkpoint=use_checkpoint,
        )
