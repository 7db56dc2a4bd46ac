"""Who waits for whom: an image for its own series, an upload for other uploads, and neither for the other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series

from monailabel_app.dicomweb.client import COUNT, Series
from monailabel_app.dicomweb.images import PacsImages
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.models.active_learning import First, pick_sample
from monailabel_app.studies import converted, volumes
from monailabel_app.studies.folder import StudiesFolder
from rep3d.io.dicom import sorted_slices
from rep3d.io.dicom_seg import make_segmentation

SECONDS = 20  # after which something hangs


class Gate:
    """Holds those who pass it until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *_):
        self.reached.set()
        self.opened.wait(SECONDS)

    @contextmanager
    def holding(self, function, *arguments):
        """Meanwhile the function, called in a thread, is held."""
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(function, *arguments)
            try:
                assert self.reached.wait(SECONDS)
                yield
            finally:
                self.opened.set()
            held.exception(SECONDS)


@pytest.fixture
def gate():
    return Gate()


def slow_upload(gate):
    """One is looked at, and takes its time."""

    def look():
        with volumes.admitted():
            gate()

    return gate.holding(look)


def in_time(function, *arguments, **options):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments, **options).result(SECONDS / 4)


@pytest.fixture
def store(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / "studies" / name)
    return StudiesFolder(tmp_path / "studies")


def test_the_next_sample_does_not_wait_for_uploads(store, gate):
    with slow_upload(gate):
        assert in_time(pick_sample, {"first": First()}, {"strategy": "first"}, store)["id"] == "a"


def test_a_label_of_the_pacs_does_not_wait_for_uploads(gate, tmp_path):
    files = write_series(tmp_path / "sent")
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    (tmp_path / "studies").mkdir()
    (tmp_path / "sent").rename(tmp_path / "studies" / uid)
    store = StudiesFolder(tmp_path / "studies")
    dataset = make_segmentation(sorted_slices(store.series(uid)), np.ones((64, 48, 12), np.uint8), {"liver": 1}, "x")
    pacs = SimpleNamespace(
        series=lambda: {uid: Series(uid, "1", "CT", "P1", "", "", "", 12)},
        segmentations=lambda: [("1", "1.1", str(dataset.SOPInstanceUID))],
        instance=lambda *_: dataset,
    )
    bundles = {"one": SimpleNamespace(name="one", labels={"liver": 1})}
    with slow_upload(gate):
        in_time(Synchronization(pacs, store, bundles, send=False).run)
        assert store.get_labeled_images() == [uid]


def test_uploads_wait_for_uploads(gate, tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), path)
    with ThreadPoolExecutor(1) as pool, slow_upload(gate):
        with pytest.raises(TimeoutError):
            pool.submit(volumes.check_upload, path).result(0.2)
    volumes.check_upload(path)


def test_a_converted_series_does_not_wait_for_another(store, gate, monkeypatch):
    store.image("a")
    monkeypatch.setattr(converted, "convert_series", gate)
    with gate.holding(store.image, "b"):
        assert in_time(store.image, "a").is_file()


def test_a_fetched_series_does_not_wait_for_another(gate, tmp_path):
    def fetch(series, folder):
        if series.uid == "1.3":
            gate()
        folder.mkdir()
        (folder / COUNT).write_text(str(series.count))

    known = {uid: Series(uid, "1", "CT", "P1", "", "", "", 6) for uid in ("1.2", "1.3")}
    images = PacsImages(SimpleNamespace(series=lambda: known, fetch=fetch), tmp_path)
    images.series("1.2")
    with gate.holding(images.series, "1.3"):
        assert in_time(images.series, "1.2").is_dir()
