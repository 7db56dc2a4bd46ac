import json
import os
import shutil
import sys
import threading
import zipfile

import pytest

from monailabel_app.errors import RequestError
from monailabel_app.models.active_learning import First
from monailabel_app.studies.folder import StudiesFolder
from rep3d import files


@pytest.fixture
def store(studies):
    return StudiesFolder(studies)


@pytest.fixture
def label(material):
    return str(next(iter(material.labels.values())))


def test_images_and_labels(store, material, label):
    names = sorted(name.removesuffix(".nii.gz") for name in material.scans)
    assert store.list_images() == store.get_unlabeled_images() == names
    assert store.save_label(names[0], label, "final", {"user": "ann"}) == names[0]
    assert store.get_labeled_images() == names[:1] and store.get_unlabeled_images() == names[1:]
    assert store.status() == {"total": 4, "completed": 1, "label_tags": {"final": 1}}
    assert store.get_label_info(names[0], "final")["user"] == "ann"
    (pair,) = store.datalist()
    assert pair["image"] == str(store.root / f"{names[0]}.nii.gz")
    assert open(pair["label"], "rb").read() == open(label, "rb").read()
    assert store.json()["objects"][names[0]]["labels"]["final"]["info"]["version"] == 1
    assert str(store.root) not in json.dumps(store.json())


def test_every_version_is_kept(store, material):
    image = store.list_images()[0]
    for number, path in enumerate(material.labels.values()):
        store.save_label(image, str(path), "final", {"user": f"user {number}"})
    versions = store.versions(image)
    assert [info["version"] for info in versions] == [1, 2, 3, 4]
    assert [info["user"] for info in versions] == [f"user {number}" for number in range(4)]
    for info, path in zip(versions, material.labels.values(), strict=True):
        assert (store.root / "labels/versions" / image / info["name"]).read_bytes() == path.read_bytes()
    assert store.label(image, "final").read_bytes() == path.read_bytes()
    store.remove_label(image, "final")
    assert store.get_labeled_images() == [] and len(store.versions(image)) == 4
    assert StudiesFolder(store.root).get_labeled_images() == []


def test_labels_put_there_by_hand(store, label):
    image = store.list_images()[1]
    shutil.copy(label, store.root / "labels/final" / f"{image}.nii.gz")
    assert store.get_labeled_images() == [image]
    assert store.get_label_info(image, "final")["name"] == f"{image}.nii.gz"


def test_a_label_put_there_by_hand_is_not_lost(store, material):
    """Neither to a submission nor to a restart, also where it took the place of a version."""
    image, (sent, by_hand, again, *_) = store.list_images()[0], material.labels.values()
    store.save_label(image, str(sent), "final", {"user": "ann"})
    current = store.label(image, "final")
    shutil.copy(by_hand, current)
    os.utime(current, (1, 1))  # as a restored backup may have it
    store = StudiesFolder(store.root)
    assert current.read_bytes() == by_hand.read_bytes()
    assert store.fixed_label(image, "final")[0].read_bytes() == by_hand.read_bytes()
    store.save_label(image, str(again), "final", {})
    kept = [store.label_version(image, info["version"]).read_bytes() for info in store.versions(image)]
    assert kept == [path.read_bytes() for path in (sent, by_hand, again)]


def test_a_restart_leaves_what_was_changed_by_hand(store, material):
    """A label that was taken away stays away, and an older one that took the newest one's place counts."""
    (gone, restored, *_), (first, second, *_) = store.list_images(), material.labels.values()
    for image in (gone, restored):
        for label in (first, second):
            store.save_label(image, str(label), "final", {"user": "ann"})
    store.label(gone, "final").unlink()
    shutil.copy(store.label_version(restored, 1), store.label(restored, "final"))
    store = StudiesFolder(store.root)
    assert store.get_labeled_images() == [restored]
    file, info = store.fixed_label(restored, "final")
    assert file.read_bytes() == first.read_bytes() and (info["version"], info["user"]) == (3, None)


