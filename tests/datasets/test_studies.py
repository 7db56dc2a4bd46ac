"""Labels that several people submitted in the label app: from clicks to a network of their own."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from rep3d import installed
from rep3d.data.image_ids import id_of
from rep3d.data.lists import load_datalist
from rep3d.data.memory import file_key
from rep3d.data.submissions import checksum
from rep3d.datasets import own_bundle, own_cases
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_bundle import new_bundle, report
from rep3d.datasets.sources import read_source
from rep3d.datasets.sources.studies import CurrentLabel, common_ids, current_label

LAPTOP = Machine(16e9, False, "a laptop", 16e9)
SHAPE = (20, 18, 12)
FRONT, BACK = (slice(4, 8), slice(5, 15), slice(3, 9)), (slice(8, 12), slice(5, 15), slice(3, 9))


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def drawn(names):
    label = np.zeros(SHAPE, np.uint8)
    for name, i in names.items():
        label[{"front": FRONT, "back": BACK}.get(name.lower(), (0, 0, slice(2)))] = i
    return label


def add_case(studies, case, names, **told):
    """An image, and its label as the app keeps it, of segments that are numbered as their user had them."""
    label = drawn(names)
    bright = np.isin(label, [i for name, i in names.items() if name.lower() == "back"])
    noise = np.random.default_rng(list(case.encode())).normal(0, 5, SHAPE)
    save(studies / f"{case}.nii.gz", (100 + 50 * bright + noise).astype(np.float32))
    submit(studies, case, label, names, **told)
    return label


def submit(studies, case, label, names, number=1, tag="final", **told):
    version = studies / f"labels/versions/{case}/{number:04d}.nii.gz"
    save(version, label)
    version.with_name(f"{number:04d}.json").write_text(json.dumps({"label_names": names, "tag": tag, **told}))
    save(studies / f"labels/{tag}/{case}.nii.gz", label)


@pytest.fixture
def studies(tmp_path, monkeypatch):
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    folder = tmp_path / "studies"
    add_case(folder, "ann1", {"front": 1, "back": 2}, user="ann")
    add_case(folder, "ann2", {"front": 1, "back": 2}, user="ann")
    add_case(folder, "bob1", {"Back": 1, "Front": 2}, user="bob")
    add_case(folder, "cyn1", {"front": 3, "back": 1, "ignore": 2}, user="cyn")
    return folder


def make(studies):
    return new_bundle("mine", studies, studies.parent / "bundles", root=installed.root(), machine=LAPTOP)


def test_segments_come_together_by_their_names(studies):
    before = {path: path.read_bytes() for path in studies.rglob("*.gz")}
    made = make(studies)
    assert made.labels.names == ["background", "front", "back"] and made.labels.ignored == 3 and not made.problems
    items = {item["case"]: item for item in json.loads((made.folder / "data/dataset.json").read_text())["training"]}
    assert len(load_datalist(made.folder / "data", "training")) == 3
    for case, item in items.items():
        label = np.asarray(nib.load(item["label"]).dataobj)
        assert (label[FRONT] == 1).all() and (label[BACK] == 2).all(), case
        assert np.unique(label).tolist() == ([0, 1, 2, 3] if case == "cyn1" else [0, 1, 2])
    assert {path: path.read_bytes() for path in studies.rglob("*.gz")} == before
    assert any("brought together by their names" in note for note in made.notes)
    assert make(studies).labels == made.labels


def test_labels_that_cannot_be_used_are_named(studies):
    add_case(studies, "half", {"front": 1})
    add_case(studies, "hand", {"front": 1, "back": 2})
    add_case(studies, "other", {"back": 1, "front": 2})
    save(studies / "labels/final/other.nii.gz", np.ones((9, 9, 9), np.uint8))
    label = add_case(studies, "edited", {"back": 1, "front": 2})
    for path in ("labels/final", "labels/versions/edited"):
        name = "edited.nii.gz" if path == "labels/final" else "0001.nii.gz"
        save(studies / path / name, np.where(label == 2, 7, label).astype(np.uint8))
    (studies / "labels/versions/hand/0001.json").unlink()
    add_case(studies, "more", {"front": 1, "back": 2, "vessel": 5})
    made = make(studies)
    assert set(made.problems) == {"half", "hand", "other", "edited"} and made.cases == 5
    text = report(made)
    for said in (
        "half/0001.nii.gz: has no segment back, as others have: is it finished? Submit it with that segment, empty",
        "hand.nii.gz: no names were submitted with it, and the ids of others differ",
        "other.nii.gz: no names were submitted with it",
        "edited/0001.nii.gz: label value(s) [7], which no segment of it has: [1, 2]",
        'segments that less than half of the 7 labels have are background: {"vessel": 1}',
    ):
        assert said in text, text
    items = {item["case"]: item for item in json.loads((made.folder / "data/dataset.json").read_text())["training"]}
    assert np.unique(nib.load(items["more"]["label"]).dataobj).tolist() == [0, 1, 2]


def test_values_without_a_segment_are_not_ignored_voxels(studies):
    """Also in a label whose numbers are the common ones."""
    add_case(studies, "unsure", {"front": 1, "back": 2, "ignore": 3})
    label = add_case(studies, "edited", {"front": 1, "back": 2})
    label[0, 0, 0] = 3
    submit(studies, "edited", label, {"front": 1, "back": 2})
    made = make(studies)
    assert made.labels.ignored == 3
    told = "edited/0001.nii.gz: label value(s) [3], which no segment of it has: [1, 2]"
    assert made.problems.keys() == {"edited"} and made.problems["edited"][0].endswith(told)


def test_a_label_of_another_scan_is_named(studies):
    add_case(studies, "other", {"back": 1, "front": 2})
    submit(studies, "other", np.ones((9, 9, 9), np.uint8), {"back": 1, "front": 2}, 2)
    version = studies / "labels/versions/other/0002.nii.gz"
    assert f"{version}: shape (9, 9, 9) differs from" in report(make(studies))


def test_only_current_labels_tell_names(studies):
    """Not what a model proposed later, what was removed, nor what somebody has replaced by hand."""
    submit(studies, "ann1", np.zeros(SHAPE, np.uint8), {"vessel": 1}, 2, tag="original")
    submit(studies, "ann1", np.zeros(SHAPE, np.uint8), {"bone": 1}, 3, removed=True)
    label = studies / "labels/final/ann1.nii.gz"
    label.write_bytes((studies / "labels/versions/ann1/0001.nii.gz").read_bytes())
    kept = current_label(studies, label)
    assert kept.names == {"front": 1, "back": 2} and kept.key == ""
    assert kept.file == studies / "labels/versions/ann1/0001.nii.gz"
    save(label, np.ones(SHAPE, np.uint8))
    assert current_label(studies, label) == CurrentLabel(label, file_key(label), None)


@pytest.mark.parametrize(
    ("segments", "names"),
    [
        ([{"name": "front"}, {"name": "back"}], {"front": 1, "back": 2}),
        ([{"name": "back", "idx": 2}, {"name": "front", "idx": 4}], {"back": 1, "front": 2}),
        ([{"color": 1}], None),
        (None, None),
    ],
)
def test_names_that_monai_label_kept(segments, names, tmp_path):
    """As 3D Slicer's module sends them to a server of MONAI Label's own."""
    told = {"image": {"ext": ".nii.gz"}, "labels": {"final": {"ext": ".nii.gz", "info": {"label_info": segments}}}}
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"name": "x", "objects": {"a": told}}))
    for case, kept in (("a", names), ("b", None)):
        label = tmp_path / f"labels/final/{case}.nii.gz"
        save(label, np.ones(SHAPE, np.uint8))
        assert current_label(tmp_path, label).names == kept


def test_segments_that_a_submission_left_out(studies):
    """The app keeps all names of the bundle that they belong to, and which of them the submission lacks."""
    add_case(studies, "part", {"front": 1})
    submit(studies, "part", np.zeros(SHAPE, np.uint8), {"front": 1, "back": 2}, 2, unnamed=["back"])
    made = make(studies)
    assert list(made.problems) == ["part"] and made.cases == 4
    assert "part/0002.nii.gz: has no segment back" in report(made)


def test_structures_that_labels_do_not_show(studies):
    """3D Slicer names a segment also where it is empty. What is not learned, and what is left out, lacks nothing."""
    submit(studies, "ann1", drawn({"front": 1}), {"front": 1, "back": 2}, 2, absent=["back"])
    submit(studies, "bob1", drawn({"Front": 2}), {"Back": 1, "Front": 2}, 2, absent=["Back"])
    submit(studies, "cyn1", drawn({"front": 3}), {"front": 3, "back": 1, "ignore": 2}, 2, absent=["back", "ignore"])
    add_case(studies, "half", {"front": 1, "vessel": 2}, absent=["vessel"])
    told = "what a label does not show counts as background: no back in 3 of 4 label(s), such as ann1"
    made = make(studies)
    assert told in made.notes and f"- {told}" in report(made) and list(made.problems) == ["half"]


def test_structures_that_labels_do_not_show_where_all_number_alike(tmp_path):
    for case, told in (("a", {}), ("b", {"absent": ["back"]}), ("c", {"absent": []})):
        add_case(tmp_path, case, {"front": 1, "back": 2}, **told)
    expected = "what a label does not show counts as background: no back in 1 of 3 label(s), such as b"
    assert read_source(tmp_path).notes == [expected]
    submit(tmp_path, "b", drawn({"front": 1, "back": 2}), {"front": 1, "back": 2}, 2)
    assert read_source(tmp_path).notes == []


def test_images_that_were_exchanged(tmp_path):
    """On the same grid, so that nothing else would tell. A file that was only touched is the same."""
    names = {"front": 1, "back": 2}
    for case in ("same", "other", "gone", "earlier"):
        add_case(tmp_path, case, names)
        image = tmp_path / f"{case}.nii.gz"
        told = {} if case == "earlier" else {"image": checksum(image)}
        submit(tmp_path, case, drawn(names), names, 2, **told)
        if case == "same":
            image.touch()
        else:
            save(image, np.full(SHAPE, 7, np.float32))
    (tmp_path / "gone.nii.gz").unlink()
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    told = "1 image(s) are other files than those that were labelled, check them: other"
    assert read_source(tmp_path).notes == [told]


def swap(studies, case):
    swapped = {"back": 1, "front": 2}
    submit(studies, case, drawn(swapped), swapped, 2)


def test_labels_submitted_later_swap_no_ids(tmp_path, monkeypatch):
    """Also where all number alike, so that no label map is copied."""
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    studies = tmp_path / "studies"
    for case in ("ann1", "ann2", "ann3", "ann4"):
        add_case(studies, case, {"front": 1, "back": 2})
    data = make(studies).folder / "data"
    swap(studies, "ann1")
    items = [item for part in ("training", "validation") for item in load_datalist(data, part)]
    assert len(items) == 4
    for item in items:
        label = np.asarray(nib.load(item["label"]).dataobj)
        assert (label[FRONT] == 1).all() and (label[BACK] == 2).all(), item


def test_a_label_without_versions_that_is_replaced(tmp_path, monkeypatch):
    """Put there by hand, so that the bundle lists the file itself; here one is replaced while the bundle is made."""
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    studies = tmp_path / "studies"
    for case in ("ann1", "ann2", "ann3"):
        add_case(studies, case, {"front": 1, "back": 2})
    shutil.rmtree(studies / "labels/versions/ann1")
    load_datalist(make(studies).folder / "data", "training")
    checked = own_cases.check_pairs

    def check_and_swap(*args):
        found = checked(*args)
        swap(studies, "ann1")
        return found

    monkeypatch.setattr(own_cases, "check_pairs", check_and_swap)
    made = make(studies)
    with pytest.raises(ValueError, match=r"final/ann1.nii.gz, which has changed since: run `rep3d new` again"):
        load_datalist(made.folder / "data", "training")


def test_images_by_the_ids_of_the_app(studies):
    """In subfolders, and under names that are not plain; of another format than NIfTI they are named."""
    for place in ("ward/scan", "O'Neil"):
        name = id_of(place, "image")
        add_case(studies, name, {"front": 1, "back": 2})
        (studies / place).parent.mkdir(exist_ok=True)
        (studies / f"{name}.nii.gz").rename(studies / f"{place}.nii.gz")
    add_case(studies, "nrrd", {"front": 1, "back": 2})
    (studies / "nrrd.nii.gz").rename(studies / "nrrd.nrrd")
    save(studies / "labelsTr/ann1.nii.gz", np.ones(SHAPE, np.uint8))
    made = make(studies)
    assert made.cases == 6 and list(made.problems) == ["nrrd"]
    assert f"{studies / 'nrrd.nrrd'}: NRRD is not read here: convert it to NIfTI" in report(made)
    items = {item["case"]: item for item in json.loads((made.folder / "data/dataset.json").read_text())["training"]}
    assert items["ward_scan-3ecbcfc8"]["image"] == str(studies / "ward/scan.nii.gz")
    assert items[id_of("O'Neil", "image")]["image"] == str(studies / "O'Neil.nii.gz")


def test_labels_without_a_common_segment(tmp_path):
    for case, name in (("a", "liver"), ("b", "spleen"), ("c", "vessel")):
        add_case(tmp_path, case, {name: 1})
    with pytest.raises(
        ValueError, match=r'labels/final: no segment is in half of the labels: .*"liver": 1, "spleen": 1'
    ):
        make(tmp_path)


def test_a_name_of_most_is_learned():
    common = common_ids({"a": {"liver": 1}, "b": {"Liver": 2, "tumor": 1}, "c": {"liver": 1}, "d": {"mark": 3}})
    assert common.names == ["liver"] and common.ids["b"] == {2: 1, 1: 0} and common.ignored is None
    assert list(common.problems) == ["d"]
