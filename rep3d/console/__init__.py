"""What a run says and is told: errors in a line, a log, progress, and the options that were typed.

What bundles' options need of torch and MONAI is imported with its first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rep3d.console.errors import show_errors_briefly
from rep3d.console.logs import filter_noise, start_log

if TYPE_CHECKING:
    from rep3d.console.options import (
        check_options,
        check_started,
        leave_to_load,
        refuse_moved_ablation,
        refuse_training_options,
    )

__all__ = [
    "check_options",
    "check_started",
    "filter_noise",
    "leave_to_load",
    "refuse_moved_ablation",
    "refuse_training_options",
    "show_errors_briefly",
    "start_log",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rep3d.console.options"), name)
    raise AttributeError(f"module 'rep3d.console' has no attribute {name!r}")
