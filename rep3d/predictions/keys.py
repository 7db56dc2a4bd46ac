"""What tells scans, weights and settings of a prediction from others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from torch import nn

from rep3d.console.workflows import running_config
from rep3d.data.memory import file_key
from rep3d.io.geometry import VolumeError
from rep3d.io.scans import is_series
from rep3d.networks.weights import digest

# Entries of a config that change no label map. What the weights are counts, not where they lie.
PLACES = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "checkpoint", "device", "traceback", "preview"),
    *("known_ids", "known_values"),
)


def scan_key(scan: Sequence[str]) -> str:
    """Tells by place, size and time of its files whether a scan is the same; empty where it cannot be read."""
    try:
        keys = [file_key(file) for path in map(Path, scan) for file in (_slices(path) if is_series(path) else [path])]
    except (VolumeError, OSError):
        return ""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _slices(series: Path) -> list[Path]:
    from rep3d.io.dicom import sorted_slices  # not before: it needs the extra "dicom"

    return sorted_slices(series)


def settings_key(network: nn.Module) -> str:
    """Tells by weights, configuration and version whether a label map would be the same."""
    config = {name: value for name, value in (running_config() or {}).items() if name not in PLACES}
    told = json.dumps([config, version("rep3d")], sort_keys=True, default=str)
    return hashlib.sha256(f"{digest(network.state_dict())} {told}".encode()).hexdigest()


def is_same_scan(kept: Path, scan: Path) -> bool:
    """Whether two paths stand for one scan; a DICOM series goes by its folder or by one of its files."""
    one, other = Path(os.path.realpath(kept)), Path(os.path.realpath(scan))
    return one == other or (is_series(scan) and (one.parent == other or other.parent == one))
