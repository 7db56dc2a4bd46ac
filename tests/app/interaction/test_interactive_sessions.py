"""What a session keeps, for whom, how long, and what it never does."""

import gc
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from dicom_helpers import write_series
from interaction_helpers import DAY, SHAPE, SPACING, Place, at

from monailabel_app.errors import RequestError
from monailabel_app.interaction import disk, disk_room, leftovers, memory, registry, stored_labels
from monailabel_app.interaction.conversation import Conversation
from monailabel_app.interaction.disk import SessionFolder
from monailabel_app.interaction.refinement import Refinement
from monailabel_app.studies import converted
from rep3d import files
from rep3d.interactive import editing, steps


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def mine(place):
    return place.sessions.of_study("ann", "slicer", "scan")


def refused(status, match=""):
    return pytest.raises(RequestError, match=match, check=lambda error: error.status == status)


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cube(low, high):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[low:high, low:high, low:high] = True
    return mask


# --- whose it is


def test_one_session_for_owner_client_and_image(place, mine):
    place.write_scan(place.voxels(1), "other")
    again = place.sessions.of_study("ann", "slicer", "scan.nii.gz".removesuffix(".nii.gz"))
    others = [place.sessions.of_study(*wanted) for wanted in
              [("ann", "ohif", "scan"), ("bob", "slicer", "scan"), ("ann", "slicer", "other")]]  # fmt: skip
    assert again is mine and len({one.id for one in (mine, *others)}) == 4


def test_two_clients_on_one_image_do_not_mix(place, mine):
    other = place.sessions.of_study("ann", "ohif", "scan")
    mine.show("liver", [at(5, 5, 5)])
    other.show("liver", [at(30, 20, 15)])
    mine.lock(["liver"])
    assert mine.mask("liver")[5, 5, 5] and not mine.mask("liver")[30, 20, 15]
    assert other.mask("liver")[30, 20, 15] and not other.mask("liver")[5, 5, 5] and other.locked == ()


def test_a_session_is_its_owners(place, mine):
    for wanted in ((mine.id, "bob"), ("absent", "ann"), ("../interaction", "ann")):
        with refused(404, "no such session"):
            place.sessions.get(*wanted)
    assert place.sessions.get(mine.id, "ann") is place.sessions.get(mine.id, None) is mine
    place.sessions.of_study("bob", "slicer", "scan")
    assert [one["owner"] for one in place.sessions.list("ann")] == ["ann"] and len(place.sessions.list(None)) == 2


def test_nobody_else_may_read_the_files(place, mine):
    mine.show("liver", [at(5, 5, 5)])
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    for folder in (place.root, place.root / mine.id, place.root / array.id):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files_of = [*(place.root / mine.id).iterdir(), *(place.root / array.id).iterdir()]
    assert {path.name for path in files_of} == {"session.json", "0001.label", "image.npy"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of} == {0o600}


# --- labels


def test_labels_are_told_apart_and_locked(mine):
    mine.show("liver", [at(10, 10, 10)])
    mine.lock(["liver"])
    answer = mine.show("spleen", [at(10, 10, 10), at(12, 10, 10)])
    assert answer.locked == (at(10, 10, 10),) and not (mine.mask("spleen") & mine.mask("liver")).any()
    assert mine.mask("spleen").any() and mine.labels == ("liver", "spleen")
    mine.lock([])
    assert mine.show("spleen", [at(10, 10, 10)]).mask[10, 10, 10]


def test_what_the_client_says_is_taken_is_locked_too(mine):
    mine.show("liver", [at(10, 10, 10)])
    mine.lock(["liver"])
    answer = mine.show("spleen", [at(10, 10, 10), at(20, 20, 15), at(30, 20, 15)], limits=cube(12, 22))
    assert answer.locked == (at(10, 10, 10), at(20, 20, 15)) and answer.mask[30, 20, 15]


def test_undo_and_redo_leave_locked_voxels_alone(mine):
    mine.paint("liver", cube(5, 15))
    mine.paint("liver", cube(5, 6))
    mine.paint("spleen", cube(8, 12))
    mine.lock(["spleen"])
    assert np.array_equal(mine.undo("liver").mask.numpy(), cube(5, 15) & ~cube(8, 12))
    assert mine.undoable("liver") == (1, 1) and mine.undoable("spleen") == (1, 0) and mine.undoable("new") == (0, 0)


