"""Blocks that give back their activations after the forward pass and compute them again in the backward pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class RecomputingMixin(nn.Module):
    """Put before a module class as `class X(RecomputingMixin, Y)`: keeps only the inputs of `forward` for backward.

    Where no batch norm couples the samples they are computed one after the other, so that backward holds the
    activations of one sample of one block. Running statistics of batch norms move once per step, as without it.
    """

    def forward(self, *args):
        if not torch.is_grad_enabled():
            return super().forward(*args)
        recompute = functools.partial(
            checkpoint,
            super().forward,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(self)),
        )
        if _batch_norms(self):
            return recompute(*args)
        return torch.cat([recompute(*sample) for sample in zip(*(arg.split(1) for arg in args), strict=True)])

    def stop_recomputing(self) -> None:
        """Turn this module into one of the class that the mixin was put before."""
        _, self.__class__ = type(self).__bases__


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
