"""Rep3D for MONAI: large-kernel 3D segmentation networks that train.

The bundles' configs reach what they call as `rep3d.data`, `rep3d.training` and so on. Each is imported with its first
use: a command that prints its help, or refuses an option, needs neither torch nor MONAI.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rep3d import (
        console,
        corrections,
        data,
        evaluation,
        inference,
        inferers,
        interactive,
        io,
        locks,
        predictions,
        training,
        transforms,
    )
    from rep3d.deploy import reparameterize
    from rep3d.networks.mednext import MedNeXt
    from rep3d.networks.mednext_v2 import MedNeXtV2
    from rep3d.networks.nnunet import PlainConvUNet, ResidualEncoderUNet
    from rep3d.networks.released import convert_official_state_dict
    from rep3d.networks.rep3d import Rep3D
    from rep3d.networks.upkern import upkern
    from rep3d.networks.uxnet import UXNet
    from rep3d.ops.depthwise_conv3d import depthwise_conv3d

__all__ = [
    "MedNeXt",
    "MedNeXtV2",
    "PlainConvUNet",
    "Rep3D",
    "ResidualEncoderUNet",
    "UXNet",
    "console",
    "convert_official_state_dict",
    "corrections",
    "data",
    "depthwise_conv3d",
    "evaluation",
    "inference",
    "inferers",
    "interactive",
    "io",
    "locks",
    "predictions",
    "reparameterize",
    "training",
    "transforms",
    "upkern",
]

_HOMES = {
    "MedNeXt": "networks.mednext",
    "MedNeXtV2": "networks.mednext_v2",
    "PlainConvUNet": "networks.nnunet",
    "Rep3D": "networks.rep3d",
    "ResidualEncoderUNet": "networks.nnunet",
    "UXNet": "networks.uxnet",
    "convert_official_state_dict": "networks.released",
    "depthwise_conv3d": "ops.depthwise_conv3d",
    "reparameterize": "deploy",
    "upkern": "networks.upkern",
}

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"rep3d.{_HOMES[name]}"), name)
    if name in _MOVED:
        _tell_moved(name, _MOVED[name])
        return importlib.import_module(f"rep3d.{_MOVED[name]}")
    if name in __all__:
        return importlib.import_module(f"rep3d.{name}")
    raise AttributeError(f"module 'rep3d' has no attribute {name!r}")


def _score_each(*args: Any, **kwargs: Any) -> None:
    _tell_moved("inference.score_each", "evaluation.score_each")
    importlib.import_module("rep3d.evaluation").score_each(*args, **kwargs)
