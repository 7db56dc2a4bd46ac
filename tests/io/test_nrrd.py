"""NRRD by our own rules: what SimpleITK and 3D Slicer write is read as SimpleITK reads it, anything else is refused."""

import gzip
import os
import time

import numpy as np
import pytest
import SimpleITK as sitk

from rep3d.io.geometry import TooLargeError, VolumeError, geometry_note
from rep3d.io.itk import itk_affine
from rep3d.io.nrrd import MAX_HEADER, read_geometry, read_volume

HEADER = {
    "type": "uint8",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "2 3 4",
    "space directions": "(1.5,0,0) (0,2,0) (0,0,3)",
    "kinds": "domain domain domain",
    "encoding": "raw",
    "space origin": "(10,-20.5,3e1)",
}
VOXELS = np.arange(24, dtype=np.uint8).reshape((2, 3, 4), order="F")
CONTENT = VOXELS.tobytes("F")


def save(path, fields=(), *, content=CONTENT, end="\n", magic="NRRD0004", more=""):
    """A file with these fields instead of, or beside, those of HEADER; None leaves one out."""
    told = {**HEADER, **dict(fields)}
    lines = [magic, *(f"{name}: {value}" for name, value in told.items() if value is not None)]
    path.write_bytes((end.join(lines) + end + more + end).encode("utf-8", "surrogateescape") + content)
    return path


def assert_as_itk_reads(path):
    image = sitk.ReadImage(str(path))
    voxels, geometry = read_volume(path)
    expected = sitk.GetArrayFromImage(image).transpose()
    np.testing.assert_array_equal(voxels, expected)
    assert voxels.dtype == expected.dtype == geometry.dtype and voxels.dtype.isnative
    np.testing.assert_allclose(geometry.affine, itk_affine(image), atol=1e-6)
    assert read_geometry(path).shape == image.GetSize()


