"""Blocks that give back their activations after the forward pass and compute them again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class RecomputingMixin(nn.Module):
    """Put before a module class as `class X(RecomputingMixin, Y)`: keeps only the inputs of `forward` for backward.

    Running statistics of batch norms move once per step, as without it.
    """

    def forward(self, *args):
        if not torch.is_grad_enabled():
            return super().forward(*args)
        contexts = lambda: (contextlib.nullcontext(), frozen_statistics(self))  # noqa: E731
        return checkpoint(super().forward, *args, use_reentrant=False, context_fn=contexts)

    def stop_recomputing(self) -> None:
        """Turn this module into one of the class that the mixin was put before."""
        _, self.__class__ = type(self).__bases__


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms inside leave their running statistics as they were."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
