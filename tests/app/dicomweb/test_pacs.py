"""Studies of a PACS: what clients see of it, and labels there and back."""

import gzip
import io
import json
import time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from app_helpers import OHIF_PARAMETERS
from dicom_helpers import write_series
from pacs_helpers import KEPT_SECONDS, LIVER, objects, pacs_server, until

from monailabel_app.bundles import choose_bundles
from monailabel_app.dicomweb.client import Pacs, connect
from monailabel_app.dicomweb.images import PacsImages
from monailabel_app.dicomweb.outcomes import SEEN, Outcomes
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.errors import RequestError
from monailabel_app.settings import read_settings
from monailabel_app.studies.folder import StudiesFolder
from rep3d.io.dicom import convert_series, sorted_slices
from rep3d.io.dicom_seg import make_segmentation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pacs_server(tmp_path_factory.mktemp("pacs")) as place:
        place.series = {name: write_series(place.folder / name, name) for name in ("CT", "MR")}
        localizer = write_series(place.folder / "localizer", slices=1)
        place.orthanc.store([*place.series["CT"], *place.series["MR"], *localizer])
        place.uids = {name: str(pydicom.dcmread(files[0]).SeriesInstanceUID) for name, files in place.series.items()}
        until(lambda: set(place.uids.values()) <= set(objects(place)))
        yield place


@pytest.fixture
def series(place, tmp_path):
    """A CT series of this test alone."""
    files = write_series(tmp_path / "own")
    place.orthanc.store(files)
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    until(lambda: uid in objects(place))
    convert_series(tmp_path / "own", tmp_path / "own.nii.gz")
    return SimpleNamespace(uid=uid, files=sorted_slices(tmp_path / "own"), volume=nib.load(tmp_path / "own.nii.gz"))


def label_of(place, uid):
    answer = place.server.request("GET", f"/datastore/label?label={uid}&tag=final")
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)


def ball(series):
    return np.asarray(series.volume.dataobj) > 0


def test_series_are_images(place):
    assert {place.uids["CT"], place.uids["MR"]} <= set(objects(place))
    assert place.server.request("GET", "/info/").json()["datastore"]["total"] == len(objects(place))
    for path in ("/datastore/image?image=1.2.3", "/datastore/image?image=../x"):
        assert place.server.request("GET", path).status_code == 404
    scan = gzip.compress(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)).to_bytes())
    answer = place.server.request("PUT", "/datastore/image?image=new", files={"file": ("a.nii.gz", scan)})
    assert answer.status_code == 405 and "PACS" in answer.json()["detail"]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_inference_as_ohif_asks_for_it(place, modality):
    answer = place.server.request(
        "POST",
        f"/infer/amos_ct?image={place.uids[modality]}&output=image",
        files={"params": (None, json.dumps(OHIF_PARAMETERS))},
    )
    assert answer.status_code == 200, answer.text
    header, _, voxels = answer.content.partition(b"\n\n")
    assert b"encoding: raw" in header and b"sizes: 64 48 12" in header
    voxels = np.frombuffer(voxels, np.uint8).reshape(12, 48, 64)
    assert set(np.unique(voxels)) == {0, LIVER}
    assert voxels[6, 30, 22] == LIVER and voxels[6, 18, 42] == 0


def test_inference_as_a_dicom_segmentation(place, tmp_path):
    answer = place.server.request("POST", f"/infer/amos_ct?image={place.uids['CT']}&output=dicom_seg")
    assert answer.status_code == 200, answer.text
    dataset = pydicom.dcmread(io.BytesIO(answer.content))
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["liver"]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == place.uids["CT"]
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.PixelSpacing == [2, 2] and measures.SpacingBetweenSlices == 3  # the slices are 5 mm thick


def test_next_sample_tells_what_ohif_shows(place):
    sample = place.server.request("POST", "/activelearning/first").json()
    assert sample["SeriesInstanceUID"] == sample["id"] and sample["PatientID"] == "P1"
    assert sample["RetrieveURL"] == f"/ohif/monai-label?StudyInstanceUIDs={sample['StudyInstanceUID']}"


def test_a_submitted_label_goes_to_the_pacs(place, series, tmp_path):
    before = place.server.request("GET", "/datastore/").json()["completed"]
    known = place.orthanc.segmentations()
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image((LIVER * ball(series)).astype(np.uint8), series.volume.affine), path)
    answer = place.server.request(
        "PUT", f"/datastore/label?image={series.uid}", files={"label": (path.name, path.read_bytes())}
    )
    assert answer.status_code == 200, answer.text
    assert place.server.request("GET", "/datastore/").json()["completed"] == before + 1
    new = until(lambda: set(place.orthanc.segmentations()) - set(known))
    time.sleep(2 * KEPT_SECONDS)
    place.server.request("GET", "/datastore/")  # looks for new segmentations
    versions = place.server.request("GET", f"/datastore/label/versions?label={series.uid}").json()
    assert len(versions) == 1 and new == {versions[0]["segmentation"]}  # its own is not taken in again


