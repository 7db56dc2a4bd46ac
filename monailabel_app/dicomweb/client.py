"""A PACS that speaks DICOMweb: which series it has, fetching them, and segmentations there and back."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from monailabel.config import settings
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from monailabel_app.errors import RequestError

logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # its messages name patients' studies
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
UID_LENGTH = 64
TIMEOUT = (5, 30)  # seconds to connect, and between two pieces of an answer
KEPT_SECONDS = 2  # that a list of series is taken for current
AS_STORED = (("application/dicom", "*"),)  # any transfer syntax: the PACS need not transcode
FIELDS = ["StudyDate", "StudyTime", "NumberOfSeriesRelatedInstances", "SeriesDescription"]
# What a viewer may ask for: searches, metadata, pixels, bulk data, of studies, series and instances.
RESOURCE = re.compile(r"(studies|series|instances)(/[\w.,-]+)*/?")
STORE = re.compile(r"studies(/[0-9.]+)?/?")
COUNT = ".count"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """What a PACS tells of a series of images."""

    uid: str
    study: str
    modality: str
    patient_id: str
    study_date: str
    study_time: str
    description: str
    count: int  # of instances; 0: not told

    def info(self) -> dict[str, str]:
        """In the words that MONAI Label's clients show."""
        return {
            "Modality": self.modality,
            "PatientID": self.patient_id,
            "StudyDate": self.study_date,
            "StudyTime": self.study_time,
            "SeriesDescription": self.description,
            "StudyInstanceUID": self.study,
            "SeriesInstanceUID": self.uid,
        }


