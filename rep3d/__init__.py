"""Rep3D for MONAI: large-kernel 3D segmentation networks that train.

The modules serve the bundles' configs, which reach them as `rep3d.data`, `rep3d.training` and so on.
"""

from rep3d import (
    checkpoints,
    checks,
    data,
    errors,
    inference,
    inferers,
    logs,
    options,
    tensorboard,
    training,
    transforms,
)
from rep3d.deploy import convert_official_state_dict, reparameterize
from rep3d.networks.rep3d import Rep3D
from rep3d.ops.depthwise_conv3d import depthwise_conv3d

__all__ = [
    "Rep3D",
    "checkpoints",
    "checks",
    "convert_official_state_dict",
    "data",
    "depthwise_conv3d",
    "errors",
    "inference",
    "inferers",
    "logs",
    "options",
    "reparameterize",
    "tensorboard",
    "training",
    "transforms",
]