def segmentation(series, labels=None, voxels=None, model="other"):
    labels = labels or {"liver": 1}
    return make_segmentation(series.files, ball(series).astype(np.uint8) if voxels is None else voxels, labels, model)


def store(place, dataset):
    """As OHIF stores it: through the server."""
    content = io.BytesIO()
    dataset.save_as(content)
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + content.getvalue() + b"\r\n--x--"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    return place.server.request("POST", "/proxy/dicom/wado/studies", data=body, headers=headers)


def test_a_segmentation_of_the_pacs_is_a_label(place, series):
    dataset = segmentation(series)
    dataset.ContentCreatorName = "Reader^One"
    assert store(place, dataset).status_code == 200
    sample = place.server.request("POST", "/activelearning/first").json()
    assert sample.get("id") != series.uid
    np.testing.assert_array_equal(label_of(place, series.uid), LIVER * ball(series))
    info = place.server.request("GET", f"/datastore/label/info?label={series.uid}&tag=final").json()
    assert info["segmentation"] == dataset.SOPInstanceUID and info["user"] == "Reader^One"
    assert len(place.server.request("GET", f"/datastore/label/versions?label={series.uid}").json()) == 1


def test_a_segmentation_that_does_not_fit_is_refused(place, series):
    store(place, segmentation(series, {"a thing": 1}))
    assert series.uid in objects(place) and not objects(place)[series.uid]["labels"]
    outcomes = [json.loads(path.read_text()) for path in (place.kept / ".rep3d/segmentations").iterdir()]
    assert [outcome for outcome in outcomes if "a thing" in outcome.get("refused", "")]


def test_a_proposal_of_another_server_is_no_label(place, series):
    """Its folder may be lost, or another server may label the same PACS: a network's output is no truth."""
    proposal = make_segmentation(series.files, ball(series), {"liver": 1}, "amos_ct", is_proposal=True)
    store(place, proposal)
    assert not objects(place)[series.uid]["labels"]


def test_a_refused_segmentation_is_looked_at_again_as_its_series_grows(place, tmp_path):
    files = write_series(tmp_path / "growing")
    convert_series(tmp_path / "growing", tmp_path / "growing.nii.gz")
    whole = SimpleNamespace(files=sorted_slices(tmp_path / "growing"), volume=nib.load(tmp_path / "growing.nii.gz"))
    place.orthanc.store(files[:6])
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    until(lambda: uid in objects(place))
    store(place, segmentation(whole))
    assert not objects(place)[uid]["labels"]
    place.orthanc.store(files[6:])
    until(lambda: objects(place)[uid]["labels"])


def test_what_fails_does_not_keep_the_others(tmp_path):
    """One segmentation that the PACS cannot deliver, and one that makes us fail, before one that has no series."""
    listed = [("1", "2", uid) for uid in ("1.1", "1.2", "1.3")]

    def instance(study, series, uid):
        if uid == "1.1":
            raise RequestError(502, "the PACS answered 500")
        return 1 / 0 if uid == "1.2" else pydicom.Dataset()

    pacs = SimpleNamespace(series=dict, segmentations=lambda: listed, instance=instance)
    Synchronization(pacs, StudiesFolder(tmp_path, PacsImages(pacs, tmp_path)), {}, send=True).run()
    outcomes = Outcomes(tmp_path / ".rep3d/segmentations")
    assert outcomes.of("1.3")["refused"] and outcomes.of("1.1").keys() == outcomes.of("1.2").keys() == {SEEN}


def test_a_label_is_sent_once(tmp_path, series, place):
    """A PACS that stores and answers late gets no second copy."""
    sent = []

    def keep(dataset):
        sent.append(str(dataset.SOPInstanceUID))
        raise RequestError(502, "the PACS does not answer as expected (ReadTimeout)")

    real = Pacs(place.orthanc.dicomweb, ["CT"], {})
    pacs = SimpleNamespace(
        series=real.series, fetch=real.fetch, store=keep, segmentations=lambda: [("1", "2", uid) for uid in sent]
    )
    store = StudiesFolder(tmp_path / "kept", PacsImages(pacs, tmp_path / "kept"))
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image((LIVER * ball(series)).astype(np.uint8), series.volume.affine), path)
    store.save_label(series.uid, str(path), "final", {"model": "amos_ct"})
    bundle = choose_bundles(place.folder / "bundles", "amos_ct")
    for _ in range(3):
        synchronization = Synchronization(pacs, store, bundle, send=True)  # as after a restart
        synchronization.run()
    assert len(sent) == 1 and store.get_label_info(series.uid, "final")["segmentation"] == sent[0]
    assert len(store.versions(series.uid)) == 1