@pytest.mark.parametrize(
    ("where", "name"), [(steps, "unpack"), (editing.LabelEdit, "leave_untold")], ids=["undoing", "telling"]
)
def test_an_undo_that_runs_out_of_memory_changes_nothing(where, name, place, mine, monkeypatch):
    mine.paint("liver", cube(2, 8))
    mine.paint("liver", cube(2, 9))
    before = content_of(place.root / mine.id)

    def scarce(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(where, name, scarce)
        mine.undo("liver", answered=False)
    assert mine.undoable("liver") == (2, 0) and np.array_equal(mine.mask("liver"), cube(2, 9))
    assert content_of(place.root / mine.id) == before
    assert np.array_equal(mine.undo("liver").mask, cube(2, 8)) and mine.undoable("liver") == (1, 1)


def test_a_locked_label_may_itself_be_edited(mine):
    mine.paint("liver", cube(5, 15))
    mine.lock(["liver"])
    assert mine.show("liver", [at(20, 20, 15)]).mask[20, 20, 15]
    assert mine.show("liver", [at(10, 10, 10)]).locked == ()


def test_what_begins_a_label_leaves_locked_voxels_alone(mine):
    mine.paint("liver", cube(5, 15))
    mine.lock(["liver"])
    mine.begin("spleen", cube(10, 20), taken=cube(18, 20))
    assert np.array_equal(mine.mask("spleen"), cube(10, 20) & ~cube(5, 15) & ~cube(18, 20))


def test_a_label_begins_anew_where_the_user_has_done_nothing_to_it(place, mine):
    """Also after a restart; whether a mask was found there or not."""
    for label in ("liver", "spleen", "nothing", "drawn later"):
        mine.begin(label, cube(2, 8) if label in ("liver", "spleen") else cube(0, 0), origin="one")
    mine.begin("of another program", cube(2, 8))
    mine.paint("by hand", cube(2, 8))
    mine.show("spleen", [at(12, 12, 12)])
    mine.paint("drawn later", cube(2, 8))
    labels = (*mine.labels, "new")
    for one in (mine, place.start().get(mine.id, "ann")):
        assert [label for label in labels if one.is_to_begin(label, "other")] == ["liver", "nothing", "new"]
        assert [label for label in labels if one.is_to_begin(label, "one")] == ["new"]
        assert [one.origin(label) for label in ("spleen", "by hand", "new")] == ["one", "", ""]
    one.bring_to("spleen", [])
    assert one.is_to_begin("spleen", "other")


@pytest.mark.parametrize("emptied", ["reset", "undo"])
def test_what_the_user_paints_in_the_place_of_what_began_is_no_beginning(place, mine, emptied):
    """It takes as many steps; the same mask again is one."""
    mine.begin("liver", cube(2, 8), origin="one")
    getattr(mine, emptied)("liver")
    assert not mine.is_to_begin("liver", "other")
    mine.paint("liver", cube(9, 15))
    for one in (mine, place.start().get(mine.id, "ann")):
        assert one.steps("liver") == 1 and not one.is_to_begin("liver", "other") and one.origin("liver") == "one"
    one.paint("liver", cube(2, 8))
    assert one.is_to_begin("liver", "other")


def test_a_hand_edit_among_steps_that_are_forgotten_is_no_beginning(mine, monkeypatch):
    monkeypatch.setattr("rep3d.interactive.history.MAX_STEPS", 3)
    mine.begin("liver", cube(2, 8), origin="one")
    mine.paint("liver", cube(2, 10))
    for number in range(5):
        mine.show("liver", [at(10 + number, 15, 12)])
    mine.bring_to("liver", [])
    assert mine.steps("liver") == 1 and np.array_equal(mine.mask("liver"), cube(2, 10))
    assert not mine.is_to_begin("liver", "other")


def test_a_label_that_goes_on_from_its_own_session_is_the_users_work(place, mine):
    """No bundle's result takes its place, and no shorter list takes it back; also after a restart."""
    mine.begin("liver", cube(2, 8), origin="one")
    mine.show("liver", [at(20, 20, 15)])
    mask = mine.mask("liver")
    mine.go_on("liver", mine.id)
    with refused(404):
        mine.go_on("spleen", mine.id)
    again = place.start().get(mine.id, "ann")
    assert again.went_on("liver", mine.id) and not again.went_on("liver", "another") and again.prompts("liver") == ()
    assert not again.is_to_begin("liver", "two") and again.origin("liver") == ""
    assert np.array_equal(again.bring_to("liver", []).mask, mask) and again.undoable("liver") == (1, 0)


def test_a_remembered_answer_is_that_of_these_locks(place, mine):
    """Whatever other labels were edited meanwhile: it is asked for again where the locks are others."""
    mine.paint("liver", cube(8, 12))
    clicks = [at(10, 10, 10), at(20, 20, 15)]
    free = mine.bring_to("spleen", clicks).mask.numpy()
    mine.lock(["spleen", "liver"])
    locked = mine.bring_to("spleen", clicks)
    assert locked.forwards and locked.locked == (clicks[0],) and not (locked.mask.numpy() & cube(8, 12)).any()
    mine.paint("liver", cube(8, 13))
    mine.lock(["liver"])
    again = mine.bring_to("spleen", clicks)
    assert not again.forwards and np.array_equal(again.mask, locked.mask)
    mine.lock([])
    assert np.array_equal(mine.bring_to("spleen", clicks).mask, free) and free[10, 10, 10]
    taken = np.zeros(SHAPE, bool)
    taken[20:, 20:, 15:] = True
    told = mine.bring_to("spleen", clicks, taken)
    assert told.locked == (clicks[1],) and not told.mask[20, 20, 15]
    used = place.network.count
    assert not mine.bring_to("spleen", clicks, taken).forwards and place.network.count == used
    assert mine.bring_to("spleen", clicks, taken=np.zeros(SHAPE, bool)).mask[20, 20, 15]
    used = place.network.count
    assert not mine.bring_to("spleen", clicks).forwards and place.network.count == used


def test_all_that_a_request_does_or_nothing(place, mine):
    mine.show("liver", [at(5, 5, 5)])
    mine.paint("spleen", cube(10, 15))
    mine.lock(["spleen"])
    before, masks = content_of(place.root / mine.id), {name: mine.mask(name).copy() for name in mine.labels}
    with refused(400, "prompt 1"), mine.hold():
        mine.paint("liver", cube(1, 4))
        mine.show("spleen", [at(20, 20, 15)])
        mine.paint("cyst", cube(2, 9))
        mine.lock(["cyst", "liver"])
        assert mine.mask("liver").sum() == 27 and mine.mask("spleen")[20, 20, 15] and mine.locked == ("cyst", "liver")
        mine.show("liver", [at(99, 5, 5)])
    assert content_of(place.root / mine.id) == before
    assert mine.labels == ("liver", "spleen") and mine.locked == ("spleen",)
    assert all(np.array_equal(mine.mask(name), mask) for name, mask in masks.items())
    with mine.hold():
        mine.paint("cyst", cube(2, 9))
        mine.show("liver", [at(20, 20, 15)])
    again = place.start().get(mine.id, "ann")
    assert again.labels == ("liver", "spleen", "cyst") and again.mask("liver")[20, 20, 15]
    assert again.mask("cyst").sum() == 7**3


@pytest.mark.parametrize(
    ("step", "status", "match"),
    [
        (lambda one: one.show("liver", [at(99, 5, 5)]), 400, "prompt 1, a point at voxel"),
        (lambda one: one.bring_to("new", [at(5, 5, 5), at(5, 5, 99)]), 400, "prompt 2"),
        (lambda one: one.show("liver", [at(5, 5, 5)] * 10_000), 400, "10001 prompts"),
        (lambda one: one.paint("liver", np.zeros((3, 3, 3), bool)), 400, "of the scan's shape"),
        (lambda one: one.paint("liver", np.zeros(SHAPE, np.uint8)), 400, "of bool"),
        (lambda one: one.show("liver", [at(5, 5, 5)], limits=np.zeros(SHAPE)), 400, "taken has the shape"),
        (lambda one: one.paint("", cube(1, 2)), 400, "expected a name"),
        (lambda one: one.paint("a\ud800", cube(1, 2)), 400, "without control characters or line ends"),
        (lambda one: one.paint("a\tb", cube(1, 2)), 400, "without control characters or line ends"),
        (lambda one: one.paint("a\u2028b", cube(1, 2)), 400, "without control characters or line ends"),
        (lambda one: one.copy("liver", "a\n"), 400, "without control characters or line ends"),
        (lambda one: one.copy("absent", "new"), 404, "no label 'absent'"),
        (lambda one: one.paint("x" * 201, cube(1, 2)), 400, "expected a name"),
        (lambda one: one.mask("absent"), 404, "no label 'absent'"),
        (lambda one: one.prompts("absent"), 404, "no label 'absent'"),
        (lambda one: one.lock(["liver", "absent"]), 404, "no label 'absent'"),
    ],
)
def test_what_is_refused_leaves_the_session_as_it_was(step, status, match, place, mine):
    mine.show("liver", [at(5, 5, 5)])
    before = content_of(place.root / mine.id)
    with refused(status, match):
        step(mine)
    assert content_of(place.root / mine.id) == before and mine.labels == ("liver",)
    assert mine.show("liver", [at(20, 20, 15)]).mask[5, 5, 5]


def test_too_many_labels(mine, monkeypatch):
    monkeypatch.setattr(stored_labels, "MAX_LABELS", 2)
    mine.paint("a", cube(1, 2))
    mine.paint("b", cube(1, 2))
    with refused(413, "which is the most"):
        mine.paint("c", cube(1, 2))
    mine.paint("a", cube(1, 3))


# --- restart, kill, disk


def test_all_of_it_survives_a_restart(place, mine):
    for number in range(25):
        mine.bring_to("liver", [at(2 + n, 5, 5) for n in range(0, 1 + number)])
    mine.paint("liver", mine.mask("liver") | cube(20, 22))
    mine.undo("liver")
    mine.paint("spleen", cube(12, 15))
    mine.lock(["spleen"])
    masks = {name: mine.mask(name) for name in mine.labels}
    place.start()
    again = place.sessions.of_study("ann", "slicer", "scan")
    assert again is not mine and again.id == mine.id and again.labels == ("liver", "spleen")
    assert all(np.array_equal(again.mask(name), mask) for name, mask in masks.items()) and again.locked == ("spleen",)
    assert again.undoable("liver") == (25, 1)
    used = place.network.count
    assert not again.bring_to("liver", [at(2 + n, 5, 5) for n in range(25)]).forwards
    assert np.array_equal(again.redo("liver").mask.numpy(), masks["liver"] | cube(20, 22))
    for _ in range(26):
        again.undo("liver")
    assert not again.mask("liver").any() and place.network.count == used


@pytest.mark.parametrize("at_call", range(3))
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_kill_in_the_middle_of_a_write(name, at_call, place, mine, monkeypatch):
    """The session is as before the request, or as after it; what was half written goes."""
    mine.show("liver", [at(5, 5, 5)])
    calls, call = [], getattr(os, name)

    def killed(*args):
        calls.append(1)
        if len(calls) > at_call:
            raise KeyboardInterrupt
        call(*args)

    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)  # a kill cleans nothing up
    monkeypatch.setattr(files.os, name, killed)
    try:
        mine.paint("spleen", cube(10, 15))  # the label, then the record
    except KeyboardInterrupt:
        assert at_call < 2
    monkeypatch.undo()
    place.start()
    again = place.sessions.get(mine.id, "ann")
    assert again.mask("liver")[5, 5, 5] and not list((place.root / mine.id).glob(".*"))
    assert again.labels == (("liver", "spleen") if at_call == 2 else ("liver",))
    assert again.paint("spleen", cube(1, 4)).mask.sum() == 27


