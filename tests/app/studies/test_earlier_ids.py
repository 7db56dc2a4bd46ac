"""What a server stored when names of files were ids is found under today's, of names that are none any more."""

import unicodedata

import nibabel as nib
import numpy as np
import pytest

from monailabel_app.studies.folder import StudiesFolder

NAMES = ["検査" * 35, "é" * 101, unicodedata.normalize("NFD", "한글"), "5\N{KELVIN SIGN}", "\N{ANGSTROM SIGN}.v2"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def nifti(path, value=0):
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), value, np.uint8), np.eye(4)), path)


def store_as_earlier(name, root):
    """Labels and what is known of an image, under the name of its file."""
    written = root.parent / "written"
    written.mkdir()
    nifti(written / "plain.nii.gz")
    store = StudiesFolder(written)
    for value in (1, 2):
        nifti(root.parent / "label.nii.gz", value)
        store.save_label("plain", str(root.parent / "label.nii.gz"), "final", {"user": "ann"})
    store.save_label("plain", str(root.parent / "label.nii.gz"), "original", {})
    store.update_image_info("plain", {"note": "seen"})
    for path in sorted(written.rglob("plain*")):
        target = root / path.relative_to(written).with_name(path.name.replace("plain", name))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


@pytest.mark.parametrize("name", NAMES, ids=["many bytes", "accents", "decomposed", "Kelvin", "Angstrom"])
def test_what_was_stored_is_found(name, root):
    store_as_earlier(name, root)
    assert (root / "labels/versions" / name).is_dir()
    store = StudiesFolder(root)
    (image_id,) = store.list_images()
    assert image_id != name and store.set_aside() == {}
    assert [(info["version"], info.get("user")) for info in store.versions(image_id)] == [
        (1, "ann"),
        (2, "ann"),
        (3, None),
    ]
    assert store.get_labeled_images() == [image_id] and store.get_labeled_images("original") == [image_id]
    assert nib.load(store.label(image_id, "final")).dataobj[0, 0, 0] == 2
    assert store.get_label_info(image_id, "final")["version"] == 2
    assert store.get_image_info(image_id)["note"] == "seen"
    assert store.versions(name) == store.versions(image_id)
    store.save_label(name, str(root / f"{name}.nii.gz"), "final", {})
    assert [info["version"] for info in StudiesFolder(root).versions(image_id)] == [1, 2, 3, 4]


def test_what_has_been_stored_since_stays(root):
    """Nothing replaces anything; what cannot be brought together is listed."""
    name = NAMES[0]
    nifti(root / f"{name}.nii.gz", 7)
    store = StudiesFolder(root)
    (image_id,) = store.list_images()
    store.save_label(image_id, str(root / f"{name}.nii.gz"), "final", {"user": "bob"})
    store_as_earlier(name, root)
    store = StudiesFolder(root)
    assert [info["user"] for info in store.versions(image_id)] == ["bob"]
    assert nib.load(store.label(image_id, "final")).dataobj[0, 0, 0] == 7
    assert store.labels_set_aside() == {
        f"labels/final/{name}.nii.gz": f"rename it to {image_id}.nii.gz",
        f"labels/versions/{name}": f"image {image_id!r} has other versions",
    }
    assert len(list((root / "labels/versions" / name).glob("*.nii.gz"))) == 3


def test_a_folder_elsewhere_is_left_alone(root, tmp_path):
    """A link that leads out of the studies is not followed."""
    (tmp_path / "elsewhere").mkdir()
    (root / "labels").mkdir()
    (root / "labels/final").symlink_to(tmp_path / "elsewhere")
    nifti(tmp_path / "elsewhere" / f"{NAMES[0]}.nii.gz")
    StudiesFolder(root)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [f"{NAMES[0]}.nii.gz"]