def test_a_pacs_that_is_not_there_answers_at_once():
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(RequestError, match="PACS"):
            Pacs("http://127.0.0.1:1/dicom-web", ["CT", "MR"], {}).series()
    assert time.monotonic() - start < 5


def test_a_segmentation_waits_for_its_series(place, tmp_path):
    files = write_series(tmp_path / "late")
    convert_series(tmp_path / "late", tmp_path / "late.nii.gz")
    late = SimpleNamespace(files=sorted_slices(tmp_path / "late"), volume=nib.load(tmp_path / "late.nii.gz"))
    store(place, segmentation(late))
    place.server.request("GET", "/datastore/")
    place.orthanc.store(files)
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    until(lambda: uid in objects(place) and objects(place)[uid]["labels"])


def test_a_series_that_grows_is_fetched_again(place, tmp_path):
    files = write_series(tmp_path / "growing")
    place.orthanc.store(files[:6])
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    until(lambda: uid in objects(place))

    def slices():
        content = place.server.request("GET", f"/datastore/image?image={uid}").content
        (tmp_path / "image.nii.gz").write_bytes(content)
        return nib.load(tmp_path / "image.nii.gz").shape[2]

    assert slices() == 6
    place.orthanc.store(files[6:])
    until(lambda: slices() == 12)


@pytest.mark.parametrize(
    "path", ["../system", "system", "studies/../../system", "servers", "studies/%2e%2e/%2e%2e/system"]
)
def test_the_proxy_passes_dicomweb_alone(place, path):
    request = requests.Request("GET", place.server.url).prepare()
    request.url = f"{place.server.url}/proxy/dicom/wado/{path}"
    assert requests.Session().send(request, timeout=30).status_code == 404


@pytest.mark.parametrize("path", ["studies/1.2/export/archive", "series/1.2/modify", "instances", "studies/../studies"])
def test_the_proxy_stores_instances_alone(place, path):
    headers = {"Content-Type": "multipart/related; boundary=x"}
    request = requests.Request("POST", place.server.url, data=b"x", headers=headers).prepare()
    request.url = f"{place.server.url}/proxy/dicom/wado/{path}"
    assert requests.Session().send(request, timeout=30).status_code == 404


def test_the_proxys_answers_run_nothing(place):
    answer = place.server.request("GET", "/proxy/dicom/qido/studies")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert place.server.request("POST", "/proxy/dicom/wado/studies", data=b"x").status_code == 400


def test_a_link_of_another_page_opens_the_viewer_and_nothing_else(place):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert place.server.request("GET", "/ohif/viewer", headers=headers).status_code == 200
    assert place.server.request("GET", "/datastore/", headers=headers).status_code == 403


def test_only_what_is_searched_for(place):
    for search, found in (({}, True), ({"StudyDate": "20251231-"}, True), ({"PatientID": "nobody"}, False)):
        assert (place.uids["CT"] in Pacs(place.orthanc.dicomweb, ["CT"], search).series()) is found


@pytest.mark.parametrize("search", ["Nonsense=1", "PatientID", "PatientID="])
def test_a_search_that_is_none(search, tmp_path):
    with pytest.raises(ValueError, match="expected KEYWORD=VALUE"):
        read_settings(tmp_path, {"search": search})


def test_credentials_in_the_address():
    with pytest.raises(ValueError, match="MONAI_LABEL_DATASTORE_USERNAME"):
        connect("http://name:secret@127.0.0.1/dicom-web", ["CT"], {})


def test_the_proxy_keeps_the_query(place):
    found = place.server.request("GET", "/proxy/dicom/qido/series?Modality=MR").json()
    assert [item["0020000E"]["Value"][0] for item in found] == [place.uids["MR"]]


def test_the_viewer_knows_its_server(place):
    answer = place.server.request("GET", "/ohif/viewer")
    assert answer.headers["content-type"].startswith("text/html")
    address = place.server.url.replace(":", "%3A").replace("/", "%2F")
    assert f"MONAILABEL_SERVER_URL={address}%2F;" in answer.headers["set-cookie"]


def test_a_pacs_that_is_away(place):
    place.orthanc.stop()
    try:
        time.sleep(2 * KEPT_SECONDS)
        answer = place.server.request("GET", "/datastore/")
        assert answer.status_code == 502 and "PACS" in answer.json()["detail"]
    finally:
        place.orthanc.start()
    until(lambda: place.server.request("GET", "/datastore/").status_code == 200)
