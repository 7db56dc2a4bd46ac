"""Rep3D: a plain encoder of large depthwise kernels that a spatial mask modulates, and a U-shaped decoder.

The network of "Spatially-Adaptive Gradient Re-parameterization for 3D Large Kernel Optimization" (Lee et al., ICML
2026), https://arxiv.org/abs/2505.19603. Numbers in brackets are the paper's equations. The stem, the downsampling and
the decoder follow the released code, https://github.com/leeh43/Rep3D, as far as its outputs can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rep3d.networks.arguments import KERNEL_SIZES, check_choice, check_positive, check_stages
from rep3d.networks.depthwise import DeployableConv3d, like, refuse_folded
from rep3d.networks.lrbm import LRBM, FixedMask, check_generator
from rep3d.networks.recomputing import recomputable, recompute
from rep3d.networks.unetr_decoder import NormName, UnetrDecoderNetwork
from rep3d.networks.weights import check_finite
from rep3d.ops.depthwise_conv3d import depthwise_conv3d
from rep3d.ops.fft_conv import KernelSpectra

MODULATIONS = ("lrbm", "fixed", "none", "csla")
BLOCK_ORDERS = ("conv-norm-act", "norm-conv-act")
SMALL_KERNEL_SIZE = 3  # of the second branch of "csla" (Table 8)


class Rep3DBlock(nn.Module):
    """One large depthwise convolution, in the form that trains: (B, C, D, H, W) -> (B, C, D, H, W).

    "conv-norm-act" is GELU(BN(x * W_eff)), the released code; "norm-conv-act" is GELU(BN(x) * W_eff) [17].

    Args:
        channels: C.
        kernel_size: k, odd, 3 to 31.
        modulation: how W_eff comes from the parameters:
            "lrbm": W_eff = W M with a learnable mask [14-16];
            "fixed": W_eff = W P with P = 1 / (d + 1) [13];
            "none": W_eff = W;
            "csla": W_eff = W + pad(W_small), a large and a small kernel trained side by side [1-3], alpha = 1.
        generator_kernel_size: see `LRBM`.
        generator_depth: see `LRBM`.
        block_order: "conv-norm-act" or "norm-conv-act".
        conv_bias: the convolution has a bias, as in 3D RepUX-Net.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 21,
        modulation: str = "lrbm",
        generator_kernel_size: int = 7,
        generator_depth: int = 2,
        block_order: str = "conv-norm-act",
        conv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "channels": channels,
            "kernel_size": kernel_size,
            "modulation": modulation,
            "generator_kernel_size": generator_kernel_size,
            "generator_depth": generator_depth,
            "block_order": block_order,
            "conv_bias": conv_bias,
        }
        check_positive("channels", channels)
        check_choice("kernel_size", kernel_size, KERNEL_SIZES)
        check_choice("modulation", modulation, MODULATIONS)
        check_choice("block_order", block_order, BLOCK_ORDERS)
        check_generator(generator_kernel_size, generator_depth)
        self.use_checkpoint = False
        self.modulation = modulation
        self.block_order = block_order
        self.weight = nn.Parameter(_initial_kernel(channels, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels)) if conv_bias else None
        if modulation == "lrbm":
            self.mask: nn.Module = LRBM(channels, kernel_size, generator_kernel_size, generator_depth)
        elif modulation == "fixed":
            self.mask = FixedMask(kernel_size)
        elif modulation == "csla":
            self.small_weight = nn.Parameter(_initial_kernel(channels, SMALL_KERNEL_SIZE))
        self.norm = nn.BatchNorm3d(channels)

    def effective_kernel(self) -> torch.Tensor:
        """W_eff, (C, 1, k, k, k), float32 also under autocast: a low-precision mask would round W."""
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.modulation == "csla":
                margin = (self.weight.shape[-1] - SMALL_KERNEL_SIZE) // 2
                return self.weight + F.pad(self.small_weight, (margin,) * 6)  # [3]
            if self.modulation == "none":
                return self.weight
            return self.weight * self.mask().unsqueeze(1)  # [16]

    @recomputable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.block_order == "norm-conv-act":
            return F.gelu(depthwise_conv3d(self.norm(x), self.effective_kernel(), self.bias))  # [17]
        return F.gelu(self.norm(depthwise_conv3d(x, self.effective_kernel(), self.bias)))

    def small_kernels(self) -> set[str]:
        """Parameters that may have a learning rate of their own (Table 8)."""
        return {"small_weight"} if self.modulation == "csla" else set()

    def large_kernels(self) -> set[str]:
        """Parameters whose gradients may be scaled by element."""
        return {"weight"}

    def deployed(self) -> DeployedRep3DBlock:
        """The block that gives this one's outputs in eval mode, of the same type and on the same device."""
        deployed = DeployedRep3DBlock(**self.arguments).to(self.weight)
        deployed.eps = self.norm.eps
        deployed.load_state_dict(self.deployed_state())
        return like(self, deployed)

    def deployed_state(self) -> dict[str, torch.Tensor]:
        """State of the `DeployedRep3DBlock` that gives this block's outputs in eval mode, folded in float64."""
        kernel = self.effective_kernel().detach().double()
        norm = {name: tensor.detach().double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + self.norm.eps)
        shift = norm["bias"] - norm["running_mean"] * scale
        bias = None if self.bias is None else self.bias.detach().double()
        if self.block_order == "norm-conv-act":
            # Zero padding comes after the norm, so its shift is no constant bias of the convolution.
            state = {"kernel": kernel, "scale": scale, "shift": shift} | ({} if bias is None else {"bias": bias})
        else:
            bias = shift if bias is None else shift + bias * scale
            state = {"kernel": kernel * scale.view(-1, 1, 1, 1, 1), "bias": bias}
        folded = {name: tensor.to(self.weight.dtype) for name, tensor in state.items()}
        check_finite(folded, "a folded block of Rep3D")  # finite numbers may fold into one that is too large
        return folded

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        refuse_folded(state_dict, prefix, errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


class DeployedRep3DBlock(DeployableConv3d):
    """A `Rep3DBlock` with mask and BatchNorm folded away: one convolution with bias, and GELU.

    It takes the same arguments, and folds a state of the training form when it loads one.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        with torch.device("meta"):
            block = Rep3DBlock(**arguments)
        self.arguments = block.arguments  # checked and complete
        self.eps = block.norm.eps
        channels, kernel_size = self.arguments["channels"], self.arguments["kernel_size"]
        norm_first = self.arguments["block_order"] == "norm-conv-act"
        self.kernel = _unknown(channels, 1, kernel_size, kernel_size, kernel_size)
        self.padding = kernel_size // 2
        self.bias = _unknown(channels) if self.arguments["conv_bias"] or not norm_first else None
        self.scale = _unknown(channels) if norm_first else None
        self.shift = _unknown(channels) if norm_first else None
        self.spectra = KernelSpectra()
        self.loaded = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is not None and self.shift is not None:
            x = x * self.scale.view(-1, 1, 1, 1) + self.shift.view(-1, 1, 1, 1)
        return F.gelu(self.convolve(x))

    @torch.jit.unused
    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        own = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
        if "weight" in own:
            block = self._training_form(own["weight"])
            errors = block.load_state_dict(own, strict=False)
            if not errors.missing_keys and not errors.unexpected_keys:
                for name in own:
                    del state_dict[prefix + name]
                state_dict.update({prefix + name: tensor for name, tensor in block.deployed_state().items()})
            else:
                self.unload()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _training_form(self, weight: torch.Tensor) -> Rep3DBlock:
        """The block that folds a state with such a weight, in the higher precision of both and of float32."""
        dtype = torch.promote_types(torch.promote_types(weight.dtype, self.kernel.dtype), torch.float32)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the caller's random numbers stay what they are
            block = Rep3DBlock(**self.arguments)
        block.norm.eps = self.eps
        return block.to(weight.device, dtype)


def _unknown(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, torch.nan))


def _initial_kernel(channels: int, kernel_size: int) -> torch.Tensor:
    """(C, 1, k, k, k), drawn as `torch.nn.Conv3d` does."""
    return nn.Conv3d(channels, channels, kernel_size, groups=channels, bias=False).weight.detach()


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each voxel: (B, C, D, H, W) -> (B, C, D, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1).contiguous()


class Rep3DEncoder(nn.Module):
    """Four stages of Rep3D blocks: (B, C_in, D, H, W) -> maps of 1/2, 1/4, 1/8 and 1/16 of the size.

    Args:
        in_channels: C_in.
        feature_size: channels per stage.
        depths: blocks per stage.
        block: class of the blocks.
        block_arguments: passed on to every block.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size: Sequence[int],
        depths: Sequence[int],
        block: Callable[..., nn.Module],
        **block_arguments,
    ) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        check_stages("feature_size", feature_size)
        check_stages("depths", depths)
        stem = nn.Sequential(
            nn.Conv3d(in_channels, feature_size[0], 7, stride=2, padding=3), ChannelNorm(feature_size[0])
        )
        self.downsamples = nn.ModuleList([stem])
        for before, after in zip(feature_size[:-1], feature_size[1:], strict=True):
            self.downsamples.append(nn.Sequential(ChannelNorm(before), nn.Conv3d(before, after, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(block(channels=channels, **block_arguments) for _ in range(depth)))
            for channels, depth in zip(feature_size, depths, strict=True)
        )
        self.norms = nn.ModuleList(ChannelNorm(channels) for channels in feature_size)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        for downsample, stage, norm in zip(self.downsamples, self.stages, self.norms):  # noqa: B905, not scriptable
            x = stage(downsample(x))
            maps.append(norm(x))
        return maps


class Rep3D(UnetrDecoderNetwork):
    """Rep3D segmentation network: (B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W).

    Every axis of the input must be a multiple of 16. Scripting it with `torch.jit.script` gives its deployed form.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        feature_size: channels per encoder stage (Table 5).
        depths: blocks per encoder stage.
        hidden_size: channels at the bottom of the decoder (Table 5).
        kernel_size: edge of the large depthwise kernels in voxels, odd, 3 to 31.
        modulation: "lrbm", "fixed", "none" or "csla", see `Rep3DBlock`.
        generator_kernel_size: of the mask's generator, 1, 3, 5 or 7 (Table 3).
        generator_depth: layers of the mask's generator, 1, 2 or 3 (Table 9).
        block_order: "conv-norm-act" (released code) or "norm-conv-act" (equation 17).
        conv_bias: the large convolutions have a bias; with `modulation="fixed"` it is 3D RepUX-Net (Lee et al., MICCAI
            2023), https://arxiv.org/abs/2303.05785.
        norm_name: normalization of the decoder, as in `monai.networks.layers.get_norm_layer`.
        deploy: build the folded form for inference. It loads checkpoints of either form.
        use_checkpoint: keep only the inputs of the blocks for the backward pass, which computes the rest again: less
            memory, more time, the same numbers.

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
        kernel_size: int = 21,
        modulation: str = "lrbm",
        generator_kernel_size: int = 7,
        generator_depth: int = 2,
        block_order: str = "conv-norm-act",
        conv_bias: bool = False,
        norm_name: NormName = "instance",
        deploy: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        encoder = Rep3DEncoder(
            in_channels,
            feature_size,
            depths,
            DeployedRep3DBlock if deploy else Rep3DBlock,
            kernel_size=kernel_size,
            modulation=modulation,
            generator_kernel_size=generator_kernel_size,
            generator_depth=generator_depth,
            block_order=block_order,
            conv_bias=conv_bias,
        )
        super().__init__(encoder, in_channels, out_channels, feature_size, hidden_size, norm_name)
        recompute(self, use_checkpoint and not deploy)
        self.deploy = deploy
