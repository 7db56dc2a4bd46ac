"""Fold trained networks into their inference form."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from rep3d.networks.capabilities import folded
from rep3d.networks.recomputing import recompute
from rep3d.precision import stop_checking

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def reparameterize(model: ModuleT) -> ModuleT:
    """A deployed copy of `model`: in place of every module with a method `deployed` stands what that returns.

    A `Rep3DBlock` folds mask and BatchNorm into one convolution; the outputs equal those of `model` in eval mode. A
    network of other modules is copied as it is. The argument is left as it was.
    """
    deployed = copy.deepcopy(model)
    stop_checking(deployed)
    recompute(deployed, False)
    return folded(deployed)  # type: ignore[return-value]
