"""The running `monai.bundle` workflow, as the expressions of its configuration find it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from monai.bundle import ConfigWorkflow


def running_config() -> dict[str, Any] | None:
    """The unresolved configuration of the running `monai.bundle` workflow, with what was typed; None outside of one."""
    workflow = running_workflow()
    config: Any = None if workflow is None else workflow.parser.config
    return config


def running_workflow() -> ConfigWorkflow | None:
    """The workflow whose `initialize` calls us; MONAI gives expressions no other way to it."""
    owners = (frame.f_locals.get("self") for frame in frames())
    return next((owner for owner in owners if isinstance(owner, ConfigWorkflow)), None)


def frames() -> Iterator[FrameType]:
    """The calls that lead here, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
