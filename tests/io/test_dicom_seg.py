"""Label maps as DICOM Segmentations and back."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from bundle_helpers import AUTOMATIC, read
from dicom_helpers import change_tags, write_series

from rep3d.io.dicom import convert_series, sorted_slices
from rep3d.io.dicom_seg import SNOMED, _choose, make_segmentation, read_segmentation
from rep3d.io.geometry import VolumeError

LABELS = {"liver": 3, "left kidney": 1, "tumor": 7, "spleen": 200}


@pytest.fixture
def slices(tmp_path):
    write_series(tmp_path / "series")
    return sorted_slices(tmp_path / "series")


@pytest.fixture
def voxels():
    """Random blocks of three of the labels; (D, H, W) as nibabel has them."""
    blocks = np.random.default_rng(0).choice([0, 3, 1, 200], (8, 6, 4), p=[0.7, 0.1, 0.1, 0.1])
    return np.kron(blocks, np.ones((8, 8, 3), int))


def saved(dataset, path):
    dataset.save_as(path)
    return pydicom.dcmread(path)


def test_there_and_back(slices, voxels, tmp_path):
    dataset = saved(make_segmentation(slices, voxels, LABELS, "a model"), tmp_path / "seg.dcm")
    back, affine, found = read_segmentation(dataset, slices)
    assert set(found) == {"liver", "left kidney", "spleen"}  # no voxel is tumor
    for name, index in LABELS.items():
        np.testing.assert_array_equal(back == found.get(name, -1), voxels == index)
    convert_series(tmp_path / "series", tmp_path / "series.nii.gz")
    np.testing.assert_allclose(affine, nib.load(tmp_path / "series.nii.gz").affine, atol=1e-4)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == 3 and measures.SliceThickness == 5


NAMES = {
    "none": (None, "Phantom^Ball", "knee"),
    "utf_8": ("ISO_IR 192", "Yamada^Tarou=山田^太郎", "膝関節"),
    "gb18030": ("GB18030", "Wang^XiaoDong=王^小东", "膝关节"),
    "iso_2022": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "膝関節"),
    "latin_1": ("ISO_IR 100", "Müller^Jörg", "Kniegelenk, beidseitig für Prüfung"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_patients_and_labels_in_any_script(kind, voxels, tmp_path):
    """Also of those in sequences of the series, and whatever its character set is."""
    character_set, patient, procedure = NAMES[kind]
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99LOCAL", procedure
    tags = {"PatientName": patient, "StudyDescription": procedure, "ProcedureCodeSequence": [code]}
    if character_set is not None:
        tags["SpecificCharacterSet"] = character_set
    change_tags(write_series(tmp_path / "series"), **tags)
    slices = sorted_slices(tmp_path / "series")
    dataset = saved(make_segmentation(slices, voxels, {"胆嚢": 3, "膵臓": 1}, "膝"), tmp_path / "seg.dcm")
    assert dataset.PatientName == patient and dataset.StudyDescription == procedure
    assert dataset.ProcedureCodeSequence[0].CodeMeaning == procedure and dataset.ManufacturerModelName == "膝"
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["胆嚢", "膵臓"]
    assert set(read_segmentation(dataset, slices)[2]) == {"胆嚢", "膵臓"}


@pytest.mark.parametrize("bundle", AUTOMATIC, ids=lambda path: path.name)
def test_every_label_has_a_code_and_a_color(bundle, slices):
    channels = read(bundle, "metadata")["network_data_format"]["outputs"]["pred"]["channel_def"]
    labels = {name: int(index) for index, name in channels.items() if int(index)}
    voxels = np.zeros((64, 48, 12), int)
    voxels[: len(labels), 0, 0] = list(labels.values())
    segments = make_segmentation(slices, voxels, labels, "a model").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == list(labels)
    for segment in segments:
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        assert code.CodingSchemeDesignator == "SCT" and code.CodeMeaning.split()[0].lower() != "anatomical"
        assert len(segment.RecommendedDisplayCIELabValue) == 3
    altered = {s.SegmentLabel for s in segments if s.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"}
    assert altered == set(labels) & {"tumor", "cyst"}


def test_an_empty_label_map(slices):
    with pytest.raises(VolumeError, match="empty"):
        make_segmentation(slices, np.zeros((64, 48, 12), int), LABELS, "a model")


@pytest.mark.parametrize(
    ("tag", "message"),
    [("SeriesInstanceUID", "has no SeriesInstanceUID"), ("SOPClassUID", "has no SOPClassUID"), ("PatientID", "lacks")],
)
def test_an_anonymised_series(tag, message, slices, voxels):
    for path in slices:
        dataset = pydicom.dcmread(path)
        delattr(dataset, tag)
        dataset.save_as(path)
    with pytest.raises(VolumeError, match=message):
        make_segmentation(slices, voxels, LABELS, "a model")


def overlap(dataset):
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    dataset.PixelData = b"\xff" * len(dataset.PixelData)


def shift(dataset):
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-64, -47, 0]


def beyond(dataset):
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-64, -48, -3]


def turn(dataset):
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def fractional(dataset):
    dataset.SegmentationType = "FRACTIONAL"


def no_segments(dataset):
    del dataset.SegmentSequence


def other_size(dataset):
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def cut_short(dataset):
    dataset.PixelData = dataset.PixelData[:100]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlap, "overlaps"),
        (shift, "no slice"),
        (beyond, "at slice -1"),
        (turn, "no slice"),
        (fractional, "FRACTIONAL"),
        (no_segments, "cannot be read"),
        (other_size, "expected BINARY"),
        (cut_short, "cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_segmentations_that_do_not_fit(change, message, slices, voxels, tmp_path):
    dataset = make_segmentation(slices, voxels, LABELS, "a model")
    change(dataset)
    with pytest.raises(VolumeError, match=message) as caught:
        read_segmentation(saved(dataset, tmp_path / "seg.dcm"), slices)
    assert caught.value.path == str(tmp_path / "seg.dcm")


# Names that pydicom's dictionary has several codes for: value and category.
ANATOMY, ALTERED, OBJECT = "123037004", "49755003", "260787004"
SEVERAL = {
    "thalamus": ("42695009", ANATOMY),
    "left thalamus": ("42695009", ANATOMY),
    "Left_Thalamus": ("42695009", ANATOMY),
    "pelvis": ("12921003", ANATOMY),
    "radius": ("62413002", ANATOMY),
    "hand": ("85562004", ANATOMY),
    "right hip joint": ("24136001", ANATOMY),
    "pulmonary vein": ("122972007", ANATOMY),
    "descending aorta": ("32672002", ANATOMY),
    "coronary sinus": ("90219004", ANATOMY),
    "mass": ("4147007", ALTERED),
    "foreign body": ("19227008", OBJECT),
    "stenosis": ("Stenosis", ANATOMY),
    "lumen": ("Lumen", ANATOMY),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_names_with_several_codes(name, slices, voxels):
    (segment,) = make_segmentation(slices, voxels, {name: 3}, "a model").SegmentSequence
    (code,), (category,) = segment.SegmentedPropertyTypeCodeSequence, segment.SegmentedPropertyCategoryCodeSequence
    assert (code.CodeValue, category.CodeValue) == SEVERAL[name] and segment.SegmentLabel == name
    assert code.CodingSchemeDesignator == ("SCT" if code.CodeValue.isdigit() else "99REP3D")


def test_every_keyword_has_a_code(caplog):
    """And the log tells which of several, once."""
    several = [keyword for keyword, concepts in SNOMED.items() if len(concepts) > 1]
    _choose.cache_clear()
    with caplog.at_level("INFO", "rep3d"):
        for keyword in [*SNOMED, *several]:
            code, _ = _choose(keyword)
            assert code.value in SNOMED[keyword] or (keyword in several and code.value == keyword[:16])
    assert len(caplog.messages) == len(several) == 69
    assert "SNOMED CT has 119406000, 42695009 for Thalamus: segments get SCT 42695009" in caplog.messages
