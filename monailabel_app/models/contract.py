"""The ids of a bundle's configs that the app sets or asks for. Every bundle that it serves has them.

What else a bundle's configs hold is the bundle's own business.
"""

from __future__ import annotations

from collections.abc import Mapping

from monai.bundle import ConfigParser

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from rep3d.files import read_json
from rep3d.shipped import OF_THE_DATA

BUNDLE_ROOT = "bundle_root"
DEVICE = "device"
MAX_GRID_BYTES = "max_grid_bytes"
IN_CHANNELS = "in_channels"
PATCH_SIZE = "patch_size"
SW_BATCH_SIZE = "sw_batch_size"
NETWORK = "network_def"
PREPROCESSING = "preprocessing"
INFERER = "inferer"
TO_NATIVE_GRID = "to_native_grid"
REFINEMENT = "refinement"

# What `INFERER` calls for each group of windows: a `rep3d.inferers.LabelMapInferer`, and its arguments.
WINDOWS = "sliding_window#inferer"
ROI_SIZE = f"{WINDOWS}#roi_size"
OVERLAP = f"{WINDOWS}#overlap"
PROGRESS = f"{WINDOWS}#progress"
CLASS_ORDER = f"{WINDOWS}#class_order"  # of a network of regions; other people's bundles may lack it
STITCHING_DEVICE = f"{WINDOWS}#device"  # not in the configs: the image's device
WINDOW_DEVICE = f"{WINDOWS}#sw_device"  # likewise

# What trainings and evaluations run, and are told.
TRAINING = "training"
EVALUATING = "evaluating"
COMPARING = "comparing"  # of bundles that take prompts
DATASET_DIR = "dataset_dir"
OUTPUT_DIR = "output_dir"
CKPT_DIR = "ckpt_dir"
PART = "part"
MORE_DATA = "more_data"
REPEATS = "repeats"
EPOCH_LENGTH = "train#trainer#epoch_length"
CHECKPOINT = "checkpoint"
INIT_FROM = "init_from"
RESUME = "resume"
EPOCHS = "epochs"
VAL_INTERVAL = "val_interval"
VALIDATION_DATA = "validate#dataset#data"
NUM_WORKERS = "num_workers"
LEARNING_RATE = "learning_rate"

_ALL = (BUNDLE_ROOT, DEVICE)
_INFERENCE = (MAX_GRID_BYTES, IN_CHANNELS, PATCH_SIZE, SW_BATCH_SIZE, NETWORK, PREPROCESSING, INFERER, TO_NATIVE_GRID)
_RUN = (*_ALL, DATASET_DIR, OUTPUT_DIR)
_TRAIN = (*_RUN, TRAINING, CKPT_DIR, INIT_FROM, RESUME, EPOCHS, VAL_INTERVAL, VALIDATION_DATA, NUM_WORKERS)
IDS: dict[tuple[str, ...], tuple[str, ...]] = {  # by the configs that are read together
    ("inference",): (*_ALL, *_INFERENCE, REFINEMENT, ROI_SIZE, OVERLAP),
    ("train",): _TRAIN,
    ("train", "evaluate"): (*_RUN, EVALUATING, CHECKPOINT),
}

PROMPTED_IDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("inference",): (*_ALL, PATCH_SIZE, NETWORK, INFERER),
    ("train",): (*_TRAIN, MORE_DATA, REPEATS, EPOCH_LENGTH, LEARNING_RATE),
    ("train", "evaluate"): (*_RUN, COMPARING, CHECKPOINT, PART),
}  # of bundles that take prompts


def check_contract(bundle: Bundle, ids_by_configs: Mapping[tuple[str, ...], tuple[str, ...]] = IDS) -> None:
    """Raise unless a bundle's configs have what the app needs.

    Raises:
        ValueError: names the bundle, and the file that cannot be read or the ids that are missing.
    """
    for names, ids in ids_by_configs.items():
        parser = ConfigParser()
        try:
            parser.read_config([str(bundle.config(name)) for name in names])
        except (OSError, ValueError) as error:
            raise ValueError(f"bundle {bundle.name!r}: configs/{names[-1]}.json cannot be read: {error}") from error
        missing = [config_id for config_id in ids if config_id not in parser]
        if missing:
            files = " and ".join(f"{name}.json" for name in names)
            raise ValueError(f"bundle {bundle.name!r}: {files} lacks {', '.join(missing)}, which the app needs")


def other_data(bundle: Bundle) -> list[str]:
    """What the weights that serve know otherwise than their bundle: labels or channels."""
    settings, config = bundle.settings, read_json(bundle.config("inference"))
    return [name for name in OF_THE_DATA if name in settings and name in config and settings[name] != config[name]]


def check_trained(bundle: Bundle) -> None:
    """Refuse weights that know other labels or channels than their bundle, whose names all else here goes by.

    Raises:
        RequestError: 409, names what differs.
    """
    if others := other_data(bundle):
        told = f"the weights of model {bundle.name!r} were trained with other {', '.join(others)}"
        raise RequestError(409, f"{told}: train it anew, with params['pretrained'] false")
