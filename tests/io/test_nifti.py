import gzip
import itertools
import re
import struct
import time

import nibabel as nib
import numpy as np
import pytest

from rep3d.io.bounded import MAX_MEMBERS
from rep3d.io.geometry import TOLERANCE, TooLargeError, VolumeError, geometry_note
from rep3d.io.nifti import label_image, read_geometry, read_volume

SHAPE = (6, 7, 8)
VOXELS = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
AFFINE = np.array([[2.0, 0, 0, -20], [0, 3.0, 0, 10], [0, 0, 4.0, 5], [0, 0, 0, 1]])


def save(path, voxels=VOXELS, affine=AFFINE, unit="mm", kind=nib.Nifti1Image):
    volume = kind(voxels, affine)
    volume.set_qform(affine, 1)
    volume.header.set_xyzt_units(unit)
    nib.save(volume, path)
    return path


# --- units


@pytest.mark.parametrize(("unit", "size"), [("mm", 1.0), ("unknown", 1.0), ("meter", 1e-3), ("micron", 1e3)])
def test_units(unit, size, tmp_path):
    scaled = np.diag([size, size, size, 1]) @ AFFINE
    geometry = read_geometry(save(tmp_path / "a.nii.gz", affine=scaled, unit=unit))
    np.testing.assert_allclose(geometry.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(geometry.itk_affine, AFFINE, rtol=1e-6)
    assert geometry_note(geometry) == ""


def test_a_unit_that_does_not_exist(tmp_path):
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[123] = 5
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="a.nii: xyzt_units has the spatial unit 5, expected 0 to 3"):
        read_geometry(path)


# --- ITK's view


def odd_header(path, change, voxels=VOXELS):
    """A file whose header is changed byte by byte, as nibabel would not write it."""
    save(path, voxels)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def negative_pixdim(content):
    struct.pack_into("<f", content, 80, -2.0)
    struct.pack_into("<h", content, 254, 0)


def other_spacing_than_the_sform(content):
    struct.pack_into("<4f", content, 76, 1.0, 2.0, 3.0, 9.0)


def no_pixdim(content):
    struct.pack_into("<4f", content, 76, 0.0, 0.0, 0.0, 0.0)


def quaternion_too_long(content):
    struct.pack_into("<3f", content, 256, 0.8, 0.6, 0.2)
    struct.pack_into("<2h", content, 252, 1, 2)


def two_opinions(path, qcode, scode, degrees=30, kind=nib.Nifti1Image, unit="mm"):
    """The qform is turned and moved against the sform."""
    volume = kind(VOXELS, AFFINE)
    qform = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=np.deg2rad(degrees)) @ AFFINE[:3, :3], (100, 50, 0))
    volume.set_qform(qform, qcode)
    volume.set_sform(AFFINE, scode)
    volume.header.set_xyzt_units(unit)
    nib.save(volume, path)
    return path


def mirrored(path):
    """The sform runs to the left; the qform says so by its codes only."""
    volume = nib.Nifti1Image(VOXELS, AFFINE)
    volume.set_qform(AFFINE, 1)
    volume.set_sform(np.diag([-1, 1, 1, 1]) @ AFFINE, 4)
    nib.save(volume, path)
    return path


def big_endian(path):
    volume = nib.Nifti1Image(VOXELS, AFFINE, nib.Nifti1Header(endianness=">"))
    volume.set_qform(AFFINE @ nib.affines.from_matvec(np.eye(3), (5, 0, 0)), 1)
    nib.save(volume, path)
    return path


CODES = list(itertools.product((0, 1, 2), (0, 1, 2, 4)))
HEADERS = {
    **{f"codes {q} {s}": lambda path, q=q, s=s: two_opinions(path, q, s) for q, s in CODES},
    "slightly turned": lambda path: two_opinions(path, 1, 2, degrees=0.01),
    "metres": lambda path: two_opinions(path, 1, 2, unit="meter"),
    "mirrored": mirrored,
    "big endian": big_endian,
    **{
        change.__name__: lambda path, change=change: odd_header(path, change)
        for change in (negative_pixdim, other_spacing_than_the_sform, no_pixdim, quaternion_too_long)
    },
}


