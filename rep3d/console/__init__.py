"""What a run says and is told: errors in a line, a log, progress, and the options that were typed."""

from rep3d.console.errors import show_errors_briefly
from rep3d.console.logs import filter_noise, start_log
from rep3d.console.options import check_options, check_started, refuse_moved_ablation, refuse_training_options

__all__ = [
    "check_options",
    "check_started",
    "filter_noise",
    "refuse_moved_ablation",
    "refuse_training_options",
    "show_errors_briefly",
    "start_log",
]