@pytest.mark.parametrize("at_call", range(4))
def test_a_kill_between_two_labels(at_call, place, mine, monkeypatch):
    """Voxels that go from one label to another are in one of them, and nothing is left of what they were before."""
    mine.paint("liver", cube(1, 9))
    mine.paint("spleen", cube(10, 15))
    calls, replace_file = [], os.replace

    def killed(*args):
        calls.append(1)
        if len(calls) > at_call:
            raise KeyboardInterrupt
        replace_file(*args)

    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)  # a kill cleans nothing up
    monkeypatch.setattr(files.os, "replace", killed)
    with suppress(KeyboardInterrupt), mine.hold():
        mine.paint("liver", cube(1, 5))
        mine.paint("spleen", cube(5, 15))
    monkeypatch.undo()
    again = place.start().get(mine.id, "ann")
    after = at_call == 3  # the two labels, then the record
    assert np.array_equal(again.mask("liver"), cube(1, 5) if after else cube(1, 9))
    assert np.array_equal(again.mask("spleen"), cube(5, 15) if after else cube(10, 15))
    assert len(list((place.root / mine.id).iterdir())) == 3


def test_folders_of_the_first_format_go_on(place, mine):
    mine.paint("liver", cube(1, 9))
    mine.paint("spleen", cube(10, 15))
    record = place.root / mine.id / "session.json"
    record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    again = place.start().get(mine.id, "ann")
    assert again.mask("liver").sum() == 8**3 and again.labels == ("liver", "spleen")
    again.undo("liver")
    assert '"format": 2' in record.read_text()
    again = place.start().get(mine.id, "ann")
    assert not again.mask("liver").any() and again.mask("spleen").sum() == 5**3 and again.undoable("liver") == (0, 1)


def test_a_kill_while_a_session_is_made(place, monkeypatch):
    monkeypatch.setattr(SessionFolder, "write", lambda *_: None)
    session_id = place.sessions.of_array("ann", "napari", place.voxels(), SPACING).id
    monkeypatch.undo()
    assert (place.root / session_id / "image.npy").is_file()
    assert place.start().list(None) == [] and not (place.root / session_id).exists()


def test_a_full_disk_changes_nothing(place, mine, monkeypatch):
    mine.show("liver", [at(5, 5, 5)])
    before = content_of(place.root / mine.id)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)

    def several():
        with mine.hold():
            mine.paint("spleen", cube(1, 4))
            mine.show("liver", [at(20, 20, 15)])

    for step in (lambda: mine.show("liver", [at(20, 20, 15)]), lambda: mine.paint("spleen", cube(1, 4)),
                 lambda: mine.lock(["liver"]), several):  # fmt: skip
        with pytest.raises(files.WriteError):
            step()
        assert not mine.mask("liver")[20, 20, 15]
    with pytest.raises(files.WriteError):
        place.sessions.of_study("bob", "slicer", "scan")
    monkeypatch.undo()
    assert content_of(place.root / mine.id) == before and len(list(place.root.iterdir())) == 1
    assert mine.labels == ("liver",) and mine.locked == ()


def test_a_disk_that_is_full_after_the_first_file_changes_nothing(place, mine, monkeypatch):
    mine.paint("liver", cube(1, 4))
    mine.paint("spleen", cube(5, 9))
    before, calls, fsync = content_of(place.root / mine.id), [], os.fsync

    def full(descriptor):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(files.WriteError), mine.hold():
        mine.paint("liver", cube(10, 12))
        mine.paint("spleen", cube(12, 15))
    assert len(calls) == 2 and content_of(place.root / mine.id) == before
    assert np.array_equal(mine.mask("liver"), cube(1, 4)) and np.array_equal(mine.mask("spleen"), cube(5, 9))


@pytest.mark.parametrize("wrong", ['"format": 3', '"format": 2,', '"format": 2, "begun": null'])
def test_what_newer_code_wrote_or_is_damaged_is_left_alone_until_it_expires(wrong, place, mine, caplog):
    """It may hold a scan: administrators see it, and may delete it."""
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    for one in (mine, array):
        record = place.root / one.id / "session.json"
        record.write_text(record.read_text().replace('"format": 2', wrong))
    place.age(mine, 6.9), place.age(array, 1)  # noqa: B018
    place.start()
    assert "session left alone until it expires" in caplog.text and place.sessions.list("ann") == []
    told = {one["id"]: one for one in place.sessions.list(None)}
    assert set(told) == {mine.id, array.id} and told[array.id]["bytes"] > np.prod(SHAPE)
    assert "it cannot be read" in told[mine.id]["note"] and not {"owner", "image"} & set(told[mine.id])
    assert told[mine.id]["expires"] == pytest.approx(time.time() + 0.1 * DAY, abs=60)
    with refused(404):
        place.sessions.remove(array.id, "ann")
    place.sessions.remove(array.id, None)
    assert [path.name for path in place.root.iterdir()] == [mine.id]
    place.age(mine, 7.1)
    assert place.start().remove_expired() == 1 and not list(place.root.iterdir())


