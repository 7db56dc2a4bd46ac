"""This process among those that compute together, as `torchrun` starts them."""

from __future__ import annotations

import torch.distributed as dist


def is_distributed() -> bool:
    """Whether there are others, of which some may wait for this one; PyTorch may come without its part for that."""
    return dist.is_available() and dist.is_initialized()


def is_first_process() -> bool:
    """Whether this is the one that writes and prints."""
    return not is_distributed() or dist.get_rank() == 0
