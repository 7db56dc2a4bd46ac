"""A DICOM series that a test can afford."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import BasicTextSRStorage, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage}
BALL = 900  # HU, in air


def write_series(folder: Path, modality: str = "CT", *, slices: int = 12, study: str | None = None) -> list[Path]:
    """A bright ball in air, off the middle; 64 columns and 48 rows of 2 mm, slices every 3 mm, the last one first."""
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = np.mgrid[:slices, :48, :64]
    ball = (2 * (x - 22)) ** 2 + (2 * (y - 30)) ** 2 + (3 * (z - slices / 2)) ** 2 < 16**2
    hounsfield = np.where(ball, BALL, -1000)
    series, study, frame = generate_uid(), study or generate_uid(), generate_uid()
    paths = []
    for number in range(slices):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = STORAGE[modality], generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.SeriesDescription = modality, "ball"
        dataset.PatientName, dataset.PatientID = "Phantom^Ball", "P1"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, slices - number
        dataset.Manufacturer = dataset.PositionReferenceIndicator = dataset.Laterality = ""
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [-64, -48, 3 * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [2, 2], 5
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 48, 64, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "HU"
        dataset.WindowCenter, dataset.WindowWidth = 40, 300
        dataset.PixelData = hounsfield[number].astype("<i2").tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        paths.append(folder / f"{number:03d}.dcm")
        dataset.save_as(paths[-1], write_like_original=False)
    return paths


def change_tags(paths: list[Path], **values: object) -> None:
    """Give files other values of tags."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.save_as(path)


def make_report(paths: list[Path]) -> None:
    """Turn files into what is no image."""
    change_tags(paths, SOPClassUID=BasicTextSRStorage, Rows=None)