@pytest.mark.parametrize(("where", "name"), [(disk.shutil, "rmtree"), (files.Path, "unlink")], ids=["folder", "record"])
def test_what_cannot_be_deleted_is_told_and_tried_again(where, name, place, mine, monkeypatch):
    """The audit log has a deletion once the voxels are gone; nobody else's request fails meanwhile."""
    events = []
    monkeypatch.setattr(leftovers, "record_event", lambda event, **more: events.append((event, more["user"])))
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    kept = place.sessions.of_study("bob", "slicer", "scan")

    def fails(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with refused(500, "some of its files cannot be deleted yet"):
            place.sessions.remove(array.id, "ann")
        place.age(mine, 8)
        assert place.sessions.of_study("bob", "slicer", "scan") is kept and place.sessions.list("ann") == []
        told = {one["id"]: one.get("note", "") for one in place.sessions.list(None)}
        assert set(told) == {array.id, mine.id, kept.id} and "some of its files cannot be" in told[array.id]
        with refused(404):
            array.mask("liver")
        assert (place.root / array.id / "image.npy").exists() and events == []
    place.sessions.sweep()
    assert [path.name for path in place.root.iterdir()] == [kept.id]
    assert sorted(events) == [("interactive session deleted", "ann"), ("interactive session expired", "ann")]


def test_a_deletion_that_a_kill_interrupts_goes_on(place, mine, monkeypatch):
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(disk.shutil, "rmtree", killed)
        place.sessions.remove(array.id, "ann")
    assert (place.root / array.id / "image.npy").exists()
    assert place.start().remove_expired() == 1 and [path.name for path in place.root.iterdir()] == [mine.id]


def test_what_cannot_be_read_takes_room(place, mine, monkeypatch):
    (place.root / mine.id / "session.json").write_text("junk")
    place.start()
    monkeypatch.setattr(disk_room, "ALL_SESSIONS", 1)
    with refused(507):
        place.sessions.of_study("ann", "slicer", "scan")
    place.sessions.remove(mine.id, None)
    assert place.sessions.of_study("ann", "slicer", "scan").labels == ()


def test_what_others_put_there_is_left_alone(place, mine):
    (place.root / "backup").mkdir()
    (place.root / ".DS_Store").write_bytes(b"")
    assert [one["id"] for one in place.start().list(None)] == [mine.id] and (place.root / "backup").is_dir()


def test_a_damaged_label_is_said(place, mine, caplog):
    mine.paint("liver", cube(1, 9))
    mine.paint("spleen", cube(10, 12))
    path = place.root / mine.id / "0001.label"
    path.write_bytes(path.read_bytes()[:-2])
    with refused(500, "'liver' cannot be read"):
        mine.mask("liver")
    assert mine.mask("spleen").any() and "checksum" in caplog.text


# --- how long


def test_expiry(place, mine):
    kept = place.sessions.of_study("ann", "ohif", "scan")
    place.age(mine, 7.1), place.age(kept, 6.9)  # noqa: B018
    with refused(404):
        place.sessions.get(mine.id, "ann")
    assert place.sessions.remove_expired() == 1 and not (place.root / mine.id).exists()
    with refused(404):
        mine.mask("liver")
    kept.undo("liver")
    assert place.sessions.describe(kept)["expires"] == pytest.approx(time.time() + 7 * DAY, abs=60)
    assert place.sessions.of_study("ann", "slicer", "scan").id != mine.id


def test_a_restart_is_no_use(place, mine):
    place.age(mine, 6.9)
    assert place.start().list("ann")[0]["used"] < time.time() - 6.8 * DAY
    assert place.start(days=1).list("ann") == [] and not (place.root / mine.id).exists()


def test_sessions_of_lent_scans_go_with_them(place, tmp_path):
    lent = place.lent.create(place.write_scan(place.voxels(), "lent"), "ann")
    one = place.sessions.of_lent("ann", "slicer", lent.name)
    assert place.sessions.of_lent("ann", "slicer", lent.name) is one
    one.show("liver", [at(5, 5, 5)])
    with refused(404):
        place.sessions.of_lent("bob", "slicer", lent.name)
    assert place.sessions.remove_expired() == 0 and place.sessions.describe(one)["expires"] is None
    place.lent.remove(lent.name, "ann")
    assert place.sessions.remove_expired() == 1 and not (place.root / one.id).exists()


def test_a_lent_scan_lives_as_long_as_its_session_is_used(place, monkeypatch):
    lent = place.lent.create(place.write_scan(place.voxels(), "lent"), "ann")
    one = place.sessions.of_lent("ann", "slicer", lent.name)
    begin = time.time()
    for minutes in (50, 100, 150):
        monkeypatch.setattr(time, "time", lambda now=begin + minutes * 60: now)
        one.paint("liver", cube(1, 3))
    monkeypatch.setattr(time, "time", lambda: begin + 200 * 60)
    assert place.sessions.get(one.id, "ann") is one
    monkeypatch.setattr(time, "time", lambda: begin + 220 * 60)
    with refused(404):
        place.sessions.get(one.id, "ann")


def remove(place, image):
    with place.sessions.removing_image(image):
        place.studies.remove_image(image)


def test_sessions_go_with_their_image(place, mine):
    """Whoever's they are; also those of the same voxels from a client, which nobody would look for there."""
    turned = np.ascontiguousarray(place.voxels().astype(np.float32).transpose(2, 1, 0))
    arrays = [place.sessions.of_array(owner, "napari", turned, SPACING[::-1]) for owner in ("ann", "bob")]
    lent = place.lent.create(place.folder / "studies/scan.nii.gz", "ann")
    kept = [place.sessions.of_array("ann", "napari", place.voxels(1), SPACING),
            place.sessions.of_lent("ann", "slicer", lent.name)]  # fmt: skip
    place.write_scan(place.voxels(2), "other")
    remove(place, "other")
    with refused(404):
        remove(place, "absent")
    assert {path.name for path in place.root.iterdir()} == {one.id for one in (mine, *arrays, *kept)}
    remove(place, "scan")
    assert {path.name for path in place.root.iterdir()} == {one.id for one in kept}


def test_an_image_that_cannot_be_read_goes_with_its_sessions(place, mine, caplog):
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    (place.folder / "studies/scan.nii.gz").write_bytes(b"junk")
    remove(place, "scan")
    assert [path.name for path in place.root.iterdir()] == [array.id] and "is not compared" in caplog.text


def test_another_scan_under_the_same_name(place, mine):
    """No mask of one scan lands on another."""
    mine.show("liver", [at(5, 5, 5)])
    mine.leave_memory()
    place.write_scan(place.voxels(1))
    with refused(409, "has changed"):
        mine.show("liver", [at(6, 6, 6)])
    assert place.sessions.of_study("ann", "slicer", "scan") is not mine


def test_a_user_is_told_once_that_the_image_has_changed(place, mine):
    """Who still looks at the old one gets no mask of the new one; then begins anew. What there was stays, apart."""
    mine.show("liver", [at(5, 5, 5)])
    place.write_scan(place.voxels(1))
    for client in ("slicer", "slicer again"):
        if client == "slicer":
            with refused(409, "image 'scan' has changed since this session began: load it anew"):
                place.sessions.of_study("ann", "slicer", "scan")
        new = place.sessions.of_study("ann", client, "scan")
        assert new.id != mine.id and new.labels == () and place.sessions.of_study("ann", client, "scan") is new
    assert mine.labels == ("liver",) and mine not in [one for one, _ in place.sessions.of_image("ann", "scan")]
    with refused(400, "is of another image"):
        place.sessions.kept_for(new, mine.id, place.studies.image("scan"))


def click_beside_it_first(one):
    with refused(400):
        one.show("liver", [at(99, 5, 5)])
    one.show("liver", [at(5, 5, 5)])


@pytest.mark.parametrize(
    "work",
    [lambda one: one.show("liver", [at(5, 5, 5)]), click_beside_it_first, lambda one: one.paint("liver", cube(4, 7))],
    ids=["a click", "a click after a refused one", "only painted"],
)
def test_a_file_that_was_only_touched(work, place, mine):
    """As by a copy from a backup, or a new owner: the voxels are the same, and the user's work goes on."""
    work(mine)
    os.utime(place.studies.image("scan"), (1, 1))
    assert [one for one, _ in place.sessions.of_image("ann", "scan")] == [mine]
    other = place.sessions.of_study("ann", "ohif", "scan")
    assert place.sessions.kept_for(other, mine.id, place.studies.image("scan"))[0] is mine
    again = place.start().of_study("ann", "slicer", "scan")
    assert again.id == mine.id and again.mask("liver")[5, 5, 5]
    again.show("liver", [at(6, 6, 6)])
    assert place.start().of_study("ann", "slicer", "scan").id == mine.id


def test_a_file_that_another_program_saved_anew(place, mine):
    """The header tells the same spacing in another form, which rounds otherwise: nothing of the work is left out."""
    mine.show("liver", [at(5, 5, 5)])
    file = place.studies.image("scan")
    nib.save(nib.Nifti1Image(place.voxels(), np.diag([*np.multiply(SPACING, 1 + 1e-6), 1])), file)
    assert [shown["session"] for shown in place.sessions.shown("ann", "scan")] == [mine.id]
    other = place.sessions.of_study("ann", "ohif", "scan")
    assert other.record.spacing != mine.record.spacing
    assert place.sessions.kept_for(other, mine.id, file)[0] is mine
    assert place.sessions.of_study("ann", "slicer", "scan") is mine
    assert not mine.bring_to("liver", [at(5, 5, 5)]).forwards


def test_a_scan_that_is_restored_finds_its_session(place, mine):
    """After a mistaken overwrite, however often. Who has worked on the other scan meanwhile is told so, each time."""
    mine.show("liver", [at(5, 5, 5)])
    found = []
    for seed in (1, 0, 1, 0):
        place.write_scan(place.voxels(seed))
        with refused(409, "has changed"):
            place.sessions.of_study("ann", "slicer", "scan")
        found.append(place.sessions.of_study("ann", "slicer", "scan"))
        found[-1].show("spleen", [at(6, 6, 6)])
    assert found[1] is found[3] is mine and found[0] is found[2] is not mine
    assert mine.labels == ("liver", "spleen") and found[0].labels == ("spleen",)


def test_a_series_that_is_read_otherwise_by_now(place, monkeypatch):
    write_series(place.folder / "studies/series")
    one = place.sessions.of_study("ann", "slicer", "series")
    one.show("liver", [editing.Prompt("point", ((2.0, 2.0, 2.0),))])
    one.leave_memory()
    same = place.start().of_study("ann", "slicer", "series")
    assert same.id == one.id and place.studies.stamps()["series"] == place.studies.stamp("series")
    monkeypatch.setattr(converted, "CONVERSION", converted.CONVERSION + 1)
    with refused(409, "has changed"):
        same.show("liver", [editing.Prompt("point", ((3.0, 3.0, 3.0),))])
    assert place.sessions.of_study("ann", "slicer", "series").id == one.id  # it has the same voxels


# --- how much


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("OWNER_SESSIONS", 2, 429),
        ("ALL_SESSIONS", 2, 507),
        ("OWNER_BYTES", 150_000, 429),
        ("ALL_BYTES", 150_000, 507),
    ],
)
def test_room(name, value, status, place, monkeypatch):
    monkeypatch.setattr(disk_room, name, value)
    kept = [place.sessions.of_array("ann", "napari", place.voxels(), SPACING) for _ in range(2)]
    with refused(status):
        place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    assert len(list(place.root.iterdir())) == 2
    place.sessions.remove(kept[0].id, "ann")
    place.sessions.of_array("ann", "napari", place.voxels(), SPACING)


