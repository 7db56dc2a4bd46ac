"""What a training was told otherwise than its bundle, so that whoever uses the weights needs not type it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rep3d.console.options import PATHS, running_config
from rep3d.files import read_json
from rep3d.shipped import settings_beside

logger = logging.getLogger(__name__)

OF_A_RUN = (*PATHS, "device", "traceback", "max_grid_bytes")  # not of the network, nor of what it sees


def told_otherwise(bundle_root: str | os.PathLike) -> dict[str, Any]:
    """The entries that inference shares with the running training, and that this one was told otherwise.

    Such as an overlay's `network_def`, or `--spacing`. Empty outside of a workflow.
    """
    config = running_config()
    if config is None:
        return {}
    train, inference = (read_json(Path(bundle_root) / "configs" / f"{name}.json") for name in ("train", "inference"))
    shared = [name for name in inference if name in train and inference[name] == train[name] and name not in OF_A_RUN]
    return {name: config[name] for name in shared if name in config and config[name] != train[name]}


def warn_of_other_settings(weights: str | os.PathLike | Sequence[str | os.PathLike]) -> None:
    """Say where the running inference computes otherwise than its weights were trained."""
    config = running_config()
    for path in [weights] if isinstance(weights, str | os.PathLike) else weights:
        settings = read_json(settings_beside(path))
        others = [name for name, value in settings.items() if config is not None and config.get(name) != value]
        if others:
            logger.warning(
                "%s was trained with other %s: lay %s over the config files",
                path,
                ", ".join(others),
                settings_beside(path),
            )