def place(image):
    return image.GetOrigin(), image.GetSpacing(), image.GetDirection()


@pytest.mark.parametrize("header", HEADERS)
def test_every_reader_sees_the_label_map_on_its_scan(header, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = HEADERS[header](tmp_path / "scan.nii")
    voxels, geometry = read_volume(path)
    seen = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(seen.GetDirection(), (3, 3)) * seen.GetSpacing()
    affine[:3, 3] = seen.GetOrigin()
    # Where sform and qform differ by rounding, ITK takes the other one.
    np.testing.assert_allclose(geometry.itk_affine, np.diag([-1, -1, 1, 1]) @ affine, rtol=1e-5, atol=1e-3)
    labels = (voxels > 100).astype(np.uint8)
    for suffix in (".nii.gz", ".nii"):
        nib.save(label_image(labels, geometry), tmp_path / f"label{suffix}")
        label = sitk.ReadImage(str(tmp_path / f"label{suffix}"))
        assert place(label) == place(seen)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label).T, labels)
        again = nib.load(tmp_path / f"label{suffix}")
        np.testing.assert_array_equal(again.affine, nib.load(path).affine)
        assert again.get_data_dtype() == np.uint8 and again.dataobj.slope == 1


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("codes 1 1", ""),  # ITK goes by the sform of code 1, too
        ("codes 0 2", ""),
        ("codes 1 2", "readers put this scan at places up to 1.. mm apart"),
        ("slightly turned", "readers put this scan"),
        ("mirrored", "readers put this scan at places up to 4. mm apart"),
        ("negative_pixdim", "readers put this scan"),
        ("codes 0 0", "does not tell where the scan lies"),
    ],
)
def test_what_is_said(header, words, tmp_path):
    note = geometry_note(read_geometry(HEADERS[header](tmp_path / "scan.nii")))
    assert bool(note) == bool(words)
    assert re.match(words, note.removeprefix("the header "))


def test_the_label_map_of_nifti_2_is_nifti_2(tmp_path):
    """ITK reads neither."""
    path = two_opinions(tmp_path / "a.nii", 1, 2, kind=nib.Nifti2Image)
    label = label_image(np.zeros(SHAPE, np.uint8), read_geometry(path))
    nib.save(label, tmp_path / "label.nii")
    again, scan = nib.load(tmp_path / "label.nii"), nib.load(path)
    assert isinstance(again, nib.Nifti2Image)
    np.testing.assert_array_equal(again.get_sform(), scan.get_sform())
    np.testing.assert_array_equal(again.get_qform(), scan.get_qform())


def test_a_sheared_scan_without_a_qform(tmp_path):
    affine = AFFINE.copy()
    affine[0, 1] = 1
    nib.save(nib.Nifti1Image(VOXELS, affine), tmp_path / "a.nii")
    geometry = read_geometry(tmp_path / "a.nii")
    assert geometry.itk_affine is None and geometry.dispute > TOLERANCE
    assert "cannot place this scan" in geometry_note(geometry)
    nib.save(label_image(np.zeros(SHAPE, np.uint8), geometry), tmp_path / "label.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "label.nii").affine, nib.load(tmp_path / "a.nii").affine)


# --- voxels


@pytest.mark.parametrize("dtype", ["<u1", "<i2", ">i2", "<f4", ">f8"])
@pytest.mark.parametrize("slope", [None, (2.0, -1024.0)])
def test_voxels_are_those_of_nibabel(dtype, slope, tmp_path):
    volume = nib.Nifti1Image(VOXELS.astype(dtype), AFFINE, nib.Nifti1Header(endianness=dtype[0]))
    volume.set_data_dtype(np.dtype(dtype))
    if slope:
        volume.header.set_slope_inter(*slope)
    nib.save(volume, tmp_path / "a.nii.gz")
    voxels, geometry = read_volume(tmp_path / "a.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(voxels, expected)
    assert voxels.dtype == geometry.dtype == expected.dtype.newbyteorder("=") and voxels.flags.writeable


@pytest.mark.parametrize("dtype", ["<u1", "<i2", ">i2", "<f4", ">f8"])
@pytest.mark.parametrize("slope", [None, (0.73, -1024.3)])
def test_voxels_in_single_precision_are_the_same_ones_rounded(dtype, slope, tmp_path):
    """As ITK rounds them; what is not scaled keeps its type."""
    sitk = pytest.importorskip("SimpleITK")
    volume = nib.Nifti1Image(VOXELS.astype(dtype), AFFINE, nib.Nifti1Header(endianness=dtype[0]))
    volume.set_data_dtype(np.dtype(dtype))
    if slope:
        volume.header.set_slope_inter(*slope)
    nib.save(volume, tmp_path / "a.nii.gz")
    whole, _ = read_volume(tmp_path / "a.nii.gz")
    voxels, geometry = read_volume(tmp_path / "a.nii.gz", single=True)
    assert voxels.dtype == geometry.dtype == (np.float32 if slope else whole.dtype) and voxels.flags.writeable
    np.testing.assert_array_equal(voxels, whole.astype(voxels.dtype))
    if slope and dtype.endswith(("u1", "i2")):
        np.testing.assert_array_equal(voxels.T, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))))