@pytest.mark.parametrize(("name", "status"), [("OWNER_BYTES", 429), ("ALL_BYTES", 507)])
def test_room_for_what_a_session_grows_by(name, status, place, mine, monkeypatch):
    """255 labels with 64 MB of steps each are more than an owner may have."""
    mine.paint("liver", cube(1, 9))
    before, noise = content_of(place.root / mine.id), np.random.default_rng(0).random(SHAPE) > 0.5
    monkeypatch.setattr(disk_room, name, place.sessions.list("ann")[0]["bytes"] + 2000)

    def together():
        with mine.hold():
            mine.paint("spleen", cube(10, 12))
            mine.paint("liver", noise)

    for step in (lambda: mine.paint("liver", noise), lambda: mine.paint("cyst", noise), together):
        with refused(status):
            step()
        assert content_of(place.root / mine.id) == before and mine.labels == ("liver",)
        assert np.array_equal(mine.mask("liver"), cube(1, 9)) and mine.undoable("liver") == (1, 0)
    assert mine.paint("liver", cube(1, 10)).mask.sum() == 9**3 and not mine.reset("liver").mask.any()
    with refused(status):
        place.sessions.of_study("ann", "ohif", "scan").paint("liver", noise)


def test_room_for_a_week_of_many_images(place, mine):
    """Where nobody logs in, all users are one owner."""
    place.sessions._sessions |= {str(number): mine for number in range(998)}
    place.sessions.of_study("ann", "ohif", "scan")
    with refused(429, "has 1000 interactive sessions"):
        place.sessions.of_study("ann", "napari", "scan")


def test_a_client_at_the_limit_takes_another_image(place, monkeypatch):
    """That of which nothing was made goes, once the other one is there."""
    monkeypatch.setattr(disk_room, "OWNER_SESSIONS", 1)
    talk = Conversation(place.sessions, "ann")
    talk.set_image(place.voxels(), SPACING)
    talk.set_image(place.voxels(1), SPACING)
    with refused(400, "spacing"):
        talk.set_image(place.voxels(2), (0, 1, 1))
    talk.show(at(5, 5, 5), answer=True)
    with refused(429):
        talk.set_image(place.voxels(2), SPACING)
    assert [one["labels"] for one in place.sessions.list("ann")] == [["segment"]] and talk.undo().answered


