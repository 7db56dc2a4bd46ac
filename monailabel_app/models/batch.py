"""Segment many images of the datastore, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel_app.models.each_image import for_each_image
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.models.turn import Priority
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.io.volumes import write_label_map


def segment_all(
    task: Task,
    model: BundleInference,
    datastore: StudiesFolder,
    images: Sequence[str],
    options: InferenceParameters,
    user: str,
) -> dict[str, Any]:
    """Store a label with the tag "original" for each image, which remembers its bundle; see `for_each_image`."""
    labels = model.bundle.labels
    info = {"user": user, "model": model.bundle.name, "params": {"label_names": labels}}

    def segment(image: str) -> None:
        result = model.segment(
            datastore.image(image), device=options.device, preset=options.preset, priority=Priority.BATCH
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.nii.gz"
            write_label_map(result.voxels, result.grid, path, labels=labels)
            note = {"note": result.note} if result.note else {}
            datastore.save_label(image, str(path), "original", {**info, **note})
        datastore.update_image_info(image, {"model": model.bundle.name})

    return for_each_image(task, "batch inference", images, segment)
