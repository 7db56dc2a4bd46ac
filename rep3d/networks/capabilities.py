"""What networks and their modules may say of themselves, and what is taken where they say nothing.

Of a module:
    deployed() -> Module: its form for inference, see `folded` below.
    use_checkpoint: bool, whether it recomputes its activations, see `rep3d.networks.recomputing`.
    no_weight_decay() -> set of parameter names, as in timm, see `rep3d.training.parameter_groups`.
    small_kernels() -> set of parameter names, likewise.
    large_kernels() -> set of parameter names, see `rep3d.training.scale_gradients`.
Of a network:
    encoder_features(x) -> (B, C, d, h, w): its deepest map, see `encoder_features` below.
    forward(x) in training mode -> a list of logits under deep supervision, those of the full size first; in eval mode
        these alone.
    divisor: voxels, of which an input's edges are multiples, see `rep3d.networks.input_sizes`.
    check_input(x): raises ValueError for an x that it does not take, likewise.
    out_channels: of its logits; counts beside a check_input of its own, likewise.
"""

from __future__ import annotations

import torch
from torch import nn


def folded(module: nn.Module, known: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """The module with every part that has `deployed` replaced, in place, by what that returns.

    Args:
        module: itself replaced where it has `deployed`.
        known: what parts have become so far, so that one that stands in several places stays one.
    """
    known = {} if known is None else known
    if module not in known:
        fold = getattr(type(module), "deployed", None)
        known[module] = fold(module) if fold else module
        children = {} if fold else module._modules  # `named_children` leaves out what stands there twice
        for name, child in children.items():
            if child is not None:
                setattr(module, name, folded(child, known))
    return known[module]


def named_parameters_of(network: nn.Module, method: str) -> set[str]:
    """Full names of the parameters that the network's modules name by a method, such as "no_weight_decay"."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if hasattr(type(module), method)
        for name in getattr(module, method)()
    }


def encoder_features(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What tells images apart to a network: the mean over the voxels of its deepest map, (B, C), float32.

    Where the network has no `encoder_features` of its own, all its modules are watched during `network(x)`. The deepest
    map is then the output with the fewest voxels, the last of several: mostly the one that the decoder starts from.
    Outputs count that are maps (B, C, d, h, w) or tokens (B, N, C), of more than one voxel or token.

    Args:
        network: any network for x.
        x: (B, C_in, D, H, W).

    Raises:
        ValueError: the network puts out no such map.
    """
    own_features = getattr(type(network), "encoder_features", None)
    if own_features is not None:
        return own_features(network, x).float().mean((2, 3, 4))
    deepest: list[torch.Tensor] = []  # (B, C, N)

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        features = _as_features(output, len(x))
        if features is not None and (not deepest or features.shape[2] <= deepest[0].shape[2]):
            deepest[:] = [features]

    hooks = [module.register_forward_hook(watch) for module in network.modules()]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not deepest:
        raise ValueError(f"{type(network).__name__} puts out no feature map (B, C, D, H, W) for {list(x.shape)}")
    return deepest[0].float().mean(2)


def _as_features(output: object, batch: int) -> torch.Tensor | None:
    """(B, C, N) of a map or of tokens; None of anything else, and of what was averaged to a single voxel."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 5) or len(output) != batch:
        return None
    features = output.flatten(2) if output.ndim == 5 else output.movedim(1, 2)
    return features if features.shape[2] > 1 else None
