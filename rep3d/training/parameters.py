"""Which parameters an optimizer treats alike."""

from __future__ import annotations

import re

from torch import nn

from rep3d.networks.capabilities import named_parameters_of

# Parameters by names that transformers use, such as relative_position_bias_table, pos_embed and rel_pos_arr.0.
POSITION_TABLE = re.compile(r"(^|[._])pos(ition(al)?)?_\w+(\.\d+)?$")


def parameter_groups(
    network: nn.Module, *, weight_decay: float = 0.08, small_kernel_lr: float | None = None
) -> list[dict]:
    """Parameter groups for an optimizer such as `torch.optim.AdamW`.

    Weight decay (paper Table 5) acts on kernels only. None have what has at most one axis (biases, normalizations and
    beta), tables of positions, and what a module names by `no_weight_decay()`, as in timm.

    Args:
        network: the network to train; its modules may name parameters, see `rep3d.networks.capabilities`.
        weight_decay: of all kernels.
        small_kernel_lr: learning rate of the small branch of `modulation="csla"` (paper Table 8: 1.5 to 3 times that of
            the large one). None: that of the optimizer.

    Raises:
        ValueError: `small_kernel_lr` is given and the network has no small branch.
    """
    small_kernels = named_parameters_of(network, "small_kernels")
    undecayed = named_parameters_of(network, "no_weight_decay")
    small, kernels, others = [], [], []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in small_kernels:
            small.append(parameter)
        elif parameter.ndim <= 1 or name in undecayed or POSITION_TABLE.search(name):
            others.append(parameter)
        else:
            kernels.append(parameter)
    groups: list[dict] = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if small_kernel_lr is not None and not small:
        raise ValueError(f'small_kernel_lr is {small_kernel_lr}, but the network has no small branch ("csla")')
    if small:
        groups.append({"params": small, "weight_decay": weight_decay})
        if small_kernel_lr is not None:
            groups[-1] |= {"lr": small_kernel_lr, "rate_name": "small_kernel_lr"}
    return groups
