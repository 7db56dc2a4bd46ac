"""nnU-Net's networks, with deep supervision in training and full resolution in evaluation.

"nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation" (Isensee et al., Nature
Methods 2021) and "nnU-Net Revisited" (Isensee et al., MICCAI 2024), https://arxiv.org/abs/2404.09556. The networks are
those of its authors' package dynamic-network-architectures (Apache-2.0), which the extra "baselines" brings.
"""

from __future__ import annotations

from typing import Any, TypeVar

from dynamic_network_architectures.architectures import unet

SelfT = TypeVar("SelfT", bound="DeeplySupervised")


class DeeplySupervised:
    """Logits of every scale, the full size first, in training mode; those of the full size alone in eval mode.

    Weights start as in nnU-Net.

    Args:
        deep_supervision: False: those of the full size alone in training, too.
        others: as of the package's network.
    """

    def __init__(self, *args: Any, deep_supervision: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deep_supervision = deep_supervision
        self.apply(self.initialize)  # type: ignore[attr-defined]
        self.train()

    def train(self: SelfT, mode: bool = True) -> SelfT:
        self.decoder.deep_supervision = mode and self.deep_supervision  # type: ignore[attr-defined]
        return super().train(mode)  # type: ignore[misc]


class PlainConvUNet(DeeplySupervised, unet.PlainConvUNet):
    """nnU-Net's network of plain convolutions."""


class ResidualEncoderUNet(DeeplySupervised, unet.ResidualEncoderUNet):
    """nnU-Net's network with a residual encoder."""
