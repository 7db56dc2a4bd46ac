"""A PACS as a source of images, without a PACS."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_helpers import write_series

from monailabel_app.dicomweb.client import COUNT, Series
from monailabel_app.dicomweb.images import PacsImages
from monailabel_app.dicomweb.outcomes import Outcomes
from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import StudiesFolder


class Pacs:
    """What a PACS would answer: one series, of which it tells and sends `count` slices."""

    def __init__(self, folder):
        self.files = write_series(folder)
        self.count = 6
        self.fetched = 0

    def series(self):
        return {"1.2": Series("1.2", "1", "CT", "P1", "20260101", "120000", "ball", self.count)}

    def fetch(self, series, folder):
        self.fetched += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in self.files[: self.count]:
            shutil.copy(path, folder)
        (folder / COUNT).write_text(str(self.count))


@pytest.fixture
def pacs(tmp_path):
    return Pacs(tmp_path / "sent")


@pytest.fixture
def store(pacs, tmp_path):
    return StudiesFolder(tmp_path / "kept", PacsImages(pacs, tmp_path / "kept"))


def test_a_series_is_fetched_when_it_is_needed(store, pacs):
    assert store.list_images() == ["1.2"] and store.set_aside() == {} and store.name() == "PACS"
    assert store.json()["objects"]["1.2"]["image"] == {"ext": ".nii.gz", "info": {"name": "1.2"}}
    assert pacs.fetched == 0
    assert nib.load(store.image("1.2")).shape[2] == 6
    assert store.series("1.2") == store.root / ".rep3d/series/1.2" and pacs.fetched == 1
    pacs.count = 12
    assert nib.load(store.image("1.2")).shape[2] == 12 and pacs.fetched == 2


def test_what_clients_see_of_an_image(store):
    store.update_image_info("1.2", {"model": "kits"})
    info = store.get_image_info("1.2")
    assert (info["model"], info["PatientID"], info["SeriesInstanceUID"]) == ("kits", "P1", "1.2")
    assert info["RetrieveURL"] == "/ohif/monai-label?StudyInstanceUIDs=1"
    for ask in (store.image, store.series, store.get_image_info, lambda image: store.update_image_info(image, {})):
        with pytest.raises(RequestError, match="there is no image '9.9'") as caught:
            ask("9.9")
        assert caught.value.status == 404


def test_labels_lie_in_the_folder(store, tmp_path):
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((64, 48, 6), np.uint8), nib.load(store.image("1.2")).affine), path)
    store.save_label("1.2", str(path), "final", {"user": "ann"})
    pair = {"image": ".rep3d/converted/1.2.nii.gz", "label": "labels/final/1.2.nii.gz"}
    assert store.datalist(full_path=False) == [pair]
    assert all((store.root / part).is_file() for part in pair.values())


def test_images_are_neither_added_nor_removed(store, pacs):
    for change in (lambda: store.add_image("new", str(pacs.files[0]), {}), lambda: store.remove_image("1.2")):
        with pytest.raises(RequestError, match="the PACS") as caught:
            change()
        assert caught.value.status == 405
    assert store.list_images() == ["1.2"]


def test_outcomes_are_remembered(tmp_path):
    assert Outcomes(tmp_path).of("1.3") == {}
    Outcomes(tmp_path).remember("1.3", {"refused": "why"})
    assert Outcomes(tmp_path).of("1.3") == {"refused": "why"}
    for call in (Outcomes(tmp_path).of, lambda uid: Outcomes(tmp_path).remember(uid, {})):
        with pytest.raises(RequestError, match="is no UID"):
            call("../x")
