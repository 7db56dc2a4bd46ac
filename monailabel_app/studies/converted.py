"""DICOM series as NIfTI, made once."""

from __future__ import annotations

import threading
from pathlib import Path

from monailabel_app.studies.dicom import convert_series
from rep3d.files import read_json, write_json


class ConvertedSeries:
    """A NIfTI file for each series, beside a list of the files that it was made of.

    Args:
        folder: of the files; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def file(self, image_id: str, series: Path) -> Path:
        """The file of a series; made anew when its folder has changed.

        Raises:
            RequestError: the series makes no volume.
        """
        path = self._folder / f"{image_id}.nii.gz"
        parts = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(series.iterdir())}
        with self._lock:
            if not path.is_file() or read_json(path.with_suffix(".json")) != parts:
                self._folder.mkdir(parents=True, exist_ok=True)
                convert_series(series, path)
                write_json(path.with_suffix(".json"), parts)
        return path
