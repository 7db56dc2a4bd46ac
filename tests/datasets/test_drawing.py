import json
import re

import nibabel as nib
import numpy as np
import pytest
from draw_anatomy import main
from filelock import FileLock

from rep3d.data.lists import load_datalist
from rep3d.datasets import drawing
from rep3d.datasets.anatomy import make_anatomy
from rep3d.datasets.decathlon import list_cases
from rep3d.datasets.drawing import write_anatomy
from rep3d.locks import lock_file

SMALL = {"size": 32, "seed": 5}


def voxels(folder):
    """The arrays of all files, by path."""
    paths = sorted(folder.rglob("*.nii.gz"))
    return {str(path.relative_to(folder)): np.asanyarray(nib.load(path).dataobj) for path in paths}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path in found:
        np.testing.assert_array_equal(found[path], expected[path])


@pytest.mark.slow
def test_decathlon_layout(tmp_path):
    folder = write_anatomy(tmp_path / "set", cases=10, **SMALL)
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["numTraining"] == 10
    assert dataset["training"][3] == {
        "image": "./imagesTr/anatomy_00003.nii.gz",
        "label": "./labelsTr/anatomy_00003.nii.gz",
    }
    assert dataset["labels"] == {"0": "background"} | {str(i): str(i) for i in range(1, 31)}
    assert len(load_datalist(folder, "training")) == 7
    for case, (image_path, label_path) in enumerate(list_cases(folder)):
        scan = make_anatomy(32, seed=(5, case))
        image, label = nib.load(image_path), nib.load(label_path)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), scan.image)
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), scan.label)
        np.testing.assert_allclose(image.affine, np.diag([*scan.spacing, 1]), rtol=1e-6)
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.header.get_zooms(), scan.spacing, rtol=1e-6)
        assert np.unique(scan.label).tolist() == list(range(scan.label.max() + 1))


def test_more_cases_leave_those_that_are_there(tmp_path):
    folder = write_anatomy(tmp_path / "grown", cases=2, **SMALL)
    first = folder / "imagesTr/anatomy_00000.nii.gz"
    written = first.stat().st_mtime_ns
    write_anatomy(folder, cases=3, **SMALL)
    assert first.stat().st_mtime_ns == written
    assert_same(voxels(folder), voxels(write_anatomy(tmp_path / "at_once", cases=3, **SMALL)))


@pytest.mark.slow
def test_interrupted_drawing_goes_on(tmp_path, monkeypatch):
    def fail(size, seed):
        if seed[1] == 2:
            raise OSError("disk full")
        return make_anatomy(size, seed=seed)

    folder = tmp_path / "set"
    monkeypatch.setattr(drawing, "make_anatomy", fail)
    with pytest.raises(OSError, match="disk full"):
        write_anatomy(folder, cases=4, **SMALL)
    assert not (folder / "dataset.json").exists()
    assert len(voxels(folder)) == 4
    (folder / "labelsTr/anatomy_00001.nii.gz").unlink()  # half a case
    (folder / "imagesTr/.123.456.part.anatomy_00002.nii.gz").touch()  # what a kill leaves
    monkeypatch.undo()
    write_anatomy(folder, cases=4, **SMALL)
    assert_same(voxels(folder), voxels(write_anatomy(tmp_path / "at_once", cases=4, **SMALL)))
    assert sorted(path.name for path in folder.iterdir()) == ["anatomy.json", "dataset.json", "imagesTr", "labelsTr"]


@pytest.mark.slow
def test_workers_draw_the_same(tmp_path):
    one, two = (write_anatomy(tmp_path / str(n), cases=2, workers=n, **SMALL) for n in (1, 2))
    assert_same(voxels(one), voxels(two))


@pytest.mark.parametrize("other", [{"seed": 6}, {"size": 33}])
def test_another_seed_or_size_is_refused(tmp_path, other):
    folder = write_anatomy(tmp_path / "set", cases=1, **SMALL)
    before = voxels(folder)
    name, value = next(iter(other.items()))
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(folder))} was .*'{name}': {SMALL[name]}.*'{name}': {value}"
    ):
        write_anatomy(folder, cases=2, **SMALL | other)
    assert_same(voxels(folder), before)


@pytest.mark.parametrize("content", ['{"seed": 5, "size": 32, "edition": 99}', '{"seed": 5}', "[1]", "junk"])
def test_settings_that_do_not_fit_are_refused(tmp_path, content):
    (tmp_path / "anatomy.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        write_anatomy(tmp_path, cases=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["anatomy.json"]


@pytest.mark.parametrize("name", ["dataset.json", "imagesTr/scan.nii.gz", "notes.txt"])
def test_foreign_folder_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        write_anatomy(tmp_path, cases=1, **SMALL)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_folder_that_another_process_draws_in(tmp_path):
    with FileLock(lock_file(tmp_path, "drawing")), pytest.raises(ValueError, match="another drawing works on"):
        write_anatomy(tmp_path, cases=1, **SMALL)
    assert not (tmp_path / "imagesTr").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cases", value) for value in (0, -1, 1.5, "many", True)),
        *(("seed", value) for value in (-1, 0.5, None)),
        *(("workers", value) for value in (0, "two")),
        *(("size", value) for value in (16, 300, 64.0)),
    ],
)
def test_bad_argument(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number .*{re.escape(repr(value))}$"):
        write_anatomy(tmp_path / "set", **{"cases": 1, **SMALL, name: value})
    assert not (tmp_path / "set").exists()


def test_picture(tmp_path, capsys):
    main(str(tmp_path / "set"), cases=2, size=32, picture=str(tmp_path / "cases.png"))
    assert (tmp_path / "cases.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "set"), str(tmp_path / "cases.png")]
