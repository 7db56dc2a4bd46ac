"""Segment many images of the datastore, one after the other."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel_app.errors import RequestError, told_of
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.io.volumes import write_label_map

logger = logging.getLogger(__name__)


def segment_all(
    batch: Task,
    task: BundleInference,
    datastore: StudiesFolder,
    images: Sequence[str],
    options: InferenceParameters,
    user: str,
) -> dict[str, Any]:
    """Store a label with the tag "original" for each image; go on past images that fail.

    Returns:
        {"done": image ids, "failed": reasons by image id}
    """
    done: list[str] = []
    failed: dict[str, str] = {}
    for image_id in images:
        if batch.stopping.is_set():
            break
        try:
            result = task.segment(datastore.image(image_id), device=options.device, preset=options.preset)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "label.nii.gz"
                write_label_map(result.voxels, result.grid, path, labels=task.bundle.labels)
                told = {"user": user, "model": task.bundle.name, "params": {"label_names": task.bundle.labels}}
                datastore.save_label(image_id, str(path), "original", told)
            done.append(image_id)
        except RequestError as error:
            logger.warning("batch inference: skipped %s: %s", image_id, error.message)
            failed[image_id] = error.message
        except Exception as error:
            logger.exception("batch inference: skipped %s", image_id)
            failed[image_id] = told_of(error)
        batch.report(f"{len(done) + len(failed)} of {len(images)} images", done=len(done), total=len(images))
    return {"done": done, "failed": failed}
