"""The ids of a bundle's configs that the app sets or asks for. Every bundle that it serves has them.

What else a bundle's configs hold is the bundle's own business.
"""

from __future__ import annotations

from monai.bundle import ConfigParser

from monailabel_app.bundles import Bundle

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
STITCHING_DEVICE = f"{WINDOWS}#device"  # not in the configs: the image's device
WINDOW_DEVICE = f"{WINDOWS}#sw_device"  # likewise

INFERENCE = (
    BUNDLE_ROOT,
    DEVICE,
    MAX_GRID_BYTES,
    IN_CHANNELS,
    PATCH_SIZE,
    SW_BATCH_SIZE,
    NETWORK,
    PREPROCESSING,
    INFERER,
    TO_NATIVE_GRID,
    REFINEMENT,
    ROI_SIZE,
    OVERLAP,
)
RUN = (BUNDLE_ROOT, DEVICE, "dataset_dir", "output_dir")
TRAINING = (
    *RUN,
    "training",
    "ckpt_dir",
    "resume",
    "init_from",
    "epochs",
    "val_interval",
    "num_workers",
    "progress_seconds",
    "validate#dataset#data",
)
EVALUATION = (*RUN, "evaluating", "checkpoint")

IDS = {("inference",): INFERENCE, ("train",): TRAINING, ("train", "evaluate"): EVALUATION}  # by the configs that merge


def check_contract(bundle: Bundle) -> None:
    """Raise unless a bundle's configs have what the app needs.

    Raises:
        ValueError: names the bundle, and the file that cannot be read or the ids that are missing.
    """
    for names, ids in IDS.items():
        parser = ConfigParser()
        try:
            parser.read_config([str(bundle.config(name)) for name in names])
        except (OSError, ValueError) as error:
            raise ValueError(f"bundle {bundle.name!r}: configs/{names[-1]}.json cannot be read: {error}") from error
        missing = [config_id for config_id in ids if config_id not in parser]
        if missing:
            files = " and ".join(f"{name}.json" for name in names)
            raise ValueError(f"bundle {bundle.name!r}: {files} lacks {', '.join(missing)}, which the app needs")
