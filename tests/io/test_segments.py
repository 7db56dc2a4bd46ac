"""`.seg.nrrd` as 3D Slicer writes it: layers, names and values."""

import numpy as np
import pytest

from rep3d.io import segments
from rep3d.io.geometry import VolumeError
from rep3d.io.nrrd import write_volume
from rep3d.io.volumes import read_geometry, read_volume

SHAPE = (3, 4, 5)
HEADER = """NRRD0004
type: {type}
dimension: 4
space: left-posterior-superior
sizes: {count} 3 4 5
space directions: none (1,0,0) (0,1,0) (0,0,1)
kinds: list domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
"""


def fields_of(*told):
    """The fields of segments, each told as name, layer and value."""
    return {
        f"Segment{number}_{field}": str(value)
        for number, segment in enumerate(told)
        for field, value in zip(("Name", "Layer", "LabelValue"), segment, strict=True)
    }


def save_layers(path, layers, *told):
    header = HEADER.format(count=len(layers), type={"uint8": "uchar", "float32": "float"}[layers.dtype.name])
    header += "".join(f"{key}:={value}\n" for key, value in fields_of(*told).items())
    path.write_bytes(f"{header}\n".encode() + layers.tobytes("F"))
    return path


def save_one(path, voxels, fields):
    write_volume(path, voxels, np.eye(4), fields=fields, compress=True)
    return path


def layers_of(*places, dtype="uint8"):
    """Layers of zeros with values, each told as layer, (x, y, z) and value."""
    layers = np.zeros((2, *SHAPE), dtype)
    for layer, place, value in places:
        layers[(layer, *place)] = value
    return layers


def test_layers_without_overlap_become_one(tmp_path):
    """They have the same value in both layers, as 3D Slicer gives it; the numbers tell them apart."""
    layers = layers_of((0, (0, 1, 2), 1), (0, (1, 1, 2), 2), (1, (2, 3, 4), 1))
    path = save_layers(tmp_path / "a.seg.nrrd", layers, ("liver", 0, 1), ("spleen", 0, 2), ("tumor", 1, 1))
    names = segments.read_segments(path)
    voxels, geometry = read_volume(path)
    assert names == {"liver": 1, "spleen": 2, "tumor": 3}
    assert voxels.dtype == geometry.dtype == read_geometry(path).dtype == np.uint8
    assert read_geometry(path).shape == SHAPE
    assert np.argwhere(voxels).tolist() == [[0, 1, 2], [1, 1, 2], [2, 3, 4]]
    assert [voxels[0, 1, 2], voxels[1, 1, 2], voxels[2, 3, 4]] == [names["liver"], names["spleen"], names["tumor"]]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (layers_of((0, (0, 1, 2), 1), (1, (0, 1, 2), 1)), r"segments overlap in 1 voxel\(s\)"),
        (layers_of((0, (0, 1, 2), 7)), r"1 voxel\(s\) of the layers belong to no segment"),
        (layers_of((0, (0, 1, 2), 0.5), dtype="float32"), "other values than whole numbers from 0 to 255"),
    ],
    ids=["overlap", "nameless", "fraction"],
)
def test_layers_that_are_no_label_map(layers, told, tmp_path):
    path = save_layers(tmp_path / "a.seg.nrrd", layers, ("liver", 0, 1), ("tumor", 1, 1))
    with pytest.raises(VolumeError, match=told):
        read_volume(path)


def test_a_layer_that_is_not_there(tmp_path):
    path = save_layers(tmp_path / "a.seg.nrrd", layers_of(), ("liver", 0, 1), ("tumor", 2, 1))
    with pytest.raises(VolumeError, match="'tumor' is in layer 2, the file has 2"):
        segments.read_segments(path)


def test_blanks_around_a_name(tmp_path):
    fields = fields_of((" liver ", 0, 2), ("Background ", 0, 0))
    path = save_one(tmp_path / "a.seg.nrrd", np.ones(SHAPE, np.uint8), fields)
    assert segments.read_segments(path) == {"liver": 2}


@pytest.mark.parametrize("name", ["liver", "Liver", " liver"])
def test_two_segments_of_one_name(name, tmp_path):
    fields = fields_of(("liver", 0, 1), (name, 0, 2))
    path = save_one(tmp_path / "a.seg.nrrd", np.ones(SHAPE, np.uint8), fields)
    with pytest.raises(VolumeError, match="2 segments have the name 'liver'"):
        segments.read_segments(path)


@pytest.mark.parametrize("count", [257, 20_000])
def test_very_many_segments(count, tmp_path):
    told = ((f"segment {number}", 0, number) for number in range(count))
    path = save_layers(tmp_path / "a.seg.nrrd", layers_of(), *told)
    with pytest.raises(VolumeError, match=f"has {count} segments, expected at most 255"):
        segments.read_segments(path)


def test_a_value_that_is_no_number(tmp_path):
    path = save_one(tmp_path / "a.seg.nrrd", np.ones(SHAPE, np.uint8), fields_of(("liver", 0, "one")))
    with pytest.raises(VolumeError, match="need names and label values"):
        segments.read_segments(path)
