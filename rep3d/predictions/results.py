"""The files of a folder of predictions, beside the label maps."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from monai.engines import Evaluator

from rep3d.data.cases import POSTFIX, file_name
from rep3d.data.leakage import some
from rep3d.data.regions import Regions, scored_regions
from rep3d.evaluation.pictures import drawn_by
from rep3d.evaluation.preview import draw_preview
from rep3d.files import read_json, whole_file, write_csv, write_json
from rep3d.format_number import check_format
from rep3d.io.colors import distinct_colors
from rep3d.io.dicom_files import is_dicom
from rep3d.io.geometry import VolumeError, voxel_ml
from rep3d.io.nifti import CHANGED, mark
from rep3d.io.scans import is_series, read_channels
from rep3d.io.volumes import NIFTI, is_untouched, read_volume, split_suffix, untouched_mark
from rep3d.predictions.keys import is_same_scan, scan_key

logger = logging.getLogger(__name__)

RECORD, VOLUMES = "predictions.json", "volumes.csv"
MILLILITRES = " (ml)"  # ends the columns of VOLUMES that are of labels
HEADER = 100_000  # characters of its first line, at most
NOT_OURS = "not made by rep3d, and so not replaced: give another output_dir"
FORMAT = 3  # of RECORD; the number rises with what this code would misread
OUTPUT_FORMATS = ("nii.gz", "nii", "seg.nrrd")


@dataclass(frozen=True)
class Prediction:
    """What is kept of a scan that was segmented.

    Args:
        image: the scan's whole path; of several files that of the first channel.
        scan: tells the scan's files, as they were before they were read, from others, see `scan_key`.
        made_with: tells the weights and settings from others, see `rep3d.predictions.keys.settings_key`.
        label_map: name of the file.
        volumes: millilitres by label, or by region.
        mark: tells the label map's voxels from others, see `rep3d.io.nifti.mark`; empty in records of the format 1.
        no_dicom: no DICOM Segmentation can be made of it, as of a series without a frame of reference; False in records
            of the formats 1 and 2.
    """

    image: str
    scan: str
    made_with: str
    label_map: str
    volumes: dict[str, float]
    mark: str = ""
    no_dicom: bool = False


class Results:
    """The files of a folder of predictions, beside the label maps."""

    def __init__(
        self,
        folder: Path,
        label_names: Sequence[str],
        regions: Regions | None,
        model: str,
        preview: bool,
        window: Sequence[float] | None,
        output_format: str,
    ) -> None:
        self.folder, self.model, self.preview, self.window = folder, model, preview, window
        self.output_format = output_format
        self.labels = {name: index for index, name in enumerate(label_names) if index > 0}
        self.ids = scored_regions(label_names)
        self.measured = scored_regions(label_names, regions)
        self.made_with = ""
        self.scans: Mapping[str, Sequence[str]] = {}
        self.keys: dict[str, str] = {}  # of the scans as they are before they are read: one may be replaced meanwhile
        self.cases: dict[str, Prediction] = {}

    def start(self, made_with: str, scans: Mapping[str, Sequence[str]]) -> None:
        """Read what earlier runs have left.

        Args:
            made_with: as of `Prediction`.
            scans: the files of each case.

        Raises:
            ValueError: as `rep3d.predictions.predict_each`.
        """
        content = read_json(self.folder / RECORD)
        check_format(content.get("format", 1), FORMAT, self.folder / RECORD)
        self.made_with, self.scans = made_with, scans
        try:
            kept_of = content["cases"] if content else {}
            self.cases = {case: Prediction(**kept) for case, kept in kept_of.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder / RECORD}: no record of predictions ({error})") from None
        if not _is_table_of_ours(self.folder / VOLUMES):
            raise ValueError(f"{self.folder / VOLUMES}: {NOT_OURS}")
        self._check_scans()
        for case in scans:
            for other in self._in_other_formats(case):
                if not is_untouched(other):
                    raise ValueError(f"{other}: {CHANGED}")
        self.keys = {case: scan_key(files) for case, files in scans.items()}

    def _check_scans(self) -> None:
        """Refuse to replace label maps of other scans that have the names of these."""
        kept_of = {file_name(case): kept for case, kept in self.cases.items()}
        for case, files in self.scans.items():
            kept = kept_of.get(file_name(case))
            if kept is None or is_same_scan(Path(kept.image), Path(files[0])):
                continue
            if (path := self.folder / kept.label_map).is_file():
                raise ValueError(
                    f"{path} is of {kept.image}, and would be replaced by that of {os.path.abspath(files[0])}: give "
                    "another output_dir"
                )

    def _in_other_formats(self, case: str) -> list[Path]:
        """Label maps of a case that an earlier run was told to write otherwise."""
        names = [f"{file_name(case)}{POSTFIX}.{one}" for one in OUTPUT_FORMATS if one != self.output_format]
        return [self.folder / name for name in names if (self.folder / name).is_file()]

    def is_done(self, case: str) -> bool:
        """Whether an earlier run has left just what this one would. Draws the picture that it was not asked for."""
        kept = self.cases.get(case)
        if kept is None or kept.made_with != self.made_with or kept.scan != self.keys[case]:
            return False
        image = Path(self.scans[case][0])
        path = self.folder / kept.label_map
        expected = [path] + [self._beside(path, ".json")] * _is_nifti(path)
        if is_series(image) and any(kept.volumes.values()) and not kept.no_dicom:
            expected.append(self._beside(path, ".dcm"))
        if not kept.mark or not all(one.is_file() for one in expected) or untouched_mark(path) != kept.mark:
            return False
        picture = self._beside(path, ".png")
        if self.preview and not picture.is_file():
            self._draw(image, read_volume(path)[0], picture)
        return True

    def problem(self, case: str) -> dict[str, str]:
        """The "problem" of a case of which a file would take the place of somebody else's; empty of others."""
        path = self.folder / f"{file_name(case)}{POSTFIX}.{self.output_format}"
        is_written = {".json": _is_nifti(path), ".png": self.preview, ".dcm": is_series(Path(self.scans[case][0]))}
        for target in (self._beside(path, suffix) for suffix, counts in is_written.items() if counts):
            if target.is_file() and not self._is_own(target, case):
                return {"problem": f"{target}: {NOT_OURS}"}
        return {}

    def _is_own(self, path: Path, case: str) -> bool:
        """Whether a file beside a label map is of an earlier run."""
        if path.suffix == ".json":
            return _is_description(path)
        if path.suffix == ".png":
            program = drawn_by(path)
            return program == "rep3d" or program == "Matplotlib" and case in self.cases  # as pictures once told
        import pydicom  # not before: they need the extra "dicom"

        from rep3d.io.dicom_seg import is_own_proposal

        return is_dicom(path) and is_own_proposal(pydicom.dcmread(path, stop_before_pixels=True))

    def add(self, evaluator: Evaluator) -> None:
        """Write what belongs to the label map that was just saved."""
        label: MetaTensor = evaluator.state.output[0]["pred"]  # type: ignore[index]
        voxels = label[0].cpu().numpy().astype(np.uint8)
        case, path = label.meta["case"], Path(label.meta["saved_to"])
        image = Path(self.scans[case][0])
        affine = label.affine.double().cpu().numpy()
        self._remove_earlier(case, path)
        if _is_nifti(path):
            self._describe(path, _volumes(voxels, affine, self.ids))
        has_dicom = is_series(image) and self._write_segmentation(image, voxels, self._beside(path, ".dcm"))
        if self.preview:
            self._draw(image, voxels, self._beside(path, ".png"))
        self.cases[case] = Prediction(
            image=os.path.abspath(image),
            scan=self.keys[case],
            made_with=self.made_with,
            label_map=path.name,
            volumes=_volumes(voxels, affine, self.measured),
            mark=mark(voxels).decode(),
            no_dicom=not has_dicom,
        )
        self.write()

    def _remove_earlier(self, case: str, path: Path) -> None:
        """What an earlier run has left of a case and this one does not write anew."""
        for other in self._in_other_formats(case):
            logger.info("%s takes the place of %s", path, other)
            other.unlink()
        if case in self.cases:
            for other in (self._beside(path, suffix) for suffix in (".png", ".json")):
                if other.is_file() and self._is_own(other, case):
                    other.unlink()

    def write(self) -> None:
        """The table holds what was made with these weights and settings; the record comes last."""
        rows = [
            {"case": case, "image": kept.image, **{f"{name}{MILLILITRES}": ml for name, ml in kept.volumes.items()}}
            for case, kept in self._kept_maps()
            if kept.made_with == self.made_with
        ]
        if rows:
            write_csv(self.folder / VOLUMES, rows)
        cases = {case: asdict(kept) for case, kept in self.cases.items()}
        write_json(self.folder / RECORD, {"format": FORMAT, "cases": cases})

    def tell_left_out(self) -> None:
        """Say which label maps of earlier runs have no row in the table: other weights may know other labels."""
        rows = {kept.label_map for _, kept in self._kept_maps() if kept.made_with == self.made_with}
        others = [kept.label_map for _, kept in self._kept_maps() if kept.label_map not in rows]
        if rows and others:  # without any, an earlier run's table stays
            logger.warning(
                "%s has no row of %d label map(s) there, which were made with other weights or settings: %s; segment "
                "their scans again",
                self.folder / VOLUMES,
                len(others),
                some(others),
            )

    def _kept_maps(self) -> list[tuple[str, Prediction]]:
        """The cases in the record whose label maps lie in the folder."""
        return [(case, kept) for case, kept in sorted(self.cases.items()) if (self.folder / kept.label_map).is_file()]

    def _describe(self, path: Path, volumes: Mapping[str, float]) -> None:
        colors = distinct_colors(self.labels)
        labels = [
            {"value": index, "name": name, "color": [round(255 * part) for part in colors[name]], "ml": volumes[name]}
            for name, index in self.labels.items()
        ]
        made_by = {"bundle": self.model, "software": f"rep3d {version('rep3d')}"}
        write_json(self._beside(path, ".json"), {"label_map": path.name, "labels": labels, **made_by})

    def _write_segmentation(self, series: Path, voxels: np.ndarray, target: Path) -> bool:
        """As DICOM, or not at all: the log says why. One of an earlier run is replaced. Whether there is one now."""
        from rep3d.io.dicom import sorted_slices  # not before: they need the extra "dicom"
        from rep3d.io.dicom_seg import make_segmentation

        target.unlink(missing_ok=True)
        try:
            dataset = make_segmentation(sorted_slices(series), voxels, self.labels, self.model, is_proposal=True)
        except VolumeError as error:
            logger.warning("no DICOM segmentation of %s", error)
            return False
        with whole_file(target) as temporary:
            dataset.save_as(temporary)
        return True

    def _draw(self, image: Path, voxels: np.ndarray, picture: Path) -> None:
        (scan, *_), geometry = read_channels(image)
        volumes = _volumes(voxels, geometry.affine, self.ids)
        draw_preview(scan, geometry.affine, voxels, self.labels, volumes, picture, window=self.window)

    @staticmethod
    def _beside(path: Path, suffix: str) -> Path:
        return path.with_name(split_suffix(path.name)[0] + suffix)


def _volumes(voxels: np.ndarray, affine: np.ndarray, regions: Regions) -> dict[str, float]:
    """Millilitres of regions, to six digits: of a mouse they may be a millionth."""
    counts = np.bincount(voxels.ravel(), minlength=256)
    return {name: float(f"{counts[list(ids)].sum() * voxel_ml(affine):.6g}") for name, ids in regions.items()}


def _is_table_of_ours(path: Path) -> bool:
    """Whether a table of volumes is one that a run wrote, or is still to be written."""
    if not path.is_file():
        return True
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        (columns,) = csv.reader([file.readline(HEADER)])
    return columns[:2] == ["case", "image"] and all(name.endswith(MILLILITRES) for name in columns[2:])


def _is_description(path: Path) -> bool:
    """Whether a file has the names and colours of a label map, as a run writes them."""
    try:
        return str(read_json(path).get("software", "")).startswith("rep3d ")
    except ValueError:
        return False


def _is_nifti(path: Path) -> bool:
    return path.name.endswith(NIFTI)