@pytest.mark.parametrize("compress", [False, True], ids=["raw", "gzip"])
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
def test_what_itk_writes(dtype, compress, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(dtype)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-101.25, 33.5, 1e-7))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1, -0.2, 0.3)
    image.SetDirection(turn.GetMatrix())
    image.SetMetaData("Segment0_Name", "a: b\\c")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=compress)
    assert_as_itk_reads(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "fields",
    [
        {"space": "right-anterior-superior"},
        {"space": "left-anterior-superior"},
        {"space": "LPS"},
        {"space": "RAS"},
        {"space": "LAS"},
        {"space origin": None},
        {"space": None, "space directions": None, "space origin": None},
        {"space": None, "space directions": None, "space origin": None, "spacings": "0.5 1 2"},
        {"space directions": "(0,2,0) (-1.5,0,0) (0,0.1,3)"},
        {"space units": '"mm" "mm" "mm"', "content": "a scan", "thicknesses": "NaN NaN 3"},
        {"kinds": None, "centerings": "cell cell cell", "measurement frame": "(1,0,0) (0,1,0) (0,0,1)"},
        {"TYPE": "unsigned char", "type": None, "Encoding": "RAW", "encoding": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_geometry_as_itk_reads_it(fields, end, tmp_path):
    assert_as_itk_reads(save(tmp_path / "a.nrrd", fields, end=end, more=f"# a comment{end}key:=data file: x{end}"))


def test_a_header_that_does_not_tell_the_place_is_said(tmp_path):
    nothing = {"space": None, "space directions": None, "space origin": None}
    notes = [
        geometry_note(read_geometry(save(tmp_path / "a.nrrd", fields)))
        for fields in (HEADER, nothing | {"spacings": "0.5 1 2"}, nothing)
    ]
    where = "the header does not tell where the scan lies (no space): left may be right"
    assert notes == ["", where, f"{where}; nor how large its voxels are (no spacings): 1 mm is taken"]


@pytest.mark.parametrize("encoding", ["raw", "gzip", "gz"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_endian(endian, encoding, tmp_path):
    content = VOXELS.astype(">i2" if endian == "big" else "<i2").tobytes("F")
    content = content if encoding == "raw" else gzip.compress(content)
    path = save(tmp_path / "a.nrrd", {"type": "short", "endian": endian, "encoding": encoding}, content=content)
    assert_as_itk_reads(path)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(CONTENT[:10]) + gzip.compress(CONTENT[10:]),
        gzip.compress(b"") + gzip.compress(CONTENT) + gzip.compress(b""),
        gzip.compress(CONTENT) + bytes(512),
        gzip.compress(CONTENT[:1]) + gzip.compress(CONTENT[1:]) + bytes(200_000),
    ],
    ids=["two members", "empty members", "zeros behind", "members and many zeros"],
)
def test_gzip_members_and_padding(content, tmp_path):
    assert_as_itk_reads(save(tmp_path / "a.nrrd", {"encoding": "gzip"}, content=content))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("line", ["byte skip: 0", "line skip: 0", "byteskip: 0", "lineskip: 0\nbyteskip: 0"])
def test_nothing_is_skipped(line, encoding, tmp_path):
    content = CONTENT if encoding == "raw" else gzip.compress(CONTENT)
    assert_as_itk_reads(save(tmp_path / "a.nrrd", {"encoding": encoding}, more=f"{line}\n", content=content))


def test_a_single_layer_is_a_volume(tmp_path):
    fields = {
        "dimension": "4",
        "sizes": "1 2 3 4",
        "kinds": "list domain domain domain",
        "space directions": "none (1.5,0,0) (0,2,0) (0,0,3)",
    }
    voxels, geometry = read_volume(save(tmp_path / "a.nrrd", fields))
    np.testing.assert_array_equal(voxels, VOXELS)
    assert geometry.shape == (2, 3, 4)


# Every way that a header, or a file of the server in its place, may be put before a reader that is not strict.
SECOND_FILES = [
    "data file: {}\n",
    "datafile: {}\n",
    "DATA FILE: {}\n",
    "data file: LIST\n{}\n",
    "data file: LIST 3\n{}\n",
    "data file: {} 0 0 1\n",
    "content: x\rdata file: {}\n",
    "# \rdata file: {}\n",
    "# \rdatafile: {}\r\r\n",
    "key:=x\rdata file: {}\n",
    " data file: {}\n",
    "data  file: {}\n",
    "data file:{}\n",
    "data\tfile: {}\n",
    "\x00data file: {}\n",
    "\x0bdata file: {}\n",
    "content: x\x85data file: {}\x1e\n",
    "line skip: 1\n",
    "byte skip: -1\n",
    "lineskip: 0 1\n",
    "byteskip: 5\n",
]


@pytest.mark.parametrize("line", SECOND_FILES, ids=repr)
def test_no_header_makes_anybody_open_a_second_file(line, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"TOP SECRET VOXELS OF ANYBODY")
    path = save(tmp_path / "a.nrrd", more=line.format(secret), content=b"")
    for read in (read_geometry, read_volume):
        with pytest.raises(VolumeError) as raised:
            read(path)
        assert "SECRET" not in str(raised.value) and str(secret) not in raised.value.reason


def test_a_data_file_after_the_first_megabyte(tmp_path):
    path = save(tmp_path / "a.nrrd", more="# comment\n" * 200_000 + "data file: /dev/zero\n", content=b"")
    with pytest.raises(VolumeError, match="no NRRD file with its voxels inside: its header names a data file"):
        read_volume(path)


def test_a_header_without_end(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"NRRD0004\n" + b"# comment\n" * (MAX_HEADER // 10))
    with pytest.raises(VolumeError, match=f"header is longer than {MAX_HEADER} bytes"):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "block"}, "type is 'block'"),
        ({"type": None}, "tells no type"),
        ({"type": "short"}, "endian is '', expected little or big"),
        ({"type": "short", "endian": "middle"}, "endian is 'middle'"),
        ({"dimension": "2", "sizes": "6 4"}, "dimension is '2' and sizes has 2"),
        ({"dimension": "4"}, "dimension is '4' and sizes has 3"),
        ({"sizes": "2 3 -4"}, "sizes has '-4'"),
        ({"sizes": "2 3 4.0"}, "sizes has '4.0'"),
        ({"sizes": "2 3 0"}, "sizes has '0'"),
        ({"encoding": "hex"}, "encoding is 'hex', expected raw or gzip"),
        ({"encoding": "bzip2"}, "encoding is 'bzip2'"),
        ({"encoding": "text"}, "encoding is 'text'"),
        ({"space": "scanner-xyz"}, "space is 'scanner-xyz'"),
        ({"space": "3D-right-handed"}, "space is '3D-right-handed'"),
        ({"space": None}, "tells no space"),
        ({"space directions": None}, "expected space directions"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "expected 3 vector"),
        ({"space directions": "(1,0,0) (0,1,0) none"}, "expected 3 vector"),
        ({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "expected 3 vector"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,1) x"}, "expected 3 vector"),
        ({"space directions": "(1,0,0) (2,0,0) (0,0,1)"}, "is singular"),
        ({"space origin": "(1,2)"}, "space origin is '\\(1,2\\)'"),
        ({"space units": '"um" "um" "um"'}, "spaceunits is"),
        ({"spacings": "1 1 1"}, "no spacings"),
        ({"axis mins": "0 0 0"}, "field 'axismins'"),
        ({"kinds": "RGB-color domain domain"}, "kinds 'rgb-color domain domain'"),
        ({"kinds": "domain domain"}, "kinds has 2 words"),
        ({"space dimension": "3"}, "field 'spacedimension'"),
        ({"line skip": "2"}, "lineskip is '2', expected 0"),
        ({"byte skip": "-1"}, "byteskip is '-1', expected 0"),
        ({"byte skip": ""}, "byteskip is '', expected 0"),
        ({"Sizes": "2 3 4"}, "of the header repeats a field"),
        ({"nothing known": "1"}, "field 'nothingknown'"),
    ],
    ids=str,
)
def test_what_is_not_read(fields, told, tmp_path):
    with pytest.raises(VolumeError, match=told) as raised:
        read_volume(save(tmp_path / "a.nrrd", fields))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"magic": "NRRD0009"}, "versions 1 to 5"),
        ({"magic": "NRRD0004 "}, "versions 1 to 5"),
        ({"more": "no field\n"}, "line 10 of the header is no field"),
        ({"more": "a:=1\na:=2\n"}, "line 11 of the header repeats a field"),
        ({"more": "a:=\udcff\n"}, "no text in UTF-8"),
        ({"content": VOXELS.tobytes()[:-1]}, "not the 24 bytes"),
        ({"content": VOXELS.tobytes() + b"x"}, "not the 24 bytes"),
        ({"fields": {"encoding": "gzip"}, "content": b""}, "cannot be read"),
        ({"fields": {"encoding": "gzip"}, "content": gzip.compress(VOXELS.tobytes())[:-4]}, "cannot be read"),
        ({"fields": {"encoding": "gzip"}, "content": gzip.compress(bytes(25))}, "not the 24 bytes"),
        ({"fields": {"encoding": "gzip"}, "content": gzip.compress(CONTENT) + b"x"}, "cannot be read"),
        ({"fields": {"encoding": "gzip"}, "content": gzip.compress(CONTENT) + bytes(9) + b"x"}, "follows the zeros"),
        ({"fields": {"encoding": "gzip"}, "content": gzip.compress(CONTENT) + bytes(70_000) + b"x"}, "the zeros"),
        (  # ITK reads zeros for the second half
            {
                "fields": {"encoding": "gzip"},
                "content": gzip.compress(CONTENT[:9]) + bytes(9) + gzip.compress(CONTENT[9:]),
            },
            "follows the zeros",
        ),
        ({"content": CONTENT + bytes(512)}, "not the 24 bytes"),
    ],
)
def test_broken_files(arguments, told, tmp_path):
    with pytest.raises(VolumeError, match=told):
        read_volume(save(tmp_path / "a.nrrd", **arguments))


def test_limits_are_of_bytes(tmp_path):
    """Of all layers together, as they are in memory."""
    path = save(tmp_path / "a.nrrd", {"type": "double", "endian": "little", "sizes": "1024 1024 1024"}, content=b"")
    with pytest.raises(TooLargeError, match="8.0 GiB of memory, expected at most 4 GiB"):
        read_geometry(path, 2**32)
    fields = {
        "dimension": "4",
        "sizes": "1024 64 64 64",
        "kinds": "list domain domain domain",
        "space directions": "none (1,0,0) (0,1,0) (0,0,1)",
    }
    with pytest.raises(TooLargeError, match="1024 volumes"):
        read_geometry(save(tmp_path / "b.nrrd", fields, content=b""), 2**27)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii"])
def test_what_is_no_regular_file_is_not_opened(suffix, tmp_path):
    """Opening a pipe, or reading a device, would last for ever."""
    from rep3d.io.volumes import read_volume as read_any

    pipe, device, folder = (tmp_path / f"{name}{suffix}" for name in ("pipe", "device", "folder"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    start = time.monotonic()
    for path in (pipe, device, folder):
        with pytest.raises(VolumeError, match="not a regular file"):
            read_any(path)
    assert time.monotonic() - start < 2
