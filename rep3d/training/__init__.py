"""What a training needs beyond MONAI: its steps, its checkpoints, and what it shows."""

from rep3d.networks.input_sizes import check_patch_size
from rep3d.shipped import check_ckpt_dir, weights_in_use
from rep3d.training.checkpoints import Checkpoints, is_better, load_deployed, set_seed, trained_on
from rep3d.training.cpu import keep_freed_memory
from rep3d.training.finite_steps import FiniteSteps
from rep3d.training.gradient_scales import scale_gradients
from rep3d.training.judging import JudgedDiceCELoss, ScoredMasks
from rep3d.training.parameters import parameter_groups
from rep3d.training.processes import (
    ReshuffledSampler,
    each_case_once,
    handlers_of_rank,
    join_process_group,
    leave_process_group,
    local_device,
)
from rep3d.training.progress import TrainingProgress, key_metric, tell_results
from rep3d.training.settings import training_settings
from rep3d.training.tensorboard import write_dice, write_learning_rate
from rep3d.training.time_limit import TimeLimit
from rep3d.training.validation import Validation, attach_schedule
from rep3d.training.validation_dice import ValidationDice

__all__ = [
    "Checkpoints",
    "FiniteSteps",
    "JudgedDiceCELoss",
    "ReshuffledSampler",
    "ScoredMasks",
    "TimeLimit",
    "TrainingProgress",
    "Validation",
    "ValidationDice",
    "attach_schedule",
    "check_ckpt_dir",
    "check_patch_size",
    "each_case_once",
    "handlers_of_rank",
    "is_better",
    "join_process_group",
    "keep_freed_memory",
    "key_metric",
    "leave_process_group",
    "load_deployed",
    "local_device",
    "parameter_groups",
    "scale_gradients",
    "set_seed",
    "tell_results",
    "told_otherwise",
    "trained_on",
    "training_settings",
    "weights_in_use",
    "write_dice",
    "write_learning_rate",
]

told_otherwise = training_settings  # as bundles that were made earlier call it