def _answered(function: Callable[P, T]) -> Callable[P, T]:
    """What the PACS does wrong becomes a RequestError."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            raise RequestError(502, f"the PACS answered {status}") from error
        except (requests.RequestException, InvalidDicomError, ValueError, KeyError) as error:
            raise RequestError(502, f"the PACS does not answer as expected ({type(error).__name__})") from error

    return call


class Pacs:
    """A DICOMweb service.

    Args:
        url: its root, such as http://127.0.0.1:8042/dicom-web.
        modalities: of the series that are images to label.
        search: what else these must have, values by DICOM keyword; `*` and ranges of dates as in QIDO-RS.
        user, password: for its basic authentication; empty: none.
    """

    def __init__(
        self, url: str, modalities: Sequence[str], search: Mapping[str, str], user: str = "", password: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self.modalities = tuple(modalities)
        self.search = dict(search)
        self._session = _Session()
        if user:
            self._session.auth = (user, password)
        self._client = DICOMwebClient(self.url, self._session)
        self._client.set_http_retry_params(retry=False)  # it would wait 30 seconds; who waits here can try again
        self._lock = threading.Lock()
        self._series: dict[str, Series] = {}
        self._failure = ""
        self._listed = -float("inf")

    def series(self) -> dict[str, Series]:
        """The series of images by UID; a single instance is no volume.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        with self._lock:
            if time.monotonic() - self._listed > KEPT_SECONDS:
                try:
                    found = [item for modality in self.modalities for item in self._search(modality)]
                    self._series = {item.uid: item for item in found if item.count != 1 and is_uid(item.uid)}
                    self._failure = ""
                except RequestError as error:
                    self._failure = error.message  # for those who waited meanwhile, too
                self._listed = time.monotonic()
            if self._failure:
                raise RequestError(502, self._failure)
            return self._series

    @_answered
    def fetch(self, series: Series, folder: Path) -> None:
        """Download a series into a new folder, in whose file COUNT stands how many instances the PACS told of.

        Raises:
            RequestError: 502, the PACS does not answer, or with fewer instances.
        """
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            received = 0
            for instance in self._client.iter_series(series.study, series.uid, AS_STORED):
                instance.save_as(temporary / f"{received:05d}.dcm", write_like_original=False)
                received += 1
            if received < series.count:
                raise RequestError(502, f"the PACS sent {received} of the {series.count} slices of the series")
            (temporary / COUNT).write_text(str(series.count), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        except OSError as error:
            if isinstance(error, requests.RequestException):
                raise
            raise RequestError(507, f"the series cannot be stored ({error.strerror})") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @_answered
    def segmentations(self) -> list[tuple[str, str, str]]:
        """Study, series and instance UIDs of all DICOM Segmentations, the oldest first.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        wanted = {"Modality": "SEG", "SOPClassUID": SegmentationStorage}
        fields = ["ContentDate", "ContentTime"]
        datasets = _all_pages(self._client.search_for_instances, "SOPInstanceUID", fields, wanted)
        datasets.sort(key=lambda item: (str(item.get("ContentDate", "")), str(item.get("ContentTime", ""))))
        tags = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        uids = [tuple(str(dataset.get(tag)) for tag in tags) for dataset in datasets]
        return [(study, series, uid) for study, series, uid in uids if all(map(is_uid, (study, series, uid)))]

    @_answered
    def instance(self, study: str, series: str, uid: str) -> pydicom.Dataset:
        """One instance.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        return self._client.retrieve_instance(study, series, uid, AS_STORED)

    @_answered
    def store(self, dataset: pydicom.Dataset) -> None:
        """Add an instance.

        Raises:
            RequestError: 502, the PACS does not take it.
        """
        answer = self._client.store_instances([dataset])
        if answer.get("FailedSOPSequence"):
            raise RequestError(502, "the PACS refused the segmentation")

    @_answered
    def forward(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes | None
    ) -> requests.Response:
        """A viewer's DICOMweb request, answered by the PACS as a stream. POST stores instances, and nothing else.

        Raises:
            RequestError: 404, no DICOMweb resource; 502, the PACS does not answer.
        """
        if not (STORE if method == "POST" else RESOURCE).fullmatch(path) or ".." in path:
            raise RequestError(404, f"{path[:200]!r} is no DICOMweb resource")
        url = f"{self.url}/{path}" + (f"?{query}" if query else "")
        return self._session.request(method, url, headers=dict(headers), data=body, stream=True)

    @_answered
    def _search(self, modality: str) -> list[Series]:
        wanted = {**self.search, "Modality": modality}
        return list(map(_series, _all_pages(self._client.search_for_series, "SeriesInstanceUID", FIELDS, wanted)))


def _all_pages(
    search: Callable[..., list[dict[str, dict]]], uid: str, fields: Sequence[str], wanted: Mapping[str, str]
) -> list[pydicom.Dataset]:
    """What a search finds, page by page, until one brings nothing new."""
    found: dict[str, pydicom.Dataset] = {}
    while True:
        page = search(fields=fields, search_filters=dict(wanted), offset=len(found) or None)
        datasets = [pydicom.Dataset.from_json(item) for item in page]
        new = {str(dataset.get(uid)): dataset for dataset in datasets if str(dataset.get(uid)) not in found}
        if not new:
            return list(found.values())
        found |= new


def connect(url: str, modalities: Sequence[str], search: Mapping[str, str]) -> Pacs:
    """The PACS at an address, with the name and password that MONAI Label's environment variables hold.

    Raises:
        ValueError: the address holds them, which clients would see.
    """
    if "@" in url:
        raise ValueError("studies holds a name or password; give them as MONAI_LABEL_DATASTORE_USERNAME and _PASSWORD")
    user, password = settings.MONAI_LABEL_DATASTORE_USERNAME, settings.MONAI_LABEL_DATASTORE_PASSWORD
    return Pacs(url, modalities, search, user, password)


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM UID, which may name a file."""
    return len(text) <= UID_LENGTH and UID.fullmatch(text) is not None


class _Session(requests.Session):
    """With a time limit: a PACS that hangs must not hang the server. It goes nowhere but to the PACS's own address."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        answer = super().request(*args, **{"timeout": TIMEOUT, **kwargs, "allow_redirects": False})
        if 300 <= answer.status_code < 400:
            answer.close()
            raise RequestError(502, "the PACS sends on to another address, which is not followed")
        return answer


def _series(dataset: pydicom.Dataset) -> Series:
    text = lambda tag: str(dataset.get(tag) or "")  # noqa: E731
    return Series(
        text("SeriesInstanceUID"),
        text("StudyInstanceUID"),
        text("Modality"),
        text("PatientID"),
        text("StudyDate"),
        text("StudyTime"),
        text("SeriesDescription"),
        int(dataset.get("NumberOfSeriesRelatedInstances") or 0),
    )