def test_memory_of_one_session(place, mine):
    """Three times the scan in int16, and 64 MB: of the labels only one is in memory."""
    for number in range(12):
        mine.paint(f"label {number}", cube(number, number + 8))
    mine.lock(mine.labels)
    mine.show("more", [at(30, 20, 15)])
    voxels = np.prod(SHAPE)
    assert mine.nbytes == 2 * voxels + voxels + voxels <= mine.full_nbytes == 3 * 2 * voxels


def test_sessions_leave_memory_for_others_and_come_back(place, monkeypatch):
    sessions = [place.sessions.of_study("ann", f"client {number}", "scan") for number in range(4)]
    one = sessions[0].full_nbytes
    monkeypatch.setattr(memory, "MAX_MEMORY", 1.45 * one)
    for number, each in enumerate(sessions):
        each.show("liver", [at(5 + number, 5, 5)])
        assert place.sessions.nbytes <= 1.45 * one
    assert [each.nbytes > 0 for each in sessions] == [False, False, True, True]
    sessions[2].mask("liver")  # used again, so that the other goes first
    answer = sessions[0].bring_to("liver", [at(5, 5, 5)])
    assert answer.mask[5, 5, 5] and not answer.forwards and sessions[2].nbytes and not sessions[3].nbytes


def test_nothing_stays_in_memory_for_long(place, mine):
    """Nor what is of an image that is gone."""
    array = place.sessions.of_array("ann", "napari", place.voxels(), SPACING)
    for one in (mine, array):
        one.show("liver", [at(5, 5, 5)])
    place.sessions.sweep()
    assert mine.nbytes and array.nbytes
    place.age(array, 0.03)
    (place.folder / "studies/scan.nii.gz").unlink()
    place.sessions.sweep()
    assert not mine.nbytes and not array.nbytes and array.mask("liver")[5, 5, 5]
    place.age(array, 8)
    place.sessions.sweep()
    assert not (place.root / array.id).exists() and (place.root / mine.id).exists()


def test_sweeping_goes_on_by_itself_and_ends_with_the_sessions(place, mine, monkeypatch):
    monkeypatch.setattr(registry, "SWEEP_SECONDS", 0.02)
    sessions = place.start()
    place.age(mine, 8)
    deadline = time.monotonic() + 60
    while (place.root / mine.id).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (place.root / mine.id).exists()
    sweeping = lambda: [one for one in threading.enumerate() if one.name == "sessions"]  # noqa: E731
    before = len(sweeping())
    del sessions
    place.sessions = None
    gc.collect()
    while len(sweeping()) >= before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(sweeping()) < before


def test_a_session_in_use_stays_in_memory(place, mine, monkeypatch):
    """Who finds no room waits for it, and is told to come again after a while."""
    mine.paint("liver", cube(1, 5))
    monkeypatch.setattr(memory, "MAX_MEMORY", mine.full_nbytes)
    monkeypatch.setattr(registry, "ROOM_SECONDS", 0.1)
    other = place.sessions.of_study("ann", "ohif", "scan")
    with ThreadPoolExecutor() as pool:
        with mine.hold():
            with refused(503, "the memory for interactive sessions is at capacity"):
                pool.submit(other.paint, "liver", cube(1, 5)).result(30)
            with mine.hold():  # who has room has it
                assert mine.nbytes and other.labels == ()
            monkeypatch.setattr(registry, "ROOM_SECONDS", 30)
            waiting = pool.submit(other.paint, "liver", cube(1, 6))
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result(30).mask.sum() == 125
    assert not mine.nbytes and mine.mask("liver").sum() == 64


def test_many_who_click_at_once_take_no_more_memory_than_there_is(place, monkeypatch):
    """After a restart nothing is in memory yet, and each one begins by reading the scan."""
    for number in range(6):
        place.sessions.of_study("ann", f"client {number}", "scan")
    ids, started = [one["id"] for one in place.sessions.list("ann")], place.start()
    sessions = [started.get(session_id, "ann") for session_id in ids]
    full, in_use = sessions[0].full_nbytes, []
    monkeypatch.setattr(memory, "MAX_MEMORY", 2.2 * full)

    def look():
        in_use.append(sum(one._holder is not None for one in sessions))
        time.sleep(0.02)

    monkeypatch.setattr(place.network, "before", look)
    with ThreadPoolExecutor(len(sessions)) as pool:
        answers = list(pool.map(lambda one: one.show("liver", [at(5, 5, 5)]), sessions))
    assert all(answer.mask[5, 5, 5] for answer in answers) and max(in_use) == 2
    assert place.sessions.nbytes <= 2.2 * full


def test_a_scan_larger_than_the_memory_has_it_alone(place, mine, monkeypatch):
    monkeypatch.setattr(memory, "MAX_MEMORY", 0)
    assert mine.show("liver", [at(5, 5, 5)]).mask[5, 5, 5] and mine.nbytes
    place.sessions.of_study("ann", "ohif", "scan").show("liver", [at(5, 5, 5)])
    assert not mine.nbytes


# --- at the same time


