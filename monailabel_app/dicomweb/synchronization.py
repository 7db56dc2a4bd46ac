"""Labels there and back between the app and a PACS, as DICOM Segmentations.

A viewer such as OHIF has no way to submit a label: it stores a segmentation in the PACS. What appears there is taken in
as a submitted label, checked like any other. What is submitted to the app, or segmented by it in a batch, is stored in
the PACS.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from monailabel_app.bundles import Bundle
from monailabel_app.dicomweb.client import Pacs, Series
from monailabel_app.dicomweb.outcomes import SEEN, Outcomes
from monailabel_app.errors import RequestError
from monailabel_app.studies.dicom import make_segmentation, read_segmentation, sorted_slices
from monailabel_app.studies.folder import FINAL, StudiesFolder
from monailabel_app.studies.knowledge import KNOWLEDGE
from monailabel_app.studies.labels import TAGS
from monailabel_app.studies.submission import Submission, submit_label
from rep3d.io.dicom_seg import is_own_proposal
from rep3d.io.geometry import plain_geometry
from rep3d.io.volumes import write_label_map

logger = logging.getLogger(__name__)

INTERVAL = 10  # seconds between two looks
PATIENCE = 5  # seconds that a request waits for a look that is going on
PAUSE = 300  # seconds after which what failed is tried again


class Synchronization:
    """Keeps labels and segmentations the same, in a thread of its own.

    Args:
        pacs: where segmentations are.
        studies: the images of that PACS, and their labels.
        bundles: whose labels are taken.
        prompted: the bundle that follows prompts, whose labels have names of their users' own.
        shown: what users had shown of an image, to be stored beside its label, see `Submission`.
        send: whether labels go to the PACS.
    """

    def __init__(
        self,
        pacs: Pacs,
        studies: StudiesFolder,
        bundles: Mapping[str, Bundle],
        prompted: Bundle | None = None,
        *,
        shown: Callable[[str], Sequence[Mapping[str, Any]]] = lambda image_id: (),
        send: bool,
    ) -> None:
        self._pacs = pacs
        self._studies = studies
        self._bundles = bundles
        self._models = {name: bundle.labels for name, bundle in bundles.items()}
        self._prompted = prompted
        self._shown = shown
        self._send = send
        self._outcomes = Outcomes(studies.root / KNOWLEDGE / "segmentations")
        self._next_try: dict[str, float] = {}  # of what failed, by UID or by image and tag
        self._lock = threading.Lock()
        self._wanted = threading.Event()

    def start(self) -> None:
        """Look now, whenever `soon` was called, and every INTERVAL."""
        threading.Thread(target=self._work, name="synchronization", daemon=True).start()

    def soon(self) -> None:
        """Do not wait for the interval."""
        self._wanted.set()

    def run(self) -> None:
        """Take in what is new in the PACS, and send what is new here; a look that takes long goes on by itself.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            images = self._pacs.series()
            found = self._pacs.segmentations()
            for _, _, uid in found:  # the oldest first
                self._outcomes.seen(uid)
            for study, series, uid in found:
                if not self._is_settled(uid, images):
                    self._try(uid, partial(self._look_at, study, series, uid, images))
            if self._send:
                stored = {uid for _, _, uid in found}
                for tag in TAGS:
                    for image_id in self._studies.get_labeled_images(tag):
                        self._try(f"{image_id} {tag}", partial(self._send_label, image_id, tag, stored))
        finally:
            self._lock.release()

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

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """One segmentation or label: what fails does not keep the others, and is tried again after a PAUSE."""
        if self._next_try.get(name, 0) > time.monotonic():
            return
        try:
            work()
        except RequestError as error:
            self._next_try[name] = time.monotonic() + PAUSE
            logger.warning("labels of the PACS: %s: %s", name, error.message)
        except Exception:
            self._next_try[name] = time.monotonic() + PAUSE
            logger.exception("labels of the PACS: %s", name)

    def _is_settled(self, uid: str, images: Mapping[str, Series]) -> bool:
        """Whether a segmentation needs no other look: its series is still away, or what it did not fit is as it was.

        That is the series, by its slices, the models, by their labels, and which of them segmented the series last.
        """
        known = self._outcomes.of(uid)
        if "waiting" in known:
            return known["waiting"] not in images
        if "refused" in known and known.get("image") in images:
            fits = known["slices"] == images[known["image"]].count and known.get("models") == self._models
            return fits and known.get("model") == self._segmented_by(known["image"])
        return known.keys() != {SEEN}

    def _look_at(self, study: str, series: str, uid: str, images: Mapping[str, Series]) -> None:
        """Take a segmentation in, remember why not, or wait for its series."""
        dataset = self._pacs.instance(study, series, uid)
        references = dataset.get("ReferencedSeriesSequence")
        image_id = str(references[0].SeriesInstanceUID) if references else ""
        outcome: dict[str, Any] = {"image": image_id, "slices": images[image_id].count if image_id in images else 0}
        if not references:
            outcome["refused"] = "it tells no series that it belongs to"
        elif image_id not in images:
            outcome = {"waiting": image_id}
        elif is_own_proposal(dataset):
            outcome["proposal"] = True
        else:
            try:
                outcome["version"] = self._submit(dataset, image_id, uid)
            except RequestError as error:
                if error.status >= 500:
                    raise
                logger.warning("segmentation %s of the PACS is not taken as a label: %s", uid, error.message)
                told = {"models": self._models, "model": self._segmented_by(image_id)}
                outcome |= {"refused": error.message, **told}
        self._outcomes.remember(uid, outcome)

    def _segmented_by(self, image_id: str) -> str | None:
        """The model that segmented an image last, by which its label may be told."""
        return self._studies.knowledge(image_id).get("model")

    def _submit(self, dataset: pydicom.Dataset, image_id: str, uid: str) -> int:
        self._check_age(image_id, uid)
        slices = sorted_slices(self._studies.series(image_id))
        voxels, affine, labels = read_segmentation(dataset, slices)
        info = {"user": str(dataset.get("ContentCreatorName") or "") or None, "segmentation": uid}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            write_label_map(voxels, plain_geometry(voxels.shape, affine), path, labels=labels)
            submission = Submission(image_id, path, info, prompts=self._shown(image_id), uploaded=False)
            submit_label(self._studies, self._bundles, submission)
        return self._studies.labels.info(image_id, FINAL)["version"]

    def _check_age(self, image_id: str, uid: str) -> None:
        """Refuse a segmentation that was seen before the label that counts, as where it could not be had at first.

        Raises:
            RequestError: 409.
        """
        if self._studies.get_label_by_image_id(image_id, FINAL):
            info = self._studies.labels.info(image_id, FINAL)
            taken_in = self._outcomes.of(info["segmentation"]) if info.get("segmentation") else {}
            if taken_in.get(SEEN, info["ts"]) > self._outcomes.seen(uid):
                raise RequestError(409, "a newer label has been submitted meanwhile")

    def _send_label(self, image_id: str, tag: str, stored: Collection[str]) -> None:
        info = self._studies.labels.info(image_id, tag)
        bundle = self._bundle_of(info)
        if "segmentation" in info or bundle is None:
            return
        # The UID is known before it is there: it must not be sent twice, nor be taken in as somebody else's.
        uid = info.get("sending") or str(pydicom.uid.generate_uid())
        self._studies.labels.update(image_id, info["version"], {"sending": uid})
        self._outcomes.remember(uid, {"image": image_id, "version": info["version"], "sent": True})
        if uid not in stored:
            try:
                segmentation = self._make(image_id, info["version"], bundle, uid, is_proposal=tag == "original")
            except RequestError as error:
                if error.status >= 500:
                    raise
                logger.warning("the label of %s is not sent to the PACS: %s", image_id, error.message)
                self._studies.labels.update(image_id, info["version"], {"segmentation": None})
                return
            self._pacs.store(segmentation)
        self._studies.labels.update(image_id, info["version"], {"segmentation": uid})

    def _bundle_of(self, info: Mapping[str, Any]) -> Bundle | None:
        """Whose label it is, with the labels that it has there: the bundle may have others by now."""
        model = info.get("model", "")
        is_prompted = self._prompted is not None and model == self._prompted.name
        bundle = self._prompted if is_prompted else self._bundles.get(model)
        labels = {**info.get("params", {}), **info}.get("label_names")
        return replace(bundle, labels=labels) if bundle and labels else bundle

    def _make(self, image_id: str, number: int, bundle: Bundle, uid: str, *, is_proposal: bool) -> pydicom.Dataset:
        label: Any = nib.load(self._studies.labels.version(image_id, number).file)
        slices = sorted_slices(self._studies.series(image_id))
        voxels = np.asarray(label.dataobj)
        return make_segmentation(slices, voxels, bundle, uid=uid, is_proposal=is_proposal)
