"""Depthwise convolutions by `rep3d.depthwise_conv3d` as modules, plain and with a mask on the kernel."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from rep3d.networks.arguments import KERNEL_SIZES, check_choice, check_positive
from rep3d.ops.depthwise_conv3d import depthwise_conv3d
from rep3d.ops.fft_conv import KernelSpectra

RESAMPLINGS = ("none", "down", "up")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class DeployableConv3d(nn.Module):
    """Abstract: a convolution with `kernel` (C, 1, k, k, k) and `bias` that trains, or is deployed.

    Deployed, it keeps the spectra of its kernel for the last input sizes, and all its weights are of one checkpoint.
    Before they were loaded, and where a later load left some of them out, they are NaN and `convolve` raises: loaders
    that skip names would otherwise leave kernels of another network without a word.
    """

    __jit_ignored_attributes__ = ["spectra"]

    if TYPE_CHECKING:  # `torch.jit.script` would read these and not know them
        kernel: torch.Tensor
        bias: torch.Tensor | None
        padding: int
        spectra: KernelSpectra | None  # only where it is deployed
        loaded: bool

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        if not self.loaded:
            raise RuntimeError(
                "the kernels of this deployed network were never loaded, or left out when others were: load a whole"
                " checkpoint first"
            )
        if torch.jit.is_scripting():
            return F.conv3d(x, self.kernel, self.bias, padding=self.padding, groups=self.kernel.shape[0])
        return depthwise_conv3d(x, self.kernel, self.bias, spectra=self.spectra)

    @torch.jit.unused
    def is_deployed(self) -> bool:
        return self.spectra is not None

    @torch.jit.unused
    def unload(self) -> None:
        """Forget the weights, where it is deployed."""
        if self.is_deployed():
            self.loaded = False
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(torch.nan)

    @torch.jit.unused
    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        brought = [prefix + name in state_dict for name, _ in self.named_parameters()]
        if any(brought) and not all(brought):
            self.unload()
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.is_deployed():
            self.loaded = not any(bool(parameter.isnan().any()) for parameter in self.parameters())


class DepthwiseConv3d(DeployableConv3d):
    """With a bias: (B, C, D, H, W) -> (B, C, D, H, W).

    Args:
        channels: C.
        kernel_size: k, odd, 3 to 31.
        resampling: "none"; "down", with stride 2, to half the size, rounded up; or "up", with stride 2 and transposed,
            to one voxel less than twice the size.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, channels: int, kernel_size: int, resampling: str = "none") -> None:
        super().__init__()
        check_positive("channels", channels)
        check_choice("resampling", resampling, RESAMPLINGS)
        check_choice("kernel_size", kernel_size, KERNEL_SIZES)
        conv = nn.Conv3d(channels, channels, kernel_size, groups=channels)
        self.kernel, self.bias = conv.weight, conv.bias
        self.padding = kernel_size // 2
        self.resampling = resampling
        self.spectra = None
        self.loaded = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.resampling == "up":
            x = _spread(x)
        y = self.convolve(x)
        return y[:, :, ::2, ::2, ::2] if self.resampling == "down" else y

    def large_kernels(self) -> set[str]:
        """Parameters whose gradients may be scaled by element."""
        return {"kernel"}

    def deployed(self) -> DepthwiseConv3d:
        """A copy that keeps the spectra of its kernel for the last input sizes."""
        deployed = copy.deepcopy(self)
        deployed.spectra = KernelSpectra()
        return deployed


class MaskedDepthwiseConv3d(nn.Module):
    """`DepthwiseConv3d` with the kernel W M, in the form that trains.

    Args:
        channels: C.
        kernel_size: k, odd, 3 to 31.
        mask: () -> M, (C or 1, k, k, k), such as an `LRBM`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, channels: int, kernel_size: int, mask: nn.Module) -> None:
        super().__init__()
        conv = DepthwiseConv3d(channels, kernel_size)
        self.weight, self.bias = conv.kernel, conv.bias
        self.mask = mask

    def effective_kernel(self) -> torch.Tensor:
        """W M, (C, 1, k, k, k), float32 also under autocast: a low-precision mask would round W."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight * self.mask().unsqueeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return depthwise_conv3d(x, self.effective_kernel(), self.bias)

    def large_kernels(self) -> set[str]:
        """Parameters whose gradients may be scaled by element."""
        return {"weight"}

    def deployed(self) -> DepthwiseConv3d:
        """The convolution that gives this one's outputs, of the same type and on the same device."""
        with torch.device("meta"):  # no random number is drawn
            deployed = DepthwiseConv3d(self.weight.shape[0], self.weight.shape[-1])
        deployed = deployed.to(self.weight.dtype).to_empty(device=self.weight.device)
        deployed.load_state_dict({"kernel": self.effective_kernel(), "bias": self.bias})
        deployed.spectra = KernelSpectra()
        return like(self, deployed)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        refuse_folded(state_dict, prefix, errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


def like(trained: nn.Module, deployed: ModuleT) -> ModuleT:
    """`deployed` in the mode of `trained`, and frozen where that is."""
    deployed.requires_grad_(any(parameter.requires_grad for parameter in trained.parameters()))
    return deployed.train(trained.training)


def refuse_folded(state_dict: Mapping[str, torch.Tensor], prefix: str, errors: list[str]) -> None:
    """A module that trains cannot take a folded kernel; loaders that skip names would leave its own, random one."""
    if prefix + "kernel" in state_dict:
        errors.append(f"{prefix}kernel is the folded kernel of a deployed network: expected weights that train")


def _spread(x: torch.Tensor) -> torch.Tensor:
    """Zeros between the voxels, as a transposed convolution sees them: (B, C, D, H, W) -> (B, C, 2D-1, 2H-1, 2W-1)."""
    x = F.pad(x[:, :, :, None, :, None, :, None], (0, 1, 0, 0, 0, 1, 0, 0, 0, 1))
    return x.flatten(6).flatten(4, 5).flatten(2, 3)[:, :, :-1, :-1, :-1]
