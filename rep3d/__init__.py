"""Rep3D for MONAI: large-kernel 3D segmentation networks that train.

The bundles' configs reach what they call as `rep3d.data`, `rep3d.training` and so on.
"""

import importlib
import warnings
from types import ModuleType
from typing import Any

from rep3d import console, data, evaluation, inference, inferers, interactive, io, locks, training, transforms
from rep3d.deploy import convert_official_state_dict, reparameterize
from rep3d.networks.rep3d import Rep3D
from rep3d.ops.depthwise_conv3d import depthwise_conv3d

__all__ = [
    "Rep3D",
    "console",
    "convert_official_state_dict",
    "data",
    "depthwise_conv3d",
    "evaluation",
    "inference",
    "inferers",
    "interactive",
    "io",
    "locks",
    "reparameterize",
    "training",
    "transforms",
]

# Where the configs of version 0.1.0, packed bundles among them, look for what has moved since; until 0.3.
_MOVED = {
    "cases": "data",
    "checkpoints": "training",
    "checks": "data",
    "errors": "console",
    "leakage": "data",
    "logs": "console",
    "options": "console",
    "scores": "evaluation",
    "splits": "data",
    "tensorboard": "training",
}


def _tell_moved(old: str, new: str) -> None:
    warnings.warn(f"rep3d.{old} is now rep3d.{new}: render or pack the bundle anew", FutureWarning, stacklevel=3)


def __getattr__(name: str) -> ModuleType:
    if name not in _MOVED:
        raise AttributeError(f"module 'rep3d' has no attribute {name!r}")
    _tell_moved(name, _MOVED[name])
    return importlib.import_module(f"rep3d.{_MOVED[name]}")


def _score_each(*args: Any, **kwargs: Any) -> None:
    _tell_moved("inference.score_each", "evaluation.score_each")
    evaluation.score_each(*args, **kwargs)


vars(inference)["score_each"] = _score_each