def test_the_limit_counts_what_scaling_makes_of_them(tmp_path):
    volume = nib.Nifti1Image(np.zeros((20, 20, 20), np.uint8), AFFINE)
    volume.header.set_slope_inter(2.0, 1.0)
    nib.save(volume, tmp_path / "a.nii.gz")
    assert read_geometry(tmp_path / "a.nii.gz", max_bytes=64_000).nbytes == 64_000
    with pytest.raises(TooLargeError, match="20 x 20 x 20 voxels of float64"):
        read_volume(tmp_path / "a.nii.gz", max_bytes=63_999)


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1)])
def test_one_volume_of_more_dimensions(shape, tmp_path):
    voxels, geometry = read_volume(save(tmp_path / "a.nii.gz", VOXELS.reshape(shape)))
    assert voxels.shape == geometry.shape == SHAPE
    np.testing.assert_array_equal(voxels, VOXELS)
    assert label_image(voxels.astype(np.uint8), geometry).shape == SHAPE


def whole(tmp_path):
    """Its voxels are stored, not compressed: a changed one is found by the checksum alone."""
    content = nib.Nifti1Image(VOXELS, AFFINE).to_bytes()
    return tmp_path / "a.nii.gz", gzip.compress(content, compresslevel=0), content


DAMAGES = {
    "changed voxels": lambda packed, content: packed[:900] + bytes(40) + packed[940:],
    "no checksum": lambda packed, content: packed[:-8],
    "cut": lambda packed, content: packed[:-500],
    "another file after it": lambda packed, content: packed + b"junk",
    "another volume after it": lambda packed, content: packed + packed,
    "voxels after the last": lambda packed, content: gzip.compress(content + bytes(100)),
    "fewer voxels": lambda packed, content: gzip.compress(content[:-4]),
    "not compressed": lambda packed, content: content,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file(damage, tmp_path):
    path, packed, content = whole(tmp_path)
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_volume(path)[0], VOXELS)
    path.write_bytes(DAMAGES[damage](packed, content))
    with pytest.raises(VolumeError, match="a.nii.gz: ") as raised:
        read_volume(path)
    assert str(tmp_path) not in raised.value.reason and "\n" not in raised.value.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:-4], "the file is cut, .* 1340 bytes, expected 1344"),
        (lambda c: c + b"\0", "goes on behind the 1344"),
    ],
)
def test_uncompressed_file_of_another_length(change, words, tmp_path):
    path = save(tmp_path / "a.nii")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VolumeError, match=words):
        read_volume(path)


def test_cifti(tmp_path):
    labels = nib.cifti2.LabelAxis(["a"], {0: ("b", (0, 0, 0, 1))})
    brain = nib.cifti2.BrainModelAxis.from_mask(np.ones(5), name="left cortex")
    nib.save(nib.Cifti2Image(np.zeros((1, 5), np.float32), (labels, brain)), tmp_path / "a.dlabel.nii")
    with pytest.raises(VolumeError, match="a.dlabel.nii: is a CIFTI file, expected a NIfTI volume"):
        read_geometry(tmp_path / "a.dlabel.nii")


