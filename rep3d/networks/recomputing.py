"""Activations that are given back after the forward pass and computed again in the backward pass.

A module that can do so has the flag `use_checkpoint`, as MONAI calls it, and a `recomputable` forward.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., torch.Tensor]


def recompute(network: nn.Module, enabled: bool = True) -> None:
    """Set the flag of every module of a network that can recompute; MONAI's SwinUNETR has such modules, too."""
    for module in network.modules():
        if isinstance(getattr(module, "use_checkpoint", None), bool):
            setattr(module, "use_checkpoint", enabled)  # noqa: B010, mypy takes attributes of modules for tensors


def recomputable(forward: Forward) -> Forward:
    """A module's `forward` that, while its `use_checkpoint` is set, keeps only its inputs for the backward pass.

    Where no batch norm couples the samples they are computed one after the other, so that backward holds the
    activations of one sample of one block. Running statistics of batch norms move once per step, as without it.
    `torch.jit.script` reads the plain `forward`.
    """

    @functools.wraps(forward)
    def forward_or_checkpoint(self: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if not (self.use_checkpoint and torch.is_grad_enabled()):
            return forward(self, *inputs)
        checkpointed = functools.partial(
            checkpoint,
            functools.partial(forward, self),
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(self)),
        )
        if _batch_norms(self):
            return checkpointed(*inputs)
        return torch.cat([checkpointed(*sample) for sample in zip(*(x.split(1) for x in inputs), strict=True)])

    return forward_or_checkpoint


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms inside leave their running statistics as they were."""
    norms = _batch_norms(module)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