def test_a_bad_entry_does_not_block_the_others(store):
    images = store.list_images()
    (store.root / "loop").symlink_to(store.root / "loop")
    (store.root / "empty").mkdir()
    (store.root / "notes.txt").write_text("x")
    assert store.list_images() == images


@pytest.fixture
def folder_reads():
    """The folders that are read from now on."""
    reads, watching = [], True

    def watch(event, arguments):
        if watching and event in ("os.scandir", "os.listdir"):
            reads.append(str(arguments[0]))

    sys.addaudithook(watch)
    yield reads
    watching = False


def test_listing_reads_the_studies_once(store, label, folder_reads):
    """However many images there are."""
    for image in store.list_images():
        store.save_label(image, label, "final", {})
    shutil.copy(store.image(store.list_images()[0]), store.root / "unlabeled.nii.gz")
    for listing in (store.json, store.status, store.datalist, lambda: First()({}, store)):
        folder_reads.clear()
        assert listing()
        assert folder_reads.count(str(store.root)) == 1
        assert folder_reads.count(str(store.root / "labels/final")) == 1


def test_links_out_of_the_folder_are_not_followed(store, label, tmp_path):
    image = store.list_images()[0]
    (tmp_path / "secret.nii.gz").write_bytes(b"secret")
    (store.root / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (store.root / "labels/final" / f"{image}.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (store.root / "labels/final/loop.nii.gz").symlink_to(store.root / "labels/final/loop.nii.gz")
    assert "link" not in store.list_images() and store.get_labeled_images() == []
    assert store.json()["objects"][image]["labels"] == {}
    with pytest.raises(RequestError, match="there is no image 'link'"):
        store.image("link")
    store.save_label(image, label, "final", {})
    assert (tmp_path / "secret.nii.gz").read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a\\..\\b", "..", ".lock"])
def test_names_that_lead_out(name, store, material, label):
    before = sorted(store.root.parent.rglob("*"))
    scan = str(next(iter(material.scans.values())))
    for call in (
        lambda: store.add_image(name, scan, {}),
        lambda: store.save_label(name, label, "final", {}),
        lambda: store.save_label(store.list_images()[0], label, name, {}),
        lambda: store.label(name, "final"),
        lambda: store.label(store.list_images()[0], name),
        lambda: store.versions(name),
        lambda: store.update_image_info(name, {}),
    ):
        with pytest.raises(RequestError):
            call()
    assert sorted(store.root.parent.rglob("*")) == before


def test_an_image_is_not_replaced(store, material):
    scan = str(next(iter(material.scans.values())))
    assert store.add_image("new one", scan, {"user": "ann"}) == "new one"
    assert store.get_image_info("new one")["user"] == "ann"
    with pytest.raises(RequestError, match="already") as caught:
        store.add_image("new one", scan, {})
    assert caught.value.status == 409
    store.remove_image("new one")
    assert "new one" not in store.list_images()


@pytest.mark.parametrize("tag", ["final", "original"])
def test_a_new_image_takes_over_no_label(tag, store, label, material):
    """Of an image of its name whose file somebody removed, or of which a kill left the labels."""
    image = store.list_images()[0]
    store.save_label(image, label, tag, {"user": "ann"})
    store.image(image).unlink()
    scan = str(material.scans[f"{store.list_images()[0]}.nii.gz"])
    expected = f"labels/{tag}/{image}.nii.gz is of an earlier image '{image}': choose another name, or remove it"
    with pytest.raises(RequestError, match=expected) as caught:
        store.add_image(image, scan, {})
    assert caught.value.status == 409 and image not in store.list_images()
    store.remove_label(image, tag)
    assert store.add_image(image, scan, {}) == image and store.get_labels_by_image_id(image) == {}


def test_an_image_that_cannot_be_removed_keeps_its_labels(store, label, monkeypatch):
    """As where images belong to somebody else."""
    image = store.list_images()[0]
    store.save_label(image, label, "final", {"user": "ann"})

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", forbidden)
        with pytest.raises(RequestError, match=r"cannot be removed \(Permission denied\)") as caught:
            store.remove_image(image)
    assert caught.value.status == 409
    assert store.get_labeled_images() == [image] and store.fixed_label(image, "final")[1]["user"] == "ann"


@pytest.mark.parametrize("step", ["copy", "describe", "publish"])
def test_kill_while_a_label_is_stored(step, store, material, monkeypatch):
    """What was there stays, or the new one is there: never a part."""
    image, (old, new, *_) = store.list_images()[0], material.labels.values()
    store.save_label(image, str(old), "final", {})

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    if step == "copy":
        monkeypatch.setattr(files.os, "fsync", kill)
    elif step == "describe":
        monkeypatch.setattr("monailabel_app.history.write_json", kill)
    else:
        monkeypatch.setattr(store.labels, "_make_current", kill)
    with pytest.raises(Killed):
        store.save_label(image, str(new), "final", {})
    monkeypatch.undo()
    (store.root / "labels/final/.1.2.part.left.nii.gz").write_bytes(b"half")
    again = StudiesFolder(store.root)
    expected, count = (new, 2) if step == "publish" else (old, 1)
    assert again.label(image, "final").read_bytes() == expected.read_bytes()
    assert len(again.versions(image)) == count
    assert not list(store.root.rglob(".*.part.*"))
    again.save_label(image, str(new), "final", {})
    assert again.label(image, "final").read_bytes() == new.read_bytes()


def test_full_disk(store, label, monkeypatch):
    image = store.list_images()[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(files.WriteError, match="No space left on device"):
        store.save_label(image, label, "final", {})
    assert store.get_labeled_images() == [] and not list(store.root.rglob(".*.part.*"))


def test_a_disk_that_is_full_after_the_version(store, material, monkeypatch):
    """The label that was refused is none: neither the current one, nor a version, nor after a restart."""
    image, (old, refused, *_) = store.list_images()[0], material.labels.values()

    def full(*_):
        raise files.WriteError(28, "No space left on device")

    def all_of(store):
        file, info = store.fixed_label(image, "final")
        current = store.label(image, "final").read_bytes()
        return store.versions(image), store.get_label_info(image, "final"), info, file.read_bytes(), current

    store.save_label(image, str(old), "final", {"user": "ann"})
    before = all_of(store)
    with monkeypatch.context() as patch:
        patch.setattr(store.labels, "_make_current", full)
        with pytest.raises(files.WriteError, match="No space left on device"):
            store.save_label(image, str(refused), "final", {"user": "bob"}, ["a click"])
    assert before[-1] == old.read_bytes() and all_of(store) == all_of(StudiesFolder(store.root)) == before
    with pytest.raises(RequestError, match="has no version 2"):  # as who reads meanwhile may try
        store.labels.update(image, 2, {"sending": "1.2.3"})
    assert store.versions(image) == before[0]


def test_prompts_of_a_submission_that_a_full_disk_refused(store, material, monkeypatch):
    """They do not lie beside the next one's label."""
    image, (label, *_) = store.list_images()[0], material.labels.values()

    def full(*_):
        raise files.WriteError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("monailabel_app.history.write_json", full)
        with pytest.raises(files.WriteError):
            store.save_label(image, str(label), "final", {}, ["a click"])
    store.save_label(image, str(label), "final", {})
    assert [info["version"] for info in store.versions(image)] == [1]
    assert not list(store.root.rglob("*.prompts.json"))


def test_many_at_once(store, material):
    """Every submission becomes a version."""
    image, labels = store.list_images()[0], [str(path) for path in material.labels.values()]

    def submit(number):
        for _ in range(5):
            store.save_label(image, labels[number], "final", {"user": str(number)})

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = store.versions(image)
    assert [info["version"] for info in versions] == list(range(1, 21))
    for info in versions:
        stored = (store.root / "labels/versions" / image / info["name"]).read_bytes()
        assert stored == open(labels[int(info["user"])], "rb").read()


def test_archive(store, label):
    with pytest.raises(RequestError, match="no labelled image yet"):
        store.get_dataset_archive()
    store.save_label(store.list_images()[0], label, "final", {})
    path = store.get_dataset_archive()
    try:
        names = zipfile.ZipFile(path).namelist()
        assert [name.partition("/")[0] for name in names] == ["image", "label", "metadata.json"]
    finally:
        os.unlink(path)


def test_an_archive_that_a_full_disk_ends(store, label, tmp_path, monkeypatch):
    """Nothing of it stays."""
    store.save_label(store.list_images()[0], label, "final", {})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        store.get_dataset_archive()
    assert set(tmp_path.iterdir()) == before


def test_archive_of_files_that_share_a_name(store, label):
    first, second, *_ = store.list_images()
    for image, folder in ((first, "a"), (second, "b")):
        (store.root / folder).mkdir()
        store.images.path(image).rename(store.root / folder / "ct.nii.gz")
    images = [image for image in store.list_images() if "ct" in image]
    for image in images:
        store.save_label(image, label, "final", {})
    path = store.get_dataset_archive()
    try:
        names = set(zipfile.ZipFile(path).namelist()) - {"metadata.json"}
        assert names == {f"{key}/{image}.nii.gz" for key in ("image", "label") for image in images} and len(names) == 4
    finally:
        os.unlink(path)


def test_an_upload_whose_suffix_would_take_part_of_its_id(store, tmp_path):
    """A new `scan.seg.nrrd` would be read as a second image `scan`."""
    before = store.list_images()
    (tmp_path / "sent.nrrd").write_bytes(b"NRRD")
    with pytest.raises(RequestError, match="expected no .seg at the end of a .nrrd file"):
        store.images.add(f"{before[0]}.seg", tmp_path / "sent.nrrd")
    assert store.list_images() == before


@pytest.mark.parametrize("twin", ["{}.nii", "{}.nrrd", "{}.NII.GZ", "{}"])
def test_two_images_of_one_id(twin, store, label, caplog):
    """They are set aside, and that is said: the label of one would become that of the other."""
    first, *others = store.list_images()
    store.save_label(first, label, "final", {"user": "ann"})
    added = store.root / twin.format(first)
    if added.suffix:
        added.touch()
    else:
        added.mkdir()
        (added / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert store.list_images() == store.get_unlabeled_images() == others
    assert store.get_labeled_images() == [] and store.datalist() == []
    names = " and ".join(sorted([added.name, f"{first}.nii.gz"]))
    reason = f"{names} are both image {first!r}: rename all but one"
    assert store.set_aside() == {first: reason}
    for action in (store.image, store.get_image_info, lambda image: store.save_label(image, label, "final", {})):
        with pytest.raises(RequestError, match="rename all but one") as caught:
            action(first)
        assert caught.value.status == 409
    with pytest.raises(RequestError, match="there is an image"):
        store.add_image(first, str(store.root / f"{others[0]}.nii.gz"), {})
    StudiesFolder(store.root)
    assert f"set aside: {reason}" in caplog.text
    shutil.rmtree(added) if added.is_dir() else added.unlink()
    assert store.get_labeled_images() == [first] and store.get_label_info(first, "final")["user"] == "ann"


def test_other_files_among_the_versions(store, label):
    """What a file browser or an archiver leaves there."""
    image = store.list_images()[0]
    store.save_label(image, label, "final", {})
    versions = store.root / "labels/versions"
    for path in (versions / ".DS_Store", versions / image / "notes.json", versions / image / "0002.nii.gz"):
        path.write_bytes(b"x")
    again = StudiesFolder(store.root)
    assert [info["version"] for info in again.versions(image)] == [1]
    again.save_label(image, label, "final", {})
    assert again.label_version(image, 2).read_bytes() == open(label, "rb").read()
