"""What a training needs beyond MONAI: its steps, its checkpoints, and what it shows."""

from rep3d.training.checkpoints import Checkpoints, load_deployed, trained_on
from rep3d.training.loop import (
    FiniteSteps,
    handlers_of_rank,
    is_better,
    join_process_group,
    keep_freed_memory,
    leave_process_group,
    local_device,
    parameter_groups,
)
from rep3d.training.progress import TrainingProgress, key_metric, tell_results
from rep3d.training.tensorboard import write_dice, write_learning_rate

__all__ = [
    "Checkpoints",
    "FiniteSteps",
    "TrainingProgress",
    "handlers_of_rank",
    "is_better",
    "join_process_group",
    "keep_freed_memory",
    "key_metric",
    "leave_process_group",
    "load_deployed",
    "local_device",
    "parameter_groups",
    "tell_results",
    "trained_on",
    "write_dice",
    "write_learning_rate",
]
