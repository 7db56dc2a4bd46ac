import os
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from rep3d.data import checks, notes
from rep3d.data.checks import check_datalist
from rep3d.data.lists import load_inference_list
from rep3d.transforms import CheckVolumed

CLASSES = 3
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def image_voxels(shape=(8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def label_voxels(shape=(8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, CLASSES, shape).astype(np.uint8)


def make_item(folder: Path) -> dict[str, str]:
    """One good case."""
    image = save(folder / "image.nii.gz", image_voxels())
    label = save(folder / "label.nii.gz", label_voxels())
    return {"image": str(image), "label": str(label)}


# --- checks


def test_good_files_pass(tmp_path):
    check_datalist([make_item(tmp_path)], CLASSES)


def test_spaces_and_other_letters_in_paths(tmp_path):
    item = make_item(tmp_path / "Köpfe und Bäuche" / "画像 1")
    check_datalist([item], CLASSES, tmp_path / "mémoire" / "voxels é.json")
    assert load_inference_list(Path(item["image"]).parent)[0] == {"image": item["image"]}


def _absent(item):
    os.unlink(item["image"])


def _image_2d(item):
    save(Path(item["image"]), image_voxels((8, 9)))


def _image_4d(item):
    save(Path(item["image"]), image_voxels((8, 9, 10, 2)))


def _singular_affine(item):
    # nibabel does not write it: srow_z is at byte 312 of the header.
    path = Path(item["image"]).with_name("singular.nii")
    save(path, image_voxels())
    content = bytearray(path.read_bytes())
    content[312:328] = np.zeros(4, np.float32).tobytes()
    path.write_bytes(bytes(content))
    item["image"] = str(path)


def _zero_bytes(item):
    Path(item["image"]).write_bytes(b"")


def _no_nifti(item):
    Path(item["image"]).write_bytes(b"this is no NIfTI file")


def _truncated(item):
    path = Path(item["image"])
    path.write_bytes(path.read_bytes()[:-900])


def _nan_voxel(item):
    voxels = image_voxels()
    voxels[1, 2, 3] = np.nan
    save(Path(item["image"]), voxels)


def _infinite_voxel(item):
    voxels = image_voxels()
    voxels[1, 2, 3] = np.inf
    save(Path(item["image"]), voxels)


def _colours(item):
    save(Path(item["image"]), np.zeros((8, 9, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _label_fraction(item):
    save(Path(item["label"]), label_voxels() * np.float32(0.5))


def _label_nan(item):
    save(Path(item["label"]), np.where(label_voxels() == 0, np.nan, label_voxels()).astype(np.float32))


def _label_outside(item):
    save(Path(item["label"]), label_voxels() + np.uint8(5))


def _label_negative(item):
    save(Path(item["label"]), label_voxels().astype(np.int16) - 1)


def _label_truncated(item):
    path = Path(item["label"])
    path.write_bytes(path.read_bytes()[:-60])


def _label_shape(item):
    save(Path(item["label"]), label_voxels((8, 9, 11)))


def _label_affine(item):
    save(Path(item["label"]), label_voxels(), np.diag([1.0, 1.5, 2.1, 1.0]))


BAD_FILES = {
    _absent: ("image", ("no such file",)),
    _image_2d: ("image", ("(8, 9)", "three dimensions")),
    _image_4d: ("image", ("(8, 9, 10, 2)", "three dimensions")),
    _singular_affine: ("image", ("singular", "invertible")),
    _zero_bytes: ("image", ("cannot be read as NIfTI", "0 bytes")),
    _no_nifti: ("image", ("cannot be read as NIfTI", "21 bytes")),
    _truncated: ("image", ("cannot be read",)),
    _nan_voxel: ("image", ("1 voxel(s) are NaN or infinite",)),
    _infinite_voxel: ("image", ("1 voxel(s) are NaN or infinite",)),
    _colours: ("image", ("expected numbers",)),
    _label_fraction: ("label", ("0.5", "whole numbers from 0 to 2")),
    _label_nan: ("label", ("nan", "whole numbers from 0 to 2")),
    _label_outside: ("label", ("[5.0, 6.0, 7.0]", "whole numbers from 0 to 2")),
    _label_negative: ("label", ("[-1.0]", "whole numbers from 0 to 2")),
    _label_truncated: ("label", ("cannot be read",)),
    _label_shape: ("label", ("(8, 9, 11)", "(8, 9, 10)", "image.nii.gz")),
    _label_affine: ("label", ("2.1", "image.nii.gz", "affine")),
}


@pytest.mark.parametrize("damage", BAD_FILES, ids=lambda damage: damage.__name__.strip("_"))
def test_bad_file_is_named(damage, tmp_path):
    item = make_item(tmp_path)
    damage(item)
    key, parts = BAD_FILES[damage]
    with pytest.raises(ValueError, match=r"^1 problem\(s\)") as raised:
        check_datalist([item], CLASSES)
    for part in (item[key], *parts):
        assert part in str(raised.value)


def test_affines_that_differ_by_rounding_pass(tmp_path):
    item = make_item(tmp_path)
    save(Path(item["label"]), label_voxels(), AFFINE + 1e-4)
    check_datalist([item], CLASSES)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_label_types(dtype, tmp_path):
    item = make_item(tmp_path)
    save(Path(item["label"]), label_voxels().astype(dtype))
    check_datalist([item], CLASSES)


def test_all_problems_come_at_once(tmp_path):
    items = [make_item(tmp_path / str(case)) for case in range(4)]
    for damage, item in zip((_zero_bytes, _nan_voxel, _label_outside), items, strict=False):
        damage(item)
    with pytest.raises(ValueError, match=r"^3 problem\(s\)") as raised:
        check_datalist(items, CLASSES)
    assert items[0]["image"] in str(raised.value)
    assert items[1]["image"] in str(raised.value)
    assert items[2]["label"] in str(raised.value)
    assert str(tmp_path / "3") not in str(raised.value)


def test_many_problems_are_cut_short(tmp_path):
    items = [{"image": str(tmp_path / f"{i}.nii.gz"), "label": "x"} for i in range(checks.SHOWN_PROBLEMS + 5)]
    with pytest.raises(ValueError, match=r"^25 problem\(s\)(.|\n)*and 5 more$"):
        check_datalist(items, CLASSES)


# --- the memory of checked voxels


@pytest.fixture
def reads(monkeypatch):
    """Paths whose voxels were read."""
    paths = []

    def counting(read, path):
        paths.append(Path(path).name)
        return read(path)

    for name in ("read_volume", "read_channels"):
        monkeypatch.setattr(checks, name, partial(counting, getattr(checks, name)))
    return paths


def test_voxels_are_read_once(tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "out" / "memory.json"
    check_datalist([item], CLASSES, memory)
    assert sorted(reads) == ["image.nii.gz", "label.nii.gz"]
    check_datalist([item], CLASSES, memory)
    assert len(reads) == 2
    assert [path.name for path in memory.parent.iterdir()] == ["memory.json"]


def test_without_memory_voxels_are_read_every_time(tmp_path, reads):
    item = make_item(tmp_path)
    for _ in range(2):
        check_datalist([item], CLASSES)
    assert len(reads) == 4


def test_changed_file_is_read_again(tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    check_datalist([item], CLASSES, memory)
    _nan_voxel(item)
    with pytest.raises(ValueError, match="NaN"):
        check_datalist([item], CLASSES, memory)
    assert reads[2:] == ["image.nii.gz"]
    with pytest.raises(ValueError, match="NaN"):  # a bad file is never remembered as checked
        check_datalist([item], CLASSES, memory)


def test_other_number_of_classes_is_checked_again(tmp_path):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    check_datalist([item], CLASSES, memory)
    with pytest.raises(ValueError, match="from 0 to 1"):
        check_datalist([item], 2, memory)


@pytest.mark.parametrize("content", [b"", b"{", b"5", b"[[1]]", b"\xff\xfe", b'{"a": 1}'])
def test_corrupt_memory_is_ignored(content, tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    memory.write_bytes(content)
    for _ in range(2):
        check_datalist([item], CLASSES, memory)
    assert len(reads) == 2


def test_memory_that_cannot_be_written_is_survived(tmp_path, reads, caplog):
    item = make_item(tmp_path)
    (tmp_path / "file").touch()
    memory = tmp_path / "file" / "memory.json"  # no folder can be there, whoever we are
    for _ in range(2):
        check_datalist([item], CLASSES, memory)
    assert len(reads) == 4
    assert str(memory) in caplog.text


def test_memory_that_is_a_folder_is_survived(tmp_path, caplog):
    item = make_item(tmp_path / "data")
    (tmp_path / "memory.json" / "x").mkdir(parents=True)
    check_datalist([item], CLASSES, tmp_path / "memory.json")
    assert str(tmp_path / "memory.json") in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "memory.json"]


# --- the gate


def test_a_turned_label_is_refused(tmp_path):
    """No element of the affines differs by 0.01, and a corner lies 0.9 voxels off."""
    item = make_item(tmp_path)
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.005))
    image = np.zeros((180, 8, 8), np.float32)
    save(Path(item["image"]), image, np.diag([1.0, 1.0, 1.0, 1.0]))
    save(Path(item["label"]), image.astype(np.uint8), turn)
    with pytest.raises(ValueError, match=r"label.nii.gz: affine .* differs by 0.9 voxels at a corner, .*image.nii.gz"):
        check_datalist([item], CLASSES)


def test_a_mirrored_micro_ct_is_refused(tmp_path):
    item = make_item(tmp_path)
    affine = np.diag([0.0005, 0.0005, 0.0005, 1])
    save(Path(item["image"]), image_voxels(), affine)
    save(Path(item["label"]), label_voxels(), np.diag([-1, 1, 1, 1]) @ affine)
    with pytest.raises(ValueError, match="voxels at a corner"):
        check_datalist([item], CLASSES)


def test_units_of_image_and_label_may_differ(tmp_path):
    item = make_item(tmp_path)
    volume = nib.Nifti1Image(label_voxels(), np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE)
    volume.header.set_xyzt_units("meter")
    nib.save(volume, item["label"])
    check_datalist([item], CLASSES)


def test_one_volume_of_four_dimensions(tmp_path):
    item = make_item(tmp_path)
    save(Path(item["image"]), image_voxels()[..., None])
    check_datalist([item], CLASSES)


def test_a_swapped_pair_that_was_put_right(tmp_path):
    """What was checked as an image is checked again as a label."""
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    save(Path(item["image"]), image_voxels().round())
    swapped = {"image": item["label"], "label": item["image"]}
    with pytest.raises(ValueError, match="image.nii.gz: label value"):
        check_datalist([swapped], CLASSES, memory)
    save(Path(item["label"]), label_voxels() + np.uint8(7))
    with pytest.raises(ValueError, match="image.nii.gz: label value"):
        check_datalist([swapped], CLASSES, memory)
    with pytest.raises(ValueError, match="label.nii.gz: label value.*from 0 to 2"):
        check_datalist([item], CLASSES, memory)


def test_odd_places_and_intensities_are_said_at_every_start(tmp_path, caplog, monkeypatch):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    volume = nib.Nifti1Image(image_voxels(), AFFINE)
    volume.set_qform(np.diag([-1, -1, 1, 1]) @ AFFINE, 1)
    nib.save(volume, item["image"])
    for _ in range(2):
        monkeypatch.setattr(notes, "_said", set())  # a new process
        caplog.clear()
        check_datalist([item], CLASSES, memory, window=(500, 1500))
        first, second = (record.getMessage() for record in caplog.records)
        assert first.startswith(f"{item['image']}: readers put this scan")
        assert second.startswith(f"{item['image']}: the bundle's window is 500 to 1500")


def test_another_window_is_another_check(tmp_path, caplog, reads):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    check_datalist([item], CLASSES, memory, window=(-2, 2))
    assert not caplog.records
    check_datalist([item], CLASSES, memory, window=(500, 1500))
    assert reads == ["image.nii.gz", "label.nii.gz", "image.nii.gz"]
    assert len(caplog.records) == 1


def test_loading_says_nothing_again(tmp_path, caplog):
    item = make_item(tmp_path)
    check_datalist([item], CLASSES, window=(500, 1500))
    load = LoadImaged("image", reader="rep3d.io.reader.NiftiReader", ensure_channel_first=True)
    CheckVolumed("image", window=(500, 1500))(load(item))
    assert len([record for record in caplog.records if record.name == "rep3d.data.notes"]) == 1


def test_a_reversed_window():
    with pytest.raises(ValueError, match=r"intensity_window is \[275, -125\], expected the lower first"):
        check_datalist([], 3, window=[275, -125])