def test_threads_on_one_session_lose_nothing(mine):
    def work(row):
        for column in range(6):
            mine.show("liver", [at(4 + 6 * column, 4 + 6 * row, 12)])

    workers = [threading.Thread(target=work, args=(row,)) for row in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert len(mine.prompts("liver")) == 24 and mine.undoable("liver") == (24, 0)
    assert all(mine.mask("liver")[4 + 6 * column, 4 + 6 * row, 12] for column in range(6) for row in range(4))


def test_two_requests_at_once_make_one_session(place):
    found, start = [], threading.Barrier(6)

    def work():
        start.wait()
        found.append(place.sessions.of_study("ann", "slicer", "scan"))

    workers = [threading.Thread(target=work) for _ in range(6)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert len({one.id for one in found}) == 1 and len(list(place.root.iterdir())) == 1


def test_a_click_waits_for_nobodys_upload(place, mine, monkeypatch):
    writes, go_on, create = threading.Event(), threading.Event(), SessionFolder.create
    monkeypatch.setattr(SessionFolder, "create", lambda *args: (writes.set(), go_on.wait(30), create(*args)))
    with ThreadPoolExecutor() as pool:
        pool.submit(place.sessions.of_array, "bob", "napari", place.voxels(), SPACING)
        assert writes.wait(30)
        try:
            assert pool.submit(place.sessions.of_study, "ann", "slicer", "scan").result(5) is mine
        finally:
            go_on.set()


def test_too_many_waiting_are_told_to_come_again(place, mine, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(place.network, "before", lambda: (entered.set(), go_on.wait(10)))
    mine._admitted = threading.BoundedSemaphore(1)
    worker = threading.Thread(target=mine.show, args=("liver", [at(5, 5, 5)]))
    worker.start()
    assert entered.wait(10)
    with refused(503):
        mine.mask("liver")
    assert place.sessions.list("ann")[0]["id"] == mine.id  # lists wait for nobody
    go_on.set()
    worker.join()
    with mine.hold(), mine.hold():  # one ticket for all that a request does
        assert mine.mask("liver").any()


def test_a_session_deleted_while_others_wait(place, mine):
    errors = []

    def wait():
        try:
            mine.paint("liver", cube(1, 4))
        except RequestError as error:
            errors.append(error.status)

    with mine.hold():
        worker = threading.Thread(target=wait)
        worker.start()
        place.sessions.remove(mine.id, "ann")
    worker.join()
    assert errors == [404] and not (place.root / mine.id).exists()


def test_a_label_of_another_name_is_the_same(place, mine):
    mine.begin("liver", cube(2, 8), origin="one")
    mine.lock(["liver"])
    with refused(400, "prompt 1"), mine.hold():
        mine.show("liver", [at(20, 20, 15)])
        mine.rename("liver", "spleen")
        mine.show("liver", [at(99, 5, 5)])
    assert mine.labels == mine.locked == ("liver",) and mine.undoable("liver") == (1, 0)
    with mine.hold():
        mine.show("liver", [at(20, 20, 15)])
        mine.rename("liver", "spleen")
        mine.paint("liver", cube(1, 4))
    with refused(404):
        mine.rename("cyst", "kidney")
    again = place.start().get(mine.id, "ann")
    assert again.labels == ("spleen", "liver") and again.locked == ("spleen",) and again.origin("spleen") == "one"
    assert again.prompts("spleen") == (at(20, 20, 15),) and again.undoable("spleen") == (2, 0)
    assert again.mask("spleen")[2:8, 2:8, 2:8].all() and np.array_equal(again.mask("liver"), cube(1, 4))


def test_a_copy_is_as_the_label(place, mine):
    """And each goes on by itself; a lock goes on to the copy, which it would leave without a voxel."""
    mine.begin("liver", cube(2, 8), origin="one")
    mine.show("liver", [at(20, 20, 15)])
    mine.note_background("liver", [at(1, 1, 1, False)])
    mine.lock(["liver"])
    with mine.hold():
        mine.copy("liver", "spleen")
        mine.paint("liver", cube(1, 4))
        mine.show("spleen", [at(30, 20, 15)])
    again = place.start().get(mine.id, "ann")
    assert again.labels == ("liver", "spleen") and again.locked == ("spleen",) and again.origin("spleen") == "one"
    assert again.background("spleen") == again.background("liver") == {at(1, 1, 1, False)}
    assert again.prompts("spleen") == (at(20, 20, 15), at(30, 20, 15)) and again.undoable("spleen") == (3, 0)
    assert again.mask("spleen")[2:8, 2:8, 2:8].all() and np.array_equal(again.mask("liver"), cube(1, 4))
    again.rename("spleen", "kidney")
    assert again.background("kidney") == {at(1, 1, 1, False)} and again.background("spleen") is None


def test_a_step_that_nobody_was_shown_is_told_with_the_next_answer(mine):
    mine.paint("liver", cube(2, 8))
    mine.paint("liver", cube(2, 9))
    mine.undo("liver", answered=False)
    assert np.array_equal(mine.told("liver"), cube(2, 9)) and np.array_equal(mine.mask("liver"), cube(2, 8))
    answer = mine.paint("liver", cube(2, 9))  # as it was told: no hand edit
    assert np.array_equal(answer.mask, cube(2, 8)) and mine.undoable("liver") == (1, 1)
    mine.redo("liver", answered=False)
    mine.reset("liver", answered=False)
    assert np.array_equal(mine.told("liver"), cube(2, 8)) and not mine.mask("liver").any()


# --- coarse answers


def test_coarse_answers_are_refined_in_the_background(place, monkeypatch):
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 0.05)
    voxels = np.zeros((48, 48, 48), np.int16)
    voxels[5:40, 5:40, 5:40] = 100
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), place.folder / "studies/large.nii.gz")
    monkeypatch.setattr(place.network, "_answer", lambda channels: 0.5 - channels[:, :1].abs())
    one = place.sessions.of_study("ann", "slicer", "large")
    click = editing.Prompt("point", ((22.0, 22.0, 22.0),))
    coarse = one.show("cube", [click]).mask
    one.paint("another", np.zeros((48, 48, 48), bool))  # the first one leaves memory
    deadline = time.monotonic() + 30
    while one.is_coarse and time.monotonic() < deadline:
        time.sleep(0.02)
    answer = one.bring_to("cube", [click])
    assert not answer.forwards and answer.changed is not None and (answer.mask != coarse).any()
    assert np.array_equal(place.start().get(one.id, "ann").mask("cube"), answer.mask.numpy())


def test_nobody_waits_for_what_is_refined_in_the_background(place, mine, monkeypatch):
    """What the user does meanwhile counts, and is not overwritten."""
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 1e9)  # the test refines
    monkeypatch.setattr(place.network, "_answer", lambda channels: 0.5 - channels[:, :1].abs())
    voxels = np.zeros((48, 48, 96), np.int16)
    voxels[5:40, 5:40, 5:90] = 100
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), place.folder / "studies/large.nii.gz")
    one = place.sessions.of_study("ann", "slicer", "large")
    click = editing.Prompt("point", ((22.0, 22.0, 22.0),))
    coarse = one.show("cube", [click]).mask
    assert one._labels.edit.is_coarse

    def refine_while(act):
        computes, go_on = threading.Event(), threading.Event()

        def wait(channels):
            computes.set()
            assert go_on.wait(30)
            return 0.5 - channels[:, :1].abs()

        with monkeypatch.context() as patch:
            patch.setattr(place.network, "_answer", wait)
            worker = threading.Thread(target=one.refine)
            worker.start()
            assert computes.wait(30)
            try:
                return act()
            finally:
                go_on.set()
                worker.join(30)

    again = refine_while(lambda: one.bring_to("cube", [click]))
    assert not again.forwards and again.changed is None and again.mask is coarse
    told = one.bring_to("cube", [click])  # what the background found is told with the next answer
    assert told.changed is not None and (told.mask != coarse).any()
    refined, painted = told.mask.numpy().copy(), np.zeros(voxels.shape, bool)
    painted[1:3, 1:3, 1:3] = True
    assert one._labels.edit.is_coarse
    refine_while(lambda: one.paint("cube", painted))
    assert np.array_equal(one.mask("cube"), painted) and not one.refine()
    assert np.array_equal(one.undo("cube").mask.numpy(), refined)
    one.show("cube", [replace(click, positions=((30.0, 30.0, 70.0),))])
    before, one_more = one.mask("cube"), one._labels.edit.is_coarse
    one.paint("kept", voxels > 0)
    one.mask("cube")
    assert one_more and refine_while(lambda: one.lock(["kept"])) is None
    assert np.array_equal(one.mask("cube"), before)  # it was computed before the lock
    place.sessions.remove(one.id, None)  # nothing of it is refined any longer