def test_file_of_another_format(tmp_path):
    (tmp_path / "a.nii").write_bytes(nib.MGHImage(VOXELS, AFFINE).to_bytes())
    with pytest.raises(VolumeError, match="cannot be read as NIfTI|expected a NIfTI volume"):
        read_geometry(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.nii.gz", b"", "0 bytes; Empty file"),
        ("a.nii.gz", b"text", "4 bytes; it is not a gzip file"),
        ("a.nii", b"text" * 200, "800 bytes; Cannot work out file type of it"),
    ],
)
def test_a_file_is_named_once(name, content, told, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VolumeError) as raised:
        read_volume(path)
    assert str(raised.value) == f"{path}: cannot be read as NIfTI ({told})"


@pytest.mark.parametrize(
    ("codes", "pixdim", "cause"),
    [
        ({"qform_code": 1, "sform_code": 0}, [1, -1, 2], "its pixdim has negative voxel sizes"),
        ({"qform_code": 0, "sform_code": 1}, [2, 1, 2], "its sform and its pixdim differ"),
        ({"qform_code": 1, "sform_code": 2}, [2, 1, 2], "its qform and sform differ"),
    ],
)
def test_the_note_names_what_differs(codes, pixdim, cause, tmp_path):
    volume = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.diag([1, 1, 2, 1]))
    volume.set_qform(np.diag([1, 1, 2, 1]), 1)
    nib.save(volume, tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    struct.pack_into("<3f", content, 80, *pixdim)
    struct.pack_into("<2h", content, 252, codes["qform_code"], codes["sform_code"])
    (tmp_path / "scan.nii").write_bytes(content)
    assert f" mm apart: {cause}. It is computed" in geometry_note(read_geometry(tmp_path / "scan.nii"))


def test_a_pair_of_files(tmp_path):
    """Its voxels lie in another file, whatever the header is called."""
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[344:348] = b"ni1\0"
    path.write_bytes(content)
    (tmp_path / "a.img").write_bytes(b"TOP SECRET" * 1000)
    for read in (read_geometry, read_volume):
        with pytest.raises(VolumeError, match="is the header of a pair of files"):
            read(path)


@pytest.mark.parametrize("offset", [1e12, 2**27, -352])
def test_voxels_far_behind_the_header(offset, tmp_path):
    """A small compressed file may hold any number of bytes before the voxels."""
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = np.array(offset, "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"vox_offset is|cannot be read as NIfTI \(.*vox offset"):
        read_volume(path)


@pytest.mark.parametrize("size", [0, -16, 2**31 - 16])
def test_extensions_that_tell_any_length(size, tmp_path):
    """nibabel reads as many bytes of them as they tell, of length 0 all that a compressed file unpacks to."""
    path = save(tmp_path / "a.nii")
    content = path.read_bytes()
    header = bytearray(content[:348] + b"\1\0\0\0" + np.array([size, 4], "<i4").tobytes() + bytes(24))
    header[108:112] = np.array(len(header), "<f4").tobytes()
    path.write_bytes(bytes(header) + content[352:])
    np.testing.assert_array_equal(read_volume(path)[0], VOXELS)


def test_a_gzip_file_of_very_many_empty_members(tmp_path):
    """Python's own reader goes on for minutes in an upload of them."""
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"") * (MAX_MEMBERS + 1) + gzip.compress(save(tmp_path / "b.nii").read_bytes()))
    start = time.monotonic()
    with pytest.raises(VolumeError, match="more than 131072 gzip members"):
        read_geometry(path)
    assert time.monotonic() - start < 10


def test_a_gzip_file_of_some_members(tmp_path):
    """As bgzip writes it, with an empty one at the end."""
    content = save(tmp_path / "b.nii").read_bytes()
    pieces = [content[start : start + 100] for start in range(0, len(content), 100)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(gzip.compress(piece) for piece in [*pieces, b""]))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0], VOXELS)


def test_zeros_behind_a_gzip_file(tmp_path):
    """As tapes and some archives pad it."""
    path = save(tmp_path / "a.nii.gz", VOXELS)
    path.write_bytes(path.read_bytes() + bytes(100_000))
    np.testing.assert_array_equal(read_volume(path)[0], np.asanyarray(nib.load(path).dataobj))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VolumeError, match="follows the zeros"):
        read_volume(path)
