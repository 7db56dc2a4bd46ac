"""Segmentations of a PACS that are none: remembered, not tried again and again. Without a PACS."""

import json
import shutil
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pydicom
import pytest
from app_helpers import small_bundle
from dicom_helpers import write_series
from prompt_helpers import prompt_bundle, start_app

from monailabel_app.bundles import read_bundle
from monailabel_app.dicomweb.client import COUNT, Series
from monailabel_app.dicomweb.images import PacsImages
from monailabel_app.dicomweb.outcomes import Outcomes
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.knowledge import KNOWLEDGE
from rep3d.io.dicom import sorted_slices
from rep3d.io.dicom_seg import make_segmentation


@dataclass
class SimpleBundle:
    name: str
    labels: dict


class Pacs:
    """Holds one series and one segmentation of it."""

    def __init__(self, folder):
        write_series(folder, slices=6)
        self.slices = sorted_slices(folder)
        voxels = np.zeros((64, 48, 6), np.uint8)
        voxels[8:20, 8:20, 1:5] = 1
        self.segmentation = make_segmentation(self.slices, voxels, {"anterior hippocampus": 1}, "another program")
        self.segmentation.Manufacturer = "somebody else"
        self.asked = 0

    def series(self):
        uid = str(self.segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID)
        return {uid: Series(uid, "1", "CT", "P1", "20260101", "120000", "ball", len(self.slices))}

    def fetch(self, series, folder):
        shutil.copytree(self.slices[0].parent, folder)
        (folder / COUNT).write_text(str(series.count))

    def segmentations(self):
        dataset = self.segmentation
        return [(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)]

    def instance(self, *uids):
        self.asked += 1
        return self.segmentation


@pytest.fixture
def pacs(tmp_path):
    return Pacs(tmp_path / "series")


def look(pacs, tmp_path, model="msd_hippocampus"):
    """Twice, as after a restart; what became of the segmentation, and the store."""
    bundle = read_bundle(small_bundle(tmp_path / "bundles", model))
    store = StudiesFolder(tmp_path / "kept", PacsImages(pacs, tmp_path / "kept"))
    for _ in range(2):
        Synchronization(pacs, store, {bundle.name: bundle}, send=False).run()
    return Outcomes(store.root / KNOWLEDGE / "segmentations").of(str(pacs.segmentation.SOPInstanceUID)), store


def test_a_segmentation_is_taken_in_once(pacs, tmp_path):
    outcome, store = look(pacs, tmp_path)
    assert outcome["version"] == 1 and pacs.asked == 1
    label = nib.load(store.label(store.list_images()[0], "final"))
    assert np.asarray(label.dataobj).sum() == 12 * 12 * 4


def test_a_segmentation_of_a_model_that_is_served_later(pacs, tmp_path):
    """It is looked at once for each set of models, until it fits one."""
    outcome, _ = look(pacs, tmp_path, "kits")
    assert "no model has all the segments" in outcome["refused"] and pacs.asked == 1
    outcome, store = look(pacs, tmp_path)
    assert outcome["version"] == 1 and "refused" not in outcome and pacs.asked == 2
    assert len(store.get_labeled_images()) == 1


def test_a_segmentation_that_may_be_of_several_models(pacs, tmp_path):
    """It is looked at again once one of them has segmented the series."""
    pacs.segmentation.SegmentSequence[0].SegmentLabel = "tumor"
    bundles = [read_bundle(small_bundle(tmp_path / "bundles", name)) for name in ("kits", "msd_pancreas")]
    store = StudiesFolder(tmp_path / "kept", PacsImages(pacs, tmp_path / "kept"))
    synchronization = Synchronization(pacs, store, {one.name: one for one in bundles}, send=False)
    (image,) = store.list_images()
    for _ in range(2):
        synchronization.run()
    assert store.labels.tags(image) == [] and pacs.asked == 1
    store.update_image_info(image, {"model": "msd_pancreas"})
    for _ in range(2):
        synchronization.run()
    assert store.get_label_info(image, "final")["model"] == "msd_pancreas" and pacs.asked == 2


@pytest.mark.parametrize(
    "told", [{"label_names": {"a": 1, "b": 2}}, {"params": {"label_names": {"a": 1, "b": 2}}}, {}], ids=str
)
def test_a_label_that_is_sent_has_the_names_that_it_was_stored_with(told, tmp_path):
    """Its bundle numbers them otherwise by now."""
    bundle = SimpleBundle("one", {"b": 1, "a": 2})
    synchronization = Synchronization(None, StudiesFolder(tmp_path), {"one": bundle}, send=True)
    expected = {"a": 1, "b": 2} if told else bundle.labels
    assert synchronization._bundle_of({"model": "one", **told}).labels == expected


