"""Labels there and back between the app and a PACS, as DICOM Segmentations.

A viewer such as OHIF has no way to submit a label: it stores a segmentation in the PACS. What appears there is taken in
as a submitted label, checked like any other. What is submitted to the app, or segmented by it in a batch, is stored in
the PACS.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from monailabel_app.bundles import Bundle
from monailabel_app.dicom import sorted_slices
from monailabel_app.dicom_seg import make_segmentation, read_segmentation
from monailabel_app.formats import write_label_map
from monailabel_app.labels import submit_label
from monailabel_app.pacs_studies import PacsStudies
from monailabel_app.validation import RequestError, SubmissionParameters

logger = logging.getLogger(__name__)

INTERVAL = 10  # seconds between two looks


class Exchange:
    """Keeps labels and segmentations the same, in a thread of its own.

    Args:
        datastore: images of a PACS.
        bundles: whose labels are taken.
        send: whether submitted labels go to the PACS.
    """

    def __init__(self, datastore: PacsStudies, bundles: Mapping[str, Bundle], *, send: bool) -> None:
        self._datastore = datastore
        self._bundles = bundles
        self._send = send
        self._settled: set[str] = set()  # UIDs of segmentations that need no second look
        self._lock = threading.Lock()
        self._wanted = threading.Event()

    def start(self) -> None:
        """Look now, whenever `soon` was called, and every INTERVAL."""
        threading.Thread(target=self._work, name="exchange", daemon=True).start()

    def soon(self) -> None:
        """Do not wait for the interval."""
        self._wanted.set()

    def run(self) -> None:
        """Take in what is new in the PACS, and send what is new here.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        with self._lock:
            images = self._datastore.list_images()
            for study, series, uid in self._datastore.pacs.segmentations():
                if uid not in self._settled:
                    self._look_at(study, series, uid, images)
            if self._send:
                for image_id in images:
                    for tag in self._datastore.get_labels_by_image_id(image_id):
                        self._send_label(image_id, tag)

    def _work(self) -> None:
        while True:
            try:
                self.run()
            except RequestError as error:
                logger.warning("labels of the PACS: %s", error.message)
            except Exception:
                logger.exception("labels of the PACS")
            self._wanted.wait(INTERVAL)
            self._wanted.clear()

    def _look_at(self, study: str, series: str, uid: str, images: Sequence[str]) -> None:
        """Take a segmentation in, remember why not, or wait for its series."""
        known = self._datastore.segmentation(uid)
        if not known or known.get("waiting") in images:
            try:
                known = self._take_in(self._datastore.pacs.instance(study, series, uid), uid, images)
            except RequestError as error:
                if error.status >= 500:
                    raise
                known = {"refused": error.message}
                logger.warning("segmentation %s of the PACS is not taken as a label: %s", uid, error.message)
            except Exception as error:
                known = {"refused": f"{type(error).__name__}, see the server's log"}
                logger.exception("segmentation %s of the PACS", uid)
            self._datastore.remember_segmentation(uid, known)
        if "waiting" not in known:
            self._settled.add(uid)

    def _take_in(self, dataset: pydicom.Dataset, uid: str, images: Sequence[str]) -> dict[str, Any]:
        references = dataset.get("ReferencedSeriesSequence")
        if not references:
            raise RequestError(400, "it tells no series that it belongs to")
        image_id = str(references[0].SeriesInstanceUID)
        if image_id not in images:
            return {"waiting": image_id}
        return {"image": image_id, "version": self._submit(dataset, image_id, uid)}

    def _submit(self, dataset: pydicom.Dataset, image_id: str, uid: str) -> int:
        slices = sorted_slices(self._datastore.series(image_id))
        voxels, affine, labels = read_segmentation(dataset, slices)
        told = {"user": str(dataset.get("ContentCreatorName") or "") or None, "segmentation": uid}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            write_label_map(voxels, affine, path, labels=labels)
            submit_label(self._datastore, self._bundles, image_id, path, "final", SubmissionParameters(), told)
        return self._datastore.get_label_info(image_id, "final")["version"]

    def _send_label(self, image_id: str, tag: str) -> None:
        info = self._datastore.get_label_info(image_id, tag)
        bundle = self._bundles.get(info.get("model", ""))
        if "segmentation" in info or bundle is None:
            return
        path = self._datastore.label_version(image_id, info["version"])
        label: Any = nib.load(path)
        try:
            slices = sorted_slices(self._datastore.series(image_id))
            segmentation = make_segmentation(slices, np.asarray(label.dataobj), bundle.labels, bundle.name)
        except RequestError as error:
            if error.status >= 500:
                raise
            logger.warning("the label of %s is not sent to the PACS: %s", image_id, error.message)
            self._datastore.tell_version(image_id, info["version"], {"segmentation": None})
            return
        uid = str(segmentation.SOPInstanceUID)
        # Known before it is there: it must not be taken in as somebody else's.
        self._datastore.remember_segmentation(uid, {"image": image_id, "version": info["version"], "sent": True})
        self._datastore.pacs.store(segmentation)
        self._datastore.tell_version(image_id, info["version"], {"segmentation": uid})
