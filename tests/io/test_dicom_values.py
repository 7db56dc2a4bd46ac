"""The values of DICOM slices are those that pydicom has of them."""

import io

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixel_data_handlers.util import apply_modality_lut
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, JPEG2000Lossless, RLELossless

from rep3d.io.dicom import convert_series, sorted_slices
from rep3d.io.geometry import VolumeError

SLICES = 6


def series(folder, change, low=0, high=2000):
    """Noise, with what `change` makes of each data set and its number."""
    noise = np.random.default_rng(0).integers(low, high, (SLICES, 48, 64))
    for number, path in enumerate(write_series(folder, slices=SLICES)):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = noise[number].astype("<i2" if dataset.PixelRepresentation else "<u2").tobytes()
        change(dataset, number)
        dataset.save_as(path)
    return folder


def pet(dataset, number):
    """The first slope is a whole number."""
    dataset.Modality, dataset.RescaleSlope = "PT", 1 if number == 0 else round(0.31 + 0.07 * number, 4)


def philips(dataset, number):
    dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = "MR", 1.2 + 30 * number, -7 * number


def small_slopes(dataset, number):
    dataset.RescaleSlope = 1e-7 * (number + 1)


def intercepts(dataset, number):
    dataset.RescaleIntercept = 0 if number == 0 else -1024.5


def large_slope(dataset, number):
    dataset.RescaleSlope = 100


def negative_slope(dataset, number):
    dataset.RescaleSlope, dataset.RescaleIntercept = -1.5, 10


def without_slope(dataset, number):
    del dataset.RescaleSlope, dataset.RescaleIntercept


def unsigned(dataset, number):
    dataset.PixelRepresentation = 0
    dataset.PixelData = (dataset.pixel_array.astype(np.uint16) + 40000).tobytes()


def both_signs(dataset, number):
    dataset.PixelRepresentation = number % 2


def twelve_bits(dataset, number):
    dataset.BitsStored, dataset.HighBit = 12, 11


def eight_bits(dataset, number):
    dataset.PixelData = (dataset.pixel_array % 256).astype(np.uint8).tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0


def monochrome1(dataset, number):
    dataset.PhotometricInterpretation = "MONOCHROME1"


def monochrome1_unsigned(dataset, number):
    unsigned(dataset, number)
    monochrome1(dataset, number)


def monochrome1_pet(dataset, number):
    pet(dataset, number)
    monochrome1(dataset, number)


def compressed(dataset, number):
    monochrome1(dataset, number)
    dataset.compress(RLELossless)


def jpeg_2000(dataset, number):
    unsigned(dataset, number)
    codestream = io.BytesIO()
    Image.fromarray(dataset.pixel_array).save(codestream, "JPEG2000", no_jp2=True)
    dataset.PixelData = encapsulate([codestream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless


def padding(dataset, number):
    voxels = dataset.pixel_array.copy()
    voxels[:9] = -2000
    dataset.PixelData = voxels.tobytes()
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1900)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (pet, "float32"),
        (philips, "float32"),
        (small_slopes, "float32"),
        (intercepts, "float32"),
        (large_slope, "int32"),
        (negative_slope, "float32"),
        (without_slope, "int16"),
        (unsigned, "uint16"),
        (both_signs, "int32"),
        (twelve_bits, "int16"),
        (eight_bits, "uint8"),
        (monochrome1, "int16"),
        (monochrome1_unsigned, "uint16"),
        (monochrome1_pet, "float32"),
        (compressed, "int16"),
        (jpeg_2000, "uint16"),
        (padding, "int16"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_are_those_of_pydicom(change, dtype, tmp_path):
    folder = series(tmp_path / "series", change)
    convert_series(folder, tmp_path / "a.nii.gz")
    voxels = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    datasets = [pydicom.dcmread(path) for path in sorted_slices(folder)]
    expected = np.stack([apply_modality_lut(dataset.pixel_array, dataset).T for dataset in datasets], axis=2)
    assert voxels.dtype == dtype
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)


def cut(dataset, number):
    """The element is whole, what it holds is not."""
    if number == SLICES - 1:
        dataset.PixelData = dataset.PixelData[:1000]


def lookup_table(dataset, number):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.add_new("LUTData", "OW", bytes(8))
    without_slope(dataset, number)
    dataset.ModalityLUTSequence = [table]


def only_intercept(dataset, number):
    del dataset.RescaleSlope


def no_slope(dataset, number):
    dataset.RescaleSlope = 0


def colour(dataset, number):
    dataset.SamplesPerPixel = 3


def enhanced_ct(dataset, number):
    dataset.SOPClassUID, dataset.NumberOfFrames = EnhancedCTImageStorage, 12


def enhanced_mr(dataset, number):
    """Its place stands in functional groups."""
    dataset.SOPClassUID, dataset.NumberOfFrames = EnhancedMRImageStorage, 12
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing


def wide(dataset, number):
    dataset.PixelData += dataset.PixelData
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 20, 19


def shifted(dataset, number):
    dataset.BitsStored, dataset.HighBit = 12, 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shifted, "000.dcm: HighBit is 15 of 12 bits stored, expected 11"),
        (wide, "20 bits stored in 32 are not read"),
        (cut, "005.dcm: 1000 bytes of pixels, expected 6144"),
        (lookup_table, "000.dcm: .*ModalityLUTSequence"),
        (only_intercept, r"only one of RescaleSlope \(\) and RescaleIntercept \(0.0\)"),
        (no_slope, "RescaleSlope is 0"),
        (colour, "colour"),
        (enhanced_ct, "000.dcm: Enhanced CT Image Storage with 12 frames: multi-frame objects are not read"),
        (enhanced_mr, "000.dcm: Enhanced MR Image Storage with 12 frames: multi-frame objects are not read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_slices_that_are_refused(change, message, tmp_path):
    with pytest.raises(VolumeError, match=message):
        convert_series(series(tmp_path / "series", change), tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()
