"""DICOM series as NIfTI, made once."""

from __future__ import annotations

import threading
from pathlib import Path

from monailabel_app.errors import RequestError
from monailabel_app.studies.dicom import convert_series
from rep3d.files import read_json, write_json

CONVERSION = 2  # the number rises when series are read otherwise; what older software wrote is made anew

Files = dict[str, list[int]]  # size and time of the files of a folder, by name


class ConvertedSeries:
    """A NIfTI file for each series, beside a list of the files that it was made of; refusals are kept in memory.

    Args:
        folder: of the files; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # of conversions: each has a volume in memory
        self._refused: dict[str, tuple[Files, RequestError]] = {}

    def file(self, image_id: str, series: Path) -> Path:
        """The file of a series; made anew when its folder has changed.

        Raises:
            RequestError: the series makes no volume.
        """
        path = self._folder / f"{image_id}.nii.gz"
        files = _files(series)
        if self._is_settled(image_id, path, files):  # nobody waits for others' series
            return path
        with self._lock:
            if not self._is_settled(image_id, path, files):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._convert(image_id, series, files, path)
        return path

    def _is_settled(self, image_id: str, path: Path, files: Files) -> bool:
        """Whether the file was made of these files; raises at once where these have been refused before."""
        known, refusal = self._refused.get(image_id, (None, None))
        if refusal is not None and known == files:
            raise RequestError(refusal.status, refusal.message)
        return path.is_file() and read_json(path.with_suffix(".json")) == _made_of(files)

    def _convert(self, image_id: str, series: Path, files: Files, path: Path) -> None:
        try:
            convert_series(series, path)
        except RequestError as error:
            self._refused[image_id] = files, error
            raise
        write_json(path.with_suffix(".json"), _made_of(files))


def _made_of(files: Files) -> dict[str, object]:
    return {"conversion": CONVERSION, "files": files}


def _files(series: Path) -> Files:
    states = {file.name: file.stat() for file in sorted(series.iterdir()) if file.is_file()}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}