def test_an_older_segmentation_does_not_take_the_place_of_a_newer_label(pacs, tmp_path):
    """Which came while no model had the segments of the older one."""
    outcome, store = look(pacs, tmp_path, "kits")
    (image,) = store.list_images()
    corrected = tmp_path / "corrected.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((64, 48, 6), np.uint8), np.eye(4)), corrected)
    store.save_label(image, str(corrected), "final", {"ts": int(outcome["seen"]) + 1})
    outcome, store = look(pacs, tmp_path)
    assert outcome["refused"] == "a newer label has been submitted meanwhile" and pacs.asked == 2
    assert store.label(image, "final").read_bytes() == corrected.read_bytes()


def test_an_older_segmentation_that_the_pacs_delivers_later(pacs, tmp_path, monkeypatch):
    """It does not take the place of the newer one; one that is newer still does."""
    monkeypatch.setattr("monailabel_app.dicomweb.synchronization.PAUSE", 0)
    pacs.segmentation.save_as(tmp_path / "first.dcm")
    first, *others = (pydicom.dcmread(tmp_path / "first.dcm") for _ in range(3))
    for dataset in others:
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    there = {one.SOPInstanceUID: one for one in (first, others[0])}
    away = {first.SOPInstanceUID}

    def instance(study, series, uid):
        if uid in away:
            raise RequestError(502, "the PACS answered 500")
        return there[uid]

    pacs.segmentations = lambda: [(one.StudyInstanceUID, one.SeriesInstanceUID, uid) for uid, one in there.items()]
    pacs.instance = instance
    bundle = read_bundle(small_bundle(tmp_path / "bundles", "msd_hippocampus"))
    store = StudiesFolder(tmp_path / "kept", PacsImages(pacs, tmp_path / "kept"))
    synchronization = Synchronization(pacs, store, {bundle.name: bundle}, send=False)
    (image,) = store.list_images()
    for newest in (others[0], others[0], others[1]):
        there[newest.SOPInstanceUID] = newest
        synchronization.run()
        assert store.get_label_info(image, "final")["segmentation"] == newest.SOPInstanceUID
        away.clear()


@pytest.mark.parametrize("name", ["anterior hippocampus", "atrium"])
def test_what_users_showed_lies_beside_the_label(name, pacs, tmp_path, monkeypatch):
    """It makes no label of names that no model has: nothing tells that whoever drew it had shown them."""
    pacs.segmentation.SegmentSequence[0].SegmentLabel = name
    small_bundle(prompt_bundle(tmp_path / "bundles").parent, "msd_hippocampus")
    monkeypatch.setattr("monailabel_app.main.connect", lambda *_: pacs)
    kept = tmp_path / "kept"
    client = start_app(tmp_path, "http://pacs.example/dicom-web", tmp_path / "bundles", pacs_folder=str(kept))
    (image,) = pacs.series()
    files = {"params": (None, json.dumps({"foreground": [[10, 12, 3]], "background": []}))}  # as OHIF asks
    assert client.post(f"/infer/interactive?image={image}", files=files).status_code == 200
    client.services.synchronization.run()
    outcome = Outcomes(kept / KNOWLEDGE / "segmentations").of(str(pacs.segmentation.SOPInstanceUID))
    if name == "atrium":
        assert "no model has all the segments ['atrium']" in outcome["refused"]
        assert not (kept / "labels/versions" / image).exists()
    else:
        (shown,) = json.loads((kept / "labels/versions" / image / "0001.prompts.json").read_text())
        assert outcome["version"] == 1 and (shown["user"], list(shown["labels"])) == ("local", ["structure"])


def fewer_groups(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[-1]


def more_groups(dataset):
    dataset.PerFrameFunctionalGroupsSequence.append(dataset.PerFrameFunctionalGroupsSequence[-1])


def no_groups(dataset):
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence()


@pytest.mark.parametrize(("change", "count"), [(fewer_groups, 3), (more_groups, 5), (no_groups, 0)])
def test_frames_and_what_is_told_of_them(change, count, pacs, tmp_path):
    change(pacs.segmentation)
    outcome, store = look(pacs, tmp_path)
    assert f"tells of {count} frame(s), but has 4" in outcome["refused"] and pacs.asked == 1
    assert store.get_labeled_images() == []
