"""What our networks share: they check their inputs and their weights, and script as their deployed form."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rep3d.networks.arguments import check_positive
from rep3d.networks.capabilities import folded, named_parameters_of
from rep3d.networks.depthwise import DeployableConv3d
from rep3d.networks.weights import check_finite, differences
from rep3d.precision import stop_checking


class SegmentationNetwork(nn.Module):
    """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W). Abstract: a family's class has `forward`.

    Every axis of the input must be a multiple of 16. Scripting it with `torch.jit.script` gives its deployed form.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.

    Raises:
        ValueError: an argument out of its range.
    """

    deploy = False  # whether it was built folded

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.divisor = 16  # voxels: every axis of an input is a multiple of it

    def check_input(self, x: torch.Tensor) -> None:
        n = self.divisor
        if x.dim() != 5 or x.shape[0] == 0 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must have the shape (B, {self.in_channels}, D, H, W), got {list(x.shape)}")
        if x.shape[2] % n != 0 or x.shape[3] % n != 0 or x.shape[4] % n != 0 or x[0, 0].numel() <= n**3:
            raise ValueError(
                f"every axis of x must be a multiple of {n} voxels, and x larger than {n}x{n}x{n};"
                f" got {list(x.shape[2:])}"
            )

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """As of `torch.nn.Module`.

        Raises:
            NonFiniteWeights: names the tensors.
            ValueError: the kernels would stay those of before, beside new weights for all else.
            RuntimeError: the weights are of another network; names both in one line.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError:
            if self.deploy:
                raise
            others = [name for name, value in state_dict.items() if not isinstance(value, torch.Tensor)]
            if others:
                told = f"entries that are no tensors, such as {others[0]!r}; expected those of a network"
                raise RuntimeError(f"the state_dict holds {told}") from None
            told = differences(state_dict, self.state_dict())
            if not told:
                raise
            raise RuntimeError(f"the state_dict is of another network: {told}") from None

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # What was never loaded is NaN, and some loaders hand a network's own tensors back to it.
        own = {tensor.data_ptr() for tensor in self.state_dict().values()}
        tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
        others = {name: tensor for name, tensor in tensors.items() if tensor.data_ptr() not in own}
        check_finite(others, type(self).__name__)
        if others:  # a deployed network is of one checkpoint: what this one does not bring is of none
            new = {name.removeprefix(prefix) for name in others}
            self._refuse_mixture(new, kept={name.removeprefix(prefix) for name in tensors} - new)
            for module in self.modules():
                if isinstance(module, DeployableConv3d):
                    module.unload()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _refuse_mixture(self, new: set[str], kept: set[str]) -> None:
        """Some loaders fill a checkpoint up with a network's own tensors, such as MONAI's `copy_model_state`.

        Args:
            new: names of the checkpoint's tensors.
            kept: names of the network's own.

        Raises:
            ValueError: a deployed network would keep kernels of an earlier checkpoint, or one that trains its own
                kernels beside all else of a deployed one, whose kernels have other names.
        """
        kind = type(self).__name__
        modules = dict(self.named_modules())
        owners = {name: modules.get(name.rpartition(".")[0]) for name in sorted(kept)}
        lacking = [
            name for name, owner in owners.items() if isinstance(owner, DeployableConv3d) and owner.is_deployed()
        ]
        if lacking:
            told = f"the weights lack {lacking[0]} and {len(lacking) - 1} other(s) of its kernels and biases"
            raise ValueError(f"a deployed {kind} takes whole checkpoints: {told}")
        kernels = sorted(name for name in named_parameters_of(self, "large_kernels") if name.endswith(".weight"))
        blocks = tuple(name.removesuffix("weight") for name in kernels)
        in_blocks = {name for name in new if name.startswith(blocks)}
        around = any(name.startswith("encoder.") for name in new - in_blocks)
        if blocks and kept.issuperset(kernels) and around and in_blocks <= {f"{block}bias" for block in blocks}:
            told = f"lack {kernels[0]}, as those of a deployed network do, and have what stands around it"
            raise ValueError(f"the weights for a {kind} that trains {told}: expected weights that train")

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` reads: a folded copy without hooks."""
        scriptable = copy.deepcopy(self)
        stop_checking(scriptable)
        return folded(scriptable)
