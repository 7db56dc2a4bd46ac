"""A studies folder as people have them: what is there is served, or it is said why not."""

import gzip
import os
import shutil
import unicodedata

import nibabel as nib
import numpy as np
import pytest
from dicom_helpers import write_series

from monailabel_app.errors import RequestError
from monailabel_app.studies import listing
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.volumes import read_voxels
from rep3d.data.image_ids import is_plain

PLAIN = ["plain", "with space", "dots.in.name.v1.2", "plus+comma,eq=", "sub-01_ses-01_T1w", "labels", "Müller", "検査"]
ODD = ["(paren)", "_underscore", "O'Neil", "scan#1", "scan [axial]", "a&b", "50%", "x@3T", "5; CT", "2: CT Abdomen"]
ODD += [
    "~tmp",
    "T1!",
    "{id}",
    "-dash",
    "trailing ",
    "two..dots",
    "con",
    "nul.x",
    "x" * 205,
    "検査" * 40,
    "a\\b",
    "$HOME",
]
ODD += ["sub/deep/nested", "sub/deep/con", "ward 3/O'Neil", "🧠"]


def nifti(path, value=0):
    """A small scan, whose first voxel has a value that tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.full((4, 5, 6), value, np.float32)
    content = nib.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1])).to_bytes()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)


def value(store, image_id):
    return read_voxels(store.image(image_id))[0, 0, 0]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_any_name_is_served(name, root):
    """Under a safe id, the same after a restart; what clients know the scan by finds it, too; labels go with it."""
    nifti(root / f"{name}.nii.gz", 7)
    store = StudiesFolder(root)
    (image_id,) = store.list_images()
    assert is_plain(image_id) and (image_id == name) == (name in PLAIN)
    assert StudiesFolder(root).list_images() == [image_id] and store.set_aside() == {}
    for known_as in (image_id, name):
        assert value(store, known_as) == 7
        store.update_image_info(known_as, {"model": "kits"})
        assert store.save_label(known_as, str(root / f"{name}.nii.gz"), "final", {}) == image_id
        assert store.get_image_info(known_as)["model"] == "kits" and store.label(known_as, "final").is_file()
    assert store.get_labeled_images() == [image_id] and [one["version"] for one in store.versions(name)] == [1, 2]
    info = store.json()["objects"][image_id]["image"]["info"]
    assert f"{name}.nii.gz".endswith(info["name"])
    store.remove_image(name)
    assert store.list_images() == [] and store.set_aside() == {}


def test_ids_differ(root):
    """Also of names that look alike once they are plain."""
    names = ["a_b", "a/b", "a&b", "a%b", "a;b", "A&b", "a/b/c", "a_b/c", "x" * 201, "x" * 202]
    for number, name in enumerate(names):
        nifti(root / f"{name}.nii.gz", number)
    store = StudiesFolder(root)
    assert len(store.list_images()) == len(names)
    assert [value(store, name) for name in names] == list(range(len(names)))


@pytest.mark.parametrize("name", ["Zoë", "Größe", "한글"])
def test_decomposed_names(name, root):
    """As macOS writes them: one image, however a client writes it; two files are twins."""
    nifti(root / f"{unicodedata.normalize('NFD', name)}.nii.gz", 3)
    store = StudiesFolder(root)
    assert store.list_images() == [name]
    assert value(store, name) == value(store, unicodedata.normalize("NFD", name)) == 3
    nifti(root / f"{name}.nii.gz")
    assert store.list_images() == [] and "rename all but one" in store.set_aside()[name]


@pytest.mark.parametrize("name", ["UPPER.NII.GZ", "Mixed.Nii", "half.nii.GZ", "UP.NRRD", "ward/UP.NII"])
def test_suffixes_in_capitals(name, root):
    """Bundles and nibabel read some of them by other rules, or not at all."""
    nifti(root / name)
    store = StudiesFolder(root)
    assert store.list_images() == [] and "in small letters" in store.set_aside()[name]


def test_series_in_subfolders(root):
    """Beside files, also where these lie among the slices."""
    write_series(root / "patient/study 1/CT", slices=3)
    write_series(root / "patient/study 1/MR", "MR", slices=3)
    write_series(root / "1.2.840", slices=3)
    nifti(root / "patient/study 1/CT/scan.nii.gz", 5)
    store = StudiesFolder(root)
    assert len(store.list_images()) == 4 and store.set_aside() == {}
    assert store.series("patient/study 1/MR") == root / "patient/study 1/MR"
    assert store.series("1.2.840") == root / "1.2.840"
    assert value(store, "patient/study 1/CT/scan") == 5
    image_id = next(one for one in store.list_images() if store.images.path(one).name == "MR")
    assert store.image(image_id).name == f"{image_id}.nii.gz"


def test_what_is_not_served_is_said(root, tmp_path, caplog):
    """In the log at the start and to clients; nothing of it stops the rest."""
    nifti(root / "scan.nii.gz")
    for name in (
        "image.mha",
        "dataset.json",
        "Thumbs.db",
        "sub/notes.txt",
        "analyze.hdr",
        "line\nbreak.nii",
        ".hidden",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / os.fsdecode(b"latin\xe9.nii.gz")).write_bytes(b"x")
    os.mkfifo(root / "pipe.nii.gz")
    nifti(tmp_path / "secret.nii.gz")
    (root / "out.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (root / "up").symlink_to(root)
    (root / "sub/loop").symlink_to(root / "sub/loop")
    nifti(root / "labelsTr/scan.nii.gz")
    store = StudiesFolder(root)
    assert store.list_images() == ["scan"]
    reasons = store.set_aside()
    suffix, outside = "has no known suffix, expected one of .nii.gz", "a link that leads out of the studies folder"
    expected = {name: suffix for name in ("image.mha", "dataset.json", "Thumbs.db", "sub/notes.txt", "analyze.hdr")}
    expected |= {"line\nbreak.nii": "without control characters", "latin\\udce9.nii.gz": "without control characters"}
    expected |= {"pipe.nii.gz": "not a regular file", "out.nii.gz": outside, "sub/loop": outside}
    expected |= {"up": "a link to a folder", "labelsTr": "a folder of labels"}
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert f"set aside: {reasons[name]} ({name})" in caplog.text
    str(reasons).encode()  # JSON's encoding takes it
    for name in ("out", "pipe", "line\nbreak"):
        with pytest.raises(RequestError) as caught:
            store.image(name)
        assert caught.value.status == 404


def test_folders_without_end(root):
    """And a circle of links, with one image or with all looked for."""
    nifti(root / "scan.nii.gz", 4)
    nifti(root.joinpath(*"d" * 20, "deep.nii.gz"), 5)
    nifti(root.joinpath(*"d" * 300, "deeper.nii.gz"))
    (root / "loop").symlink_to(root / "loop")
    store = StudiesFolder(root)
    assert value(store, "scan") == 4 and value(store, "d/" * 20 + "deep") == 5 and len(store.list_images()) == 2
    assert store.set_aside().keys() == {"loop", "/".join("d" * 21)}


def test_many_are_counted(root, caplog):
    for number in range(25):
        (root / f"{number}.json").touch()
    StudiesFolder(root)
    assert caplog.text.count("set aside: ") == 20 and "and 5 more" in caplog.text


def test_other_ids_are_logged(root, caplog):
    nifti(root / "a&b.nii.gz")
    nifti(root / "plain.nii")
    (image_id, _) = StudiesFolder(root).list_images()
    assert f"a&b.nii.gz is image {image_id!r}" in caplog.text and "plain" not in caplog.text


def test_labels_by_hand_that_are_none(root, caplog):
    for name in ("scan", "O'Neil", "ward/deep"):
        nifti(root / f"{name}.nii.gz")
    store = StudiesFolder(root)
    odd, nested, _ = store.list_images()
    final = root / "labels/final"
    for name in ("scan.nii", "scan.nrrd", "scan.NII.GZ", "O'Neil.nii.gz", "notes.txt", "deep.nii.gz"):
        nifti(final / name)
    nifti(root / "labels/scan.nii.gz")
    nifti(root / "labels/old/scan.nii.gz")
    (final / "scan").mkdir()
    reasons = store.set_aside()
    assert reasons == {
        "labels/final/scan.nii": "submit it, or convert it to scan.nii.gz",
        "labels/final/scan.nrrd": "submit it, or convert it to scan.nii.gz",
        "labels/final/scan.NII.GZ": "rename it to scan.nii.gz",
        "labels/final/O'Neil.nii.gz": f"rename it to {odd}.nii.gz",
        "labels/final/notes.txt": reasons["labels/final/notes.txt"],
        "labels/final/deep.nii.gz": "there is no image 'deep'",
        "labels/final/scan": "not a regular file",
        "labels/scan.nii.gz": "expected a label in the folder original or final",
        "labels/old": "expected a label in the folder original or final",
    }
    assert store.labels_set_aside() == reasons and store.get_labeled_images() == []
    StudiesFolder(root)
    assert f"set aside: rename it to {odd}.nii.gz (labels/final/O'Neil.nii.gz)" in caplog.text
    (final / "O'Neil.nii.gz").rename(final / f"{odd}.nii.gz")
    (final / "deep.nii.gz").rename(final / f"{nested}.nii.gz")
    assert store.get_labeled_images() == [odd, nested]


@pytest.mark.parametrize("name", ["2: CT Abdomen", "T1 w/ contrast", "a/b", "Kopf [1.5T]", "50% dose; 3 mm"])
def test_names_of_slicer_are_accepted(name, root, tmp_path):
    """The plugin goes on with its own name, not with the id that the answer tells."""
    nifti(tmp_path / "upload.nii.gz", 9)
    store = StudiesFolder(root)
    image_id = store.add_image(name, str(tmp_path / "upload.nii.gz"), {"user": "ann"})
    assert is_plain(image_id)
    assert [path.name for path in root.iterdir() if path.is_file()] == [f"{image_id}.nii.gz"]
    assert value(store, name) == 9 and store.get_image_info(name)["user"] == "ann"
    with pytest.raises(RequestError, match="already"):
        store.add_image(name, str(tmp_path / "upload.nii.gz"), {})


def test_an_upload_replaces_nothing(root, tmp_path):
    """Not even what is no image."""
    nifti(tmp_path / "upload.nii.gz")
    (root / "link.nii.gz").symlink_to(tmp_path / "absent")
    with pytest.raises(RequestError, match="already"):
        StudiesFolder(root).add_image("link", str(tmp_path / "upload.nii.gz"), {})
    assert (root / "link.nii.gz").is_symlink()


def test_one_image_is_found_without_a_look_into_the_others(root, monkeypatch):
    for name in ("a", "b", "c/d"):
        write_series(root / name, slices=2)
    store, looked = StudiesFolder(root), []
    is_series = listing.is_series
    monkeypatch.setattr(listing, "is_series", lambda folder: looked.append(folder.name) or is_series(folder))
    for image_id, folders in (("a", ["a"]), ("c/d", ["c", "d"])):
        looked.clear()
        assert store.series(image_id).name == folders[-1] and looked == folders
    nifti(root / "volumes/scan.nii")
    looked.clear()
    assert len(store.list_images()) == 4 and "volumes" not in looked


def test_a_stamp_of_content(root):
    nifti(root / "scan.nii", 1)
    write_series(root / "series", slices=2)
    store = StudiesFolder(root)
    before = store.stamps()
    assert store.stamps() == before
    state = (root / "scan.nii").stat()
    nifti(root / "scan.nii", 2)
    os.utime(root / "scan.nii", ns=(state.st_atime_ns, state.st_mtime_ns))
    shutil.copy(root / "series/000.dcm", root / "series/002.dcm")
    assert all(store.stamps()[image_id] != before[image_id] for image_id in before)