@pytest.fixture
def coarse(place, monkeypatch):
    """A session of a large scan whose answers are all coarse; the test refines. And a click in it."""
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 1e9)
    monkeypatch.setattr(place.network, "_answer", lambda channels: 0.5 - channels[:, :1].abs())
    voxels = np.zeros((28, 28, 28), np.int16)
    voxels[3:24, 3:24, 3:24] = 100
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), place.folder / "studies/large.nii.gz")
    return place.sessions.of_study("ann", "slicer", "large"), editing.Prompt("point", ((12.0, 12.0, 12.0),))


def test_what_a_request_had_taken_stays_so_in_the_background(coarse):
    one, click = coarse
    taken = np.zeros((28, 28, 28), bool)
    taken[:, :, :8] = True
    before = one.bring_to("cube", [click], taken).mask.numpy()
    one.mask("cube"), one.paint("another", taken)  # noqa: B018  # the first one leaves memory
    while one.refine():
        pass
    assert (one.mask("cube") != before).any() and not (one.mask("cube") & taken).any()


def test_what_is_to_be_refined_counts_as_memory(coarse):
    one, click = coarse
    limits = np.zeros((28, 28, 28), bool)
    limits[0, 0, 0] = True
    one.show("cube", [click], limits)
    kept = sum(len(part.region) + len(part.kept) + len(part.taken[0]) for part in one._labels.edit.coarse)
    assert kept and one.nbytes == 28**3 * 3 + kept and one.leave_memory() and one.nbytes == 0
    one.mask("cube")
    assert one.nbytes == 28**3 + kept
    while one.refine():
        pass
    assert one.nbytes == 28**3 * 3


def test_what_is_refined_in_the_background_is_no_use_of_the_session(place, coarse):
    """Nobody waits for it to be idle again, and it expires no later."""
    one, click = coarse
    one.show("cube", [click])
    place.age(one, 1)
    used, before = one.used, content_of(place.root / one.id)
    while one.refine():
        pass
    assert one.used == pytest.approx(used, abs=1e-3) and content_of(place.root / one.id) != before


def test_what_is_coarse_is_refined_after_a_restart(place, coarse, monkeypatch):
    """Once the session is used again; as it would have been before."""
    one, click = coarse
    other = place.sessions.of_study("ann", "ohif", "large")
    before = [each.show("cube", [click]).mask.numpy() for each in (one, other)][0]
    one.paint("another", before & False)
    while other.refine():
        pass
    again, asked = place.start().get(one.id, "ann"), []
    monkeypatch.setattr(place.sessions._refinement, "soon", asked.append)
    assert np.array_equal(again.mask("cube"), before) and asked == [again]
    while again.refine():
        pass
    assert np.array_equal(again.mask("cube"), other.mask("cube")) and (again.mask("cube") != before).any()
    assert not place.start().get(one.id, "ann").is_coarse


def test_a_label_of_another_name_goes_on_being_refined(coarse):
    one, click = coarse
    before = one.show("cube", [click]).mask.numpy()
    one.rename("cube", "another")
    while one.refine():
        pass
    assert one.labels == ("another",) and (one.mask("another") != before).any()


def test_what_an_undo_makes_coarse_again_is_refined_in_the_background(place, coarse, monkeypatch):
    one, click = coarse
    before = one.show("cube", [click]).mask
    one.paint("cube", np.zeros((28, 28, 28), bool))
    assert not one.refine()
    asked = []
    monkeypatch.setattr(place.sessions._refinement, "soon", asked.append)
    assert (one.undo("cube").mask == before).all() and asked == [one]
    while one.refine():
        pass
    assert (one.mask("cube") != before.numpy()).any()


def test_a_label_that_cannot_be_read_holds_no_others_up(place, coarse):
    one, click = coarse
    for name in ("broken", "cube"):
        one.show(name, [click])
    one.paint("another", one.mask("cube") & False)
    before = one.mask("cube")
    (place.root / one.id / "0001.label").write_bytes(b"junk")
    rounds = 0
    while one.refine():
        rounds += 1
        assert rounds < 1000
    assert (one.mask("cube") != before).any() and not one.is_coarse


def test_prompts_are_told_while_a_label_is_refined(place, coarse, monkeypatch):
    """As where a label map is submitted: nobody waits, and nothing of the refinement is lost but the cube at work."""
    one, click = coarse
    one.show("cube", [click])
    before = one.show("another", [click]).mask
    ask, told = place.network._answer, []

    def tell(channels):
        told.append(place.sessions.shown("ann", "large"))
        return ask(channels)

    with monkeypatch.context() as patch:
        patch.setattr(place.network, "_answer", tell)
        one.refine()
    assert [list(shown["labels"]) for shown in told[0]] == [["cube", "another"]]
    while one.refine():
        pass
    both = [one.mask(name) for name in one.labels]
    assert np.array_equal(*both) and (both[0] != before.numpy()).any()


def test_a_refused_request_leaves_what_is_to_be_refined(coarse):
    one, click = coarse
    one.show("cube", [click])
    left = [(part.told(), part.blobs) for part in one._labels.edit.coarse]
    with refused(400), one.hold():
        one.paint("cube", one.mask("cube") & False)
        one.show("cube", [replace(click, positions=((99.0, 0.0, 0.0),))])
    one.mask("cube")
    assert left and [(part.told(), part.blobs) for part in one._labels.edit.coarse] == left


@pytest.mark.parametrize(("status", "times"), [(503, 3), (404, 1)])
def test_what_cannot_be_refined_just_now_is_tried_again(status, times, monkeypatch):
    """Where others wait or other weights have come to serve; not what is gone."""
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 0)
    monkeypatch.setattr("monailabel_app.interaction.refinement.AGAIN_SECONDS", 0.05)
    tried, others = [], threading.Event()

    class Coarse:
        id, used = "one", 0.0

        def refine(self):
            tried.append(1)
            if len(tried) < 3:
                raise RequestError(status, "not now")
            return False

    class Other:
        id, used = "other", 0.0

        def refine(self):
            others.set()
            return False

    background = Refinement()
    background.soon(Coarse())
    background.soon(Other())
    assert others.wait(30)
    deadline = time.monotonic() + (30 if times > 1 else 0.5)
    while len(tried) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    background.end()
    assert len(tried) == times


def test_the_background_ends_when_it_is_told_to(monkeypatch):
    """Though sessions wait in it: a thread that computes while Python ends takes it down with an abort."""
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 0)
    done, computes, go_on = [], threading.Event(), threading.Event()

    class Coarse:
        id, used = "one", 0.0

        def refine(self):
            computes.set()
            assert go_on.wait(30)
            done.append(1)
            return True

    background = Refinement()
    background.soon(Coarse())
    assert computes.wait(30)
    end = threading.Thread(target=background.end)
    end.start()
    go_on.set()
    end.join(30)
    assert not background._thread.is_alive() and 1 <= len(done) < 100
