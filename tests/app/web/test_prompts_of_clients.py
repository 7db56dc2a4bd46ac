"""Clicks and scribbles as 3D Slicer and OHIF send them, over HTTP, with a network whose answers are known."""

import gzip
import json
from copy import deepcopy

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import OHIF_PARAMETERS, small_bundle
from prompt_helpers import Refused, Slicer, prompt_bundle, read_answer, start_app
from requests_toolbelt import MultipartDecoder

from monailabel_app.models.inference import Segmentation
from monailabel_app.studies.volumes import read_grid
from monailabel_app.web import prompted_inference
from monailabel_app.web.authentication import LOCAL_USER
from rep3d.interactive import change
from rep3d.interactive.prompts import point

ANTERIOR, POSTERIOR = "anterior hippocampus", "posterior hippocampus"
SHAPE = (24, 20, 12)
FIRST, SECOND = [5, 10, 6], [18, 10, 6]  # in balls that look alike, with others between them


def make_scan(path):
    """Two bright balls on a dark ground, along a first axis that runs from right to left."""
    voxels = np.random.default_rng(0).normal(0, 5, SHAPE)
    for centre in (FIRST, SECOND):
        voxels[ball(centre, 4)] += 300
    scan = nib.Nifti1Image(voxels.astype(np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]))
    nib.save(scan, path)
    return scan


def ball(centre, radius):
    distances = (np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) * np.reshape([1, 1, 2], (3, 1, 1, 1))
    return np.linalg.norm(distances, axis=0) < radius


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The bundle finds a core of either ball."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "studies").mkdir()
    scan = make_scan(folder / "studies/scan.nii.gz")
    small_bundle(folder / "bundles", "msd_hippocampus")
    prompt_bundle(folder / "bundles")
    client = start_app(folder, folder / "studies", folder / "bundles")
    found = (ball(FIRST, 2) + 2 * ball(SECOND, 2)).astype(np.uint8)
    result = Segmentation(found, read_grid(folder / "studies/scan.nii.gz"), {}, "")
    client.services.models["msd_hippocampus"].segment = lambda *_, **__: result
    client.scan = scan
    return client


@pytest.fixture
def slicer(place, request):
    return Slicer(place, "scan", place.scan, client_id=request.node.name)


@pytest.fixture
def forwards(monkeypatch):
    """How many prompts the network was asked about at once, each time."""
    asked, correct = [], change.correct

    def counting(*args, new, **kwargs):
        asked.append(new)
        return correct(*args, new=new, **kwargs)

    monkeypatch.setattr(change, "correct", counting)
    return asked


def session_of(slicer):
    sessions = slicer.client.services.interaction
    (found,) = (one["id"] for one in sessions.list(None) if one["client"] == f"{slicer.client_id}@127.0.0.1")
    return sessions.get(found, None)


def test_clients_show_their_tools_by_the_type(place):
    info = place.get("/info/").json()
    kinds = {name: (model["type"], model["labels"]) for name, model in info["models"].items()}
    labels = {ANTERIOR: 1, POSTERIOR: 2}
    assert kinds == {
        "interactive": ("deepgrow", {}),
        "scribbles": ("scribbles", {}),
        "msd_hippocampus": ("segmentation", labels),
        "msd_hippocampus_edit": ("deepedit", {"background": 0, **labels}),
    }
    switches = {
        name: [key for key, value in model["config"].items() if value is False]
        for name, model in info["models"].items()
    }
    assert switches == {
        "interactive": ["lock_submitted"],
        "scribbles": ["lock_others"],
        "msd_hippocampus": [],
        "msd_hippocampus_edit": ["lock_submitted"],
    }
    assert info["labels"] == [ANTERIOR, POSTERIOR, "background"]
    assert list(info["trainers"]) == ["msd_hippocampus", "interactive"]


def test_any_segment_follows_its_points(slicer, forwards):
    """One forward for all that is new, none for the same list, and for a shorter one exactly what was before."""
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst", reset_state=True)
    one = slicer.segments["cyst"]
    assert dice(one, ball(FIRST, 4)) > 0.7 and forwards == [1]
    slicer.points["cyst"]["foreground"].append(SECOND)
    slicer.points["cyst"]["background"].append([5, 10, 7])
    slicer.update("interactive", "cyst")
    several = slicer.segments["cyst"]
    assert several[tuple(SECOND)] and not several[5, 10, 7] and forwards == [1, 2]
    slicer.update("interactive", "cyst", reset_state=True)
    assert (slicer.segments["cyst"] == several).all() and forwards == [1, 2]
    del slicer.points["cyst"]["foreground"][1], slicer.points["cyst"]["background"][0]
    slicer.update("interactive", "cyst")
    assert (slicer.segments["cyst"] == one).all() and forwards == [1, 2]
    slicer.points["cyst"]["foreground"].clear()
    slicer.update("interactive", "cyst")
    assert not slicer.segments["cyst"].any() and forwards == [1, 2]


def test_the_answer_is_remembered(slicer):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    again = [slicer.update("interactive", "cyst")["latencies"]["infer"] for _ in range(3)]
    assert min(again) < 0.05  # seconds, once the machine is not busy with something else


def test_a_segment_without_prompts_is_not_emptied(slicer):
    """The module would clear what the user drew by hand."""
    slicer.add("drawn")
    with pytest.raises(Refused, match="'drawn' has no prompts yet: place a point or a box"):
        slicer.update("interactive", "drawn")


@pytest.mark.parametrize("roi", [[1, 9, 6, 14, 4, 8], [9, 1, 14, 6, 8, 4]])
def test_a_box_in_any_order(slicer, roi):
    """3D Slicer maps the box's corners to voxels, so that the first may be the larger one."""
    slicer.add("cyst")
    slicer.update("interactive", "cyst", roi=roi)
    (prompt,) = session_of(slicer).prompts("cyst")
    assert prompt.kind == "box" and prompt.bounds == ((0.5, 5.5, 7.0), (9.5, 14.5, 17.0))


def test_a_box_stays_while_the_label_has_points(slicer):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    assert slicer.update("interactive", "cyst", roi=[-5, 9, 6, 14, 4, 99])["note"] == ""
    slicer.points["cyst"]["foreground"].append(SECOND)
    told = slicer.update("interactive", "cyst")
    assert told["note"] == "cyst: its box still counts, delete all its points to drop it"
    assert [prompt.kind for prompt in session_of(slicer).prompts("cyst")] == ["box", "point", "point"]
    slicer.points["cyst"]["foreground"].clear()
    assert slicer.update("interactive", "cyst")["note"] == ""
    assert session_of(slicer).prompts("cyst") == ()


def test_a_box_of_a_bundles_label_stays_while_it_has_points(slicer):
    slicer.points[POSTERIOR]["foreground"].append(SECOND)
    assert slicer.update("msd_hippocampus_edit", POSTERIOR, roi=[12, 22, 6, 14, 4, 8])["note"] == ""
    told = slicer.update("msd_hippocampus_edit", POSTERIOR)
    assert told["note"] == f"{POSTERIOR}: its box still counts, delete all its points to drop it"
    assert slicer.update("msd_hippocampus_edit", ANTERIOR)["note"] == ""


@pytest.mark.parametrize("model", ["msd_hippocampus_edit", "interactive"])
def test_a_box_alone_stays_where_a_request_is_of_something_else(slicer, model):
    """Of a point of the background, of another label, or of what the bundle finds now; until it is deleted itself."""
    if model == "interactive":
        slicer.update(model, ANTERIOR, roi=[1, 9, 6, 14, 4, 8])
        slicer.update("msd_hippocampus_edit", POSTERIOR)
    else:
        slicer.update(model, POSTERIOR)
        slicer.update(model, ANTERIOR, roi=[1, 9, 6, 14, 4, 8])
    boxed = slicer.segments[ANTERIOR]
    told = slicer.update("msd_hippocampus_edit", POSTERIOR, preset="accurate")
    assert set(told["label_names"]) == {ANTERIOR, POSTERIOR} and f"{ANTERIOR}: kept as you have it" in told["note"]
    assert (slicer.segments[ANTERIOR] == boxed).all() and boxed.sum() > 100
    point = np.argwhere(boxed & ~ball(FIRST, 2))[0].tolist()
    slicer.points["background"]["foreground"].append(point)
    for label in ("background", ANTERIOR):
        slicer.update("msd_hippocampus_edit", label, preset="accurate")
        corrected = slicer.segments[ANTERIOR]
        assert not corrected[tuple(point)] and 0 < (boxed & ~corrected).sum() < boxed.sum() / 2
    slicer.points["background"]["foreground"].clear()
    slicer.update("msd_hippocampus_edit", "background", preset="accurate")
    assert (slicer.segments[ANTERIOR] == boxed).all()
    slicer.update("msd_hippocampus_edit", ANTERIOR, preset="accurate")
    assert session_of(slicer).prompts(ANTERIOR) == ()


def test_editing_begins_with_what_the_bundle_finds(slicer, forwards):
    """All labels the first time; then the edited one alone, so that hand edits of others stay."""
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    assert (slicer.segments[ANTERIOR] == ball(FIRST, 2)).all() and (slicer.segments[POSTERIOR] == ball(SECOND, 2)).all()
    slicer.segments[POSTERIOR][0, 0, 0] = True  # by hand
    slicer.points[ANTERIOR]["foreground"].append([8, 10, 6])
    slicer.points[POSTERIOR]["foreground"].append([20, 10, 6])
    told = slicer.update("msd_hippocampus_edit", ANTERIOR, reset_state=True)
    assert told["label_names"] == {ANTERIOR: 1} and forwards == [1]
    assert (
        slicer.segments[ANTERIOR][8, 10, 6]
        and (slicer.segments[ANTERIOR] & ball(FIRST, 2)).sum() == ball(FIRST, 2).sum()
    )
    assert slicer.segments[POSTERIOR][0, 0, 0]
    slicer.points[ANTERIOR]["foreground"].clear()
    assert slicer.update("msd_hippocampus_edit", ANTERIOR)["label_names"] == {ANTERIOR: 1}
    assert (slicer.segments[ANTERIOR] == ball(FIRST, 2)).all() and slicer.segments[POSTERIOR][0, 0, 0]
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    assert slicer.segments[POSTERIOR][20, 10, 6] and not slicer.segments[POSTERIOR][0, 0, 0]


def test_editing_may_begin_with_a_click(slicer):
    slicer.segments[POSTERIOR][0, 0, 0] = True
    slicer.points[ANTERIOR]["foreground"].append([8, 10, 6])
    assert slicer.update("msd_hippocampus_edit", ANTERIOR)["label_names"] == {ANTERIOR: 1}
    assert slicer.segments[POSTERIOR].sum() == 1 and slicer.segments[ANTERIOR][8, 10, 6]


def test_a_point_of_the_background_corrects_the_label_that_it_lies_in(slicer, forwards):
    """In 3D Slicer it is a point of the segment of that name."""
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    slicer.points["background"]["foreground"].append(SECOND)
    told = slicer.update("msd_hippocampus_edit", "background")
    assert told["label_names"] == {POSTERIOR: 1} and forwards == [1]
    assert slicer.update("msd_hippocampus_edit", "background")["label_names"] == {POSTERIOR: 1} and forwards == [1]
    assert not slicer.segments[POSTERIOR][tuple(SECOND)] and (slicer.segments[ANTERIOR] == ball(FIRST, 2)).all()
    slicer.points["background"]["foreground"].clear()
    slicer.update("msd_hippocampus_edit", "background")
    assert (slicer.segments[POSTERIOR] == ball(SECOND, 2)).all() and forwards == [1]
    slicer.points["background"]["foreground"].append([0, 0, 0])
    with pytest.raises(Refused, match="no label reaches the points of the background"):
        slicer.update("msd_hippocampus_edit", "background")


def test_a_label_that_grows_to_a_point_of_the_background_stops_there(slicer, forwards):
    """And for a list without the point that made it grow, the answer is exactly the earlier one."""
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    slicer.points["background"]["foreground"].append([6, 12, 7])
    slicer.points[ANTERIOR]["foreground"].append([8, 10, 6])
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    assert forwards == [1, 1] and not slicer.segments[ANTERIOR][6, 12, 7] and slicer.segments[ANTERIOR][8, 10, 6]
    slicer.points[ANTERIOR]["foreground"].clear()
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    assert (slicer.segments[ANTERIOR] == ball(FIRST, 2)).all() and forwards == [1, 1]


def test_a_point_of_the_background_stays_where_another_model_goes_on(slicer, forwards):
    """That one has no list of the background's points; the model that has it deletes them."""
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    slicer.points["background"]["foreground"].append(SECOND)
    slicer.update("msd_hippocampus_edit", "background")
    corrected = slicer.segments[POSTERIOR]
    slicer.points[POSTERIOR]["foreground"].append([20, 10, 6])
    slicer.update("interactive", POSTERIOR)
    assert slicer.segments[POSTERIOR][20, 10, 6] and not slicer.segments[POSTERIOR][tuple(SECOND)]
    assert [prompt.positive for prompt in session_of(slicer).prompts(POSTERIOR)] == [False, True]
    slicer.points[POSTERIOR]["foreground"].clear()
    slicer.update("interactive", POSTERIOR)
    assert (slicer.segments[POSTERIOR] == corrected).all() and forwards == [1, 1]
    slicer.points["background"]["foreground"].clear()
    slicer.update("msd_hippocampus_edit", "background")
    assert (slicer.segments[POSTERIOR] == ball(SECOND, 2)).all() and forwards == [1, 1]


def test_negative_points_of_a_segment_stay_where_its_bundle_goes_on(slicer, forwards):
    """Its model sends the background's, and no others, and 3D Slicer shows no others there."""
    slicer.points[POSTERIOR]["foreground"].append(SECOND)
    slicer.points[POSTERIOR]["background"].append([18, 10, 7])
    slicer.update("interactive", POSTERIOR)
    clicked = slicer.segments[POSTERIOR]
    slicer.points["background"]["foreground"].append(FIRST)
    assert slicer.update("msd_hippocampus_edit", "background")["label_names"] == {ANTERIOR: 1}
    slicer.points[POSTERIOR]["foreground"].append([12, 3, 6])
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    assert slicer.segments[POSTERIOR][12, 3, 6] and not slicer.segments[POSTERIOR][18, 10, 7]
    assert session_of(slicer).leave_memory()
    slicer.points[POSTERIOR]["foreground"].pop()
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    assert (slicer.segments[POSTERIOR] == clicked).all() and forwards == [2, 1, 1]
    slicer.points[POSTERIOR]["background"].clear()
    slicer.update("interactive", POSTERIOR)
    assert all(prompt.positive for prompt in session_of(slicer).prompts(POSTERIOR))


@pytest.mark.parametrize("model", ["interactive", "msd_hippocampus_edit"])
def test_any_list_deletes_the_points_of_an_earlier_server(slicer, model):
    """It does not tell which list they came from."""
    slicer.points[POSTERIOR]["foreground"].append(SECOND)
    slicer.points[POSTERIOR]["background"].append([18, 10, 7])
    slicer.update("interactive", POSTERIOR)
    session = session_of(slicer)
    session._labels.note(POSTERIOR, background=None)
    slicer.points[POSTERIOR]["background"].clear()
    slicer.update(model, POSTERIOR)
    assert [prompt.positive for prompt in session.prompts(POSTERIOR)] == [True]


@pytest.mark.parametrize(("model", "label"), [("interactive", "cyst"), ("msd_hippocampus_edit", POSTERIOR)])
@pytest.mark.parametrize("copied", [True, False])
def test_a_segment_that_was_renamed_or_copied_goes_on(slicer, forwards, model, label, copied):
    """The module sends the same points under another name: they tell which mask is meant."""
    slicer.add("Segment_1")
    slicer.points["Segment_1"]["foreground"].append(SECOND)
    slicer.update("interactive", "Segment_1")
    slicer.segments["Segment_1"][0, 0, 0] = True  # by hand
    scribbled(slicer)
    slicer.update_scribbles("Segment_1")
    drawn = slicer.segments["Segment_1"].copy()
    slicer.segments[label] = slicer.segments["Segment_1"].copy()
    slicer.points[label] = deepcopy(slicer.points["Segment_1"])
    if not copied:
        del slicer.segments["Segment_1"], slicer.points["Segment_1"]
    slicer.points[label]["foreground"].append([12, 3, 6])
    told = slicer.update(model, label)
    assert (slicer.segments[label] & drawn).sum() == drawn.sum() and slicer.segments[label][12, 3, 6]
    assert f"{label} has the points of Segment_1, and goes on from it" in told["note"] and forwards == [1, 1]
    if copied:
        slicer.points["Segment_1"]["foreground"].append([12, 16, 6])
        slicer.update("interactive", "Segment_1")
        assert (slicer.segments["Segment_1"] & drawn).sum() == drawn.sum() and slicer.segments["Segment_1"][12, 16, 6]
    asked = len(forwards)
    slicer.points[label]["foreground"].pop()
    assert "has the points" not in slicer.update(model, label)["note"]
    assert (slicer.segments[label] == drawn).all() and len(forwards) == asked


def test_a_segment_that_was_renamed_twice_goes_on_from_the_last_name(slicer):
    before = ""
    for number, name in enumerate(("Segment_1", "cyst", "left cyst")):
        slicer.segments[name] = slicer.segments.pop(before, np.zeros(SHAPE, bool))
        slicer.points[name] = slicer.points.pop(before, {"foreground": [], "background": []})
        slicer.points[name]["foreground"].append([4 + 8 * number, 10, 6])
        told = slicer.update("interactive", name)
        before = name
    assert told["note"] == "left cyst has the points of cyst, and goes on from it"


@pytest.fixture
def both(tmp_path):
    """A scene of 3D Slicer over two bundles that both have a tumor, and find it in different places."""
    (tmp_path / "studies").mkdir()
    scan = make_scan(tmp_path / "studies/scan.nii.gz")
    prompt_bundle(tmp_path / "bundles")
    for name in ("kits", "msd_pancreas"):
        small_bundle(tmp_path / "bundles", name)
    client = start_app(tmp_path, tmp_path / "studies", tmp_path / "bundles")
    find_tumor(client, "kits", FIRST)
    find_tumor(client, "msd_pancreas", SECOND)
    return Slicer(client, "scan", scan)


def find_tumor(client, name, centre):
    model = client.services.models[name]
    voxels = (model.bundle.labels["tumor"] * ball(centre, 2)).astype(np.uint8)
    result = Segmentation(voxels, read_grid(client.services.studies.image("scan")), {}, "")
    model.segment = lambda *_, **__: result


def test_a_label_of_two_bundles_is_what_the_one_finds_that_is_asked(both):
    """And the other, until the user has edited it."""
    for name, centre in (("kits", FIRST), ("msd_pancreas", SECOND), ("kits", FIRST)):
        told = both.update(f"{name}_edit", "tumor")
        assert (both.segments["tumor"] == ball(centre, 2)).all() and told["note"] == ""
    both.points["tumor"]["foreground"].append([8, 10, 6])
    assert both.update("kits_edit", "tumor")["note"] == ""
    edited = both.segments["tumor"]
    told = both.update("msd_pancreas_edit", "tumor")
    assert (both.segments["tumor"] == edited).all() and edited[8, 10, 6]
    assert told["note"] == "tumor: kept as you have it, not as msd_pancreas finds it now"
    both.points["tumor"]["foreground"].clear()
    both.update("msd_pancreas_edit", "tumor")
    assert (both.segments["tumor"] == ball(FIRST, 2)).all()
    assert both.update("msd_pancreas_edit", "tumor")["note"] == ""
    assert (both.segments["tumor"] == ball(SECOND, 2)).all()


def test_other_weights_are_asked_anew(both):
    """Such as those of a retraining; what the user has painted stays, also where the first ones had found nothing."""
    both.update("kits_edit", "tumor")
    find_tumor(both.client, "kits", SECOND)
    both.update("kits_edit", "tumor")
    assert (both.segments["tumor"] == ball(FIRST, 2)).all()  # it was not asked
    both.client.services.models["kits"].bundle.weights.touch()
    both.update("kits_edit", "tumor")
    assert (both.segments["tumor"] == ball(SECOND, 2)).all()
    session_of(both).paint("cyst", ball(FIRST, 3))
    both.client.services.models["kits"].bundle.weights.touch()
    told = both.update("kits_edit", "tumor")
    assert (both.segments["cyst"] == ball(FIRST, 3)).all()
    assert told["note"] == "cyst: kept as you have it, not as kits finds it now"


def test_another_preset_is_asked_anew(both):
    """And not shown as what the first one has found; what the user has edited stays."""
    model, asked = both.client.services.models["kits"], []
    fast, accurate = ((model.bundle.labels["tumor"] * ball(at, 2)).astype(np.uint8) for at in (FIRST, SECOND))

    def segment(*_, preset, **__):
        asked.append(preset)
        voxels = {"fast": fast, "accurate": accurate}[preset]
        return Segmentation(voxels, read_grid(both.client.services.studies.image("scan")), {}, "")

    model.segment = segment
    for preset, centre in (("fast", FIRST), ("fast", FIRST), ("accurate", SECOND), ("accurate", SECOND)):
        told = both.update("kits_edit", "tumor", preset=preset)
        assert (both.segments["tumor"] == ball(centre, 2)).all() and told["note"] == ""
    assert asked == ["fast", "accurate"]
    both.points["tumor"]["foreground"].append([8, 10, 6])
    both.update("kits_edit", "tumor", preset="accurate")
    edited = both.segments["tumor"]
    told = both.update("kits_edit", "tumor", preset="fast")
    assert (both.segments["tumor"] == edited).all() and "tumor: kept as you have it" in told["note"]


def test_what_the_user_drew_after_a_reset_is_kept(both):
    """Though it is the first step of the label, as what the first preset found was."""
    session_id = both.update("kits_edit", "tumor")["interaction"]
    both.client.post(f"/interaction/{session_id}/reset", json={"labels": ["tumor"]})
    drawn = both.segments["tumor"] = ball(SECOND, 3)
    both.update_scribbles("tumor")
    told = both.update("kits_edit", "tumor", preset="accurate")
    assert (both.segments["tumor"] == drawn).all()
    assert told["note"] == "tumor: kept as you have it, not as kits finds it now"


def test_a_label_of_an_earlier_server_is_kept(both):
    """It does not tell what it began with."""
    both.update("kits_edit", "tumor")
    session = session_of(both)
    for name in session.labels:
        session._labels.note(name, origin="", checksum=0)
    told = both.update("msd_pancreas_edit", "tumor")
    assert (both.segments["tumor"] == ball(FIRST, 2)).all() and "tumor: kept as you have it" in told["note"]


def test_only_labels_of_the_bundle_are_edited(slicer):
    slicer.add("cyst")
    with pytest.raises(Refused, match=f"'cyst', expected one of {ANTERIOR}, {POSTERIOR}, background"):
        slicer.update("msd_hippocampus_edit", "cyst")
    with pytest.raises(Refused, match="roi.* needs the label that the box shows"):
        slicer.update("msd_hippocampus_edit", "background", roi=[0, 5, 0, 5, 0, 5])


def test_slicer_replaces_no_segments_by_those_of_a_file(slicer):
    """As it does with a .seg.nrrd file."""
    params = {"result_extension": ".seg.nrrd", "label": "cyst", "foreground": [FIRST]}
    answer = slicer.client.post("/infer/interactive?image=scan", files={"params": (None, json.dumps(params))})
    name = MultipartDecoder(answer.content, answer.headers["content-type"]).parts[1].headers[b"Content-Disposition"]
    assert b".nrrd" in name and b".seg.nrrd" not in name


@pytest.mark.parametrize("name", ["\u06a9\u0628\u062f\u200c\u0686\u067e", "rein\u00a0gauche"])
def test_names_of_any_script(slicer, name, tmp_path):
    """With a joiner between letters, or with a blank at which no line breaks."""
    slicer.add(name)
    slicer.points[name]["foreground"].append(FIRST)
    slicer.update("interactive", name)
    assert slicer.segments[name][tuple(FIRST)] and session_of(slicer).labels == (name,)
    nib.save(nib.Nifti1Image(slicer.segments[name].astype(np.uint8), slicer.scan.affine), tmp_path / "label.nii.gz")
    with (tmp_path / "label.nii.gz").open("rb") as file:
        told = {"label": ("label.nii.gz", file), "params": (None, json.dumps({"label_info": [{"name": name}]}))}
        assert slicer.client.put("/datastore/label?image=scan", files=told).status_code == 200
    info = slicer.client.get("/datastore/label/info?label=scan&tag=final").json()
    assert info["label_names"] == {name: 1}
    slicer.client.delete("/datastore/label?id=scan&tag=final")


# --- scribbles


def scribbled(slicer, foreground=(), background=()):
    for name, voxels in (("foreground_scribbles", foreground), ("background_scribbles", background)):
        slicer.segments.pop(name, None)
        slicer.add(name)
        for voxel in voxels:
            slicer.segments[name][tuple(voxel)] = True


def test_scribbles_go_on_from_the_segment_as_the_user_has_it(slicer, forwards):
    slicer.add("cyst")
    slicer.segments["cyst"][0, 0, :2] = True  # by hand
    scribbled(slicer, foreground=[FIRST, [6, 10, 6]])
    slicer.update_scribbles("cyst")
    assert slicer.segments["cyst"][0, 0, :2].all() and dice(slicer.segments["cyst"], ball(FIRST, 4)) > 0.7
    assert forwards == [1]
    answered = slicer.segments["cyst"].copy()
    slicer.update_scribbles("cyst")
    assert (slicer.segments["cyst"] == answered).all() and forwards == [1]  # though scribbles cover what lies below
    slicer.segments["cyst"][0, 0, 1] = False
    undoable, _ = session_of(slicer).undoable("cyst")
    scribbled(slicer, background=[[5, 10, 7]])
    slicer.update_scribbles("cyst")
    assert (
        not slicer.segments["cyst"][0, 0, 1]
        and not slicer.segments["cyst"][5, 10, 7]
        and slicer.segments["cyst"][0, 0, 0]
    )
    assert session_of(slicer).undoable("cyst")[0] == undoable + 2 and forwards == [1, 1]


def test_a_scribble_drawn_again_counts_where_the_segment_does_not_follow_it(slicer, forwards):
    slicer.add("cyst")
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst")
    scribbled(slicer)
    slicer.segments["cyst"][:] = False  # by hand
    slicer.update_scribbles("cyst")
    assert not slicer.segments["cyst"].any()
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst")
    assert slicer.segments["cyst"][tuple(FIRST)] and forwards == [1, 1]


@pytest.mark.parametrize("roi", [[0, 5, 0, 19, 0, 11], [5, 0, 19, 0, 11, 0], [5, -3, 30, 0, 11, 0]])
def test_nothing_joins_outside_the_box_of_the_scribbles(slicer, roi):
    slicer.add("cyst")
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst", roi=roi)
    assert slicer.segments["cyst"][tuple(FIRST)] and not slicer.segments["cyst"][6:].any()


@pytest.mark.parametrize("limit", [{"roi": [0, 5, 0, 19, 0, 11]}, {"lock_others": True}])
def test_points_that_follow_leave_the_limits_of_the_scribbles_in_force(slicer, forwards, limit):
    slicer.add("last")
    slicer.segments["last"][ball(FIRST, 9) & (np.indices(SHAPE)[0] > 5)] = True
    slicer.add("cyst")
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst", **limit)
    answered = slicer.segments["cyst"]
    slicer.points["cyst"]["background"].append([20, 3, 2])
    slicer.update("interactive", "cyst")
    assert answered.any() and not answered[6:].any()
    assert (slicer.segments["cyst"] == answered).all() and forwards == [1, 1]


@pytest.mark.parametrize("limit", [{"roi": [0, 5, 0, 19, 0, 11]}, {"lock_others": True}])
def test_the_limits_of_the_scribbles_hold_where_an_older_point_is_deleted(slicer, forwards, limit):
    slicer.add("last")
    slicer.segments["last"][ball(FIRST, 9) & (np.indices(SHAPE)[0] > 5)] = True
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append([20, 3, 2])
    slicer.update("interactive", "cyst")
    before = slicer.segments["cyst"]
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst", **limit)
    added = slicer.segments["cyst"] & ~before
    slicer.points["cyst"]["foreground"].clear()
    slicer.update("interactive", "cyst")
    left = slicer.segments["cyst"]
    assert left[tuple(FIRST)] and not (left & ~before)[6:].any() and not added[6:].any() and forwards == [1, 1, 1]


@pytest.mark.parametrize("name", ["drawn", "clicked"])
@pytest.mark.parametrize("is_later", [True, False])
def test_what_was_painted_over_a_segment_is_taken_from_it(slicer, name, is_later):
    """3D Slicer takes it away in the scene; the export alone would not tell, for segments may overlap."""
    for segment in ("cyst", name) if is_later else (name, "cyst"):
        slicer.add(segment)
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    if name == "clicked":
        slicer.points[name]["foreground"].append(SECOND)
        slicer.update("interactive", name)
    over = slicer.segments["cyst"] & (np.indices(SHAPE)[0] > 5)
    slicer.segments[name] |= over
    slicer.segments["cyst"] &= ~over
    scribbled(slicer)
    slicer.update_scribbles(name)
    slicer.points["cyst"]["foreground"].append(SECOND)
    slicer.update("interactive", "cyst")
    assert over.any() and not (slicer.segments["cyst"] & over).any() and slicer.segments["cyst"][tuple(SECOND)]


def test_scribbles_that_overlap_a_segment_keep_what_they_took(slicer):
    """What is painted of the segment afterwards is taken from them."""
    slicer.add("cyst")
    slicer.add("drawn")
    slicer.segments["drawn"][ball(FIRST, 9) & (np.indices(SHAPE)[0] > 5)] = True
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst")
    answered = slicer.segments["cyst"].copy()
    assert (answered & slicer.segments["drawn"]).any()
    painted = answered & (np.indices(SHAPE)[0] == 5)
    painted[tuple(FIRST)] = False  # it is below the scribble
    slicer.segments["drawn"] |= painted
    slicer.segments["cyst"] &= ~painted
    slicer.update_scribbles("cyst")
    assert painted.any() and (slicer.segments["cyst"] == (answered & ~painted)).all()


@pytest.mark.parametrize("lock", [True, False])
def test_other_segments_are_locked_where_that_is_wished(slicer, lock):
    slicer.add("first")
    slicer.add("cyst")
    slicer.add("last")
    slicer.segments["first"][ball(FIRST, 9) & (np.indices(SHAPE)[0] < 5)] = True
    slicer.segments["last"][ball(FIRST, 9) & (np.indices(SHAPE)[0] > 5)] = True
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst", lock_others=lock)
    assert (slicer.segments["cyst"] & (slicer.segments["first"] | slicer.segments["last"])).any() != lock
    answered = slicer.segments["cyst"]
    slicer.update_scribbles("cyst", lock_others=lock)  # where segments overlap the export has the last one alone
    assert (slicer.segments["cyst"] == answered).all()


def test_other_segments_are_locked_below_strokes(slicer, forwards):
    """The label map has the stroke there. What of it lies in them is not shown, so that no later click takes it."""
    slicer.add("first")
    slicer.points["first"]["foreground"].append(FIRST)
    slicer.update("interactive", "first")
    first = slicer.segments["first"].copy()
    slicer.add("cyst")
    scribbled(slicer, foreground=[[i, 10, 6] for i in range(FIRST[0], 13)])
    for _ in range(2):
        told = slicer.update_scribbles("cyst", lock_others=True)
        answered = slicer.segments["cyst"].copy()
        assert answered[12, 10, 6] and first[tuple(FIRST)] and not (answered & first).any()
        assert told["note"] == (
            "without effect, because the strokes lie in another segment, a locked label or outside the box: [5, 10, 6]"
        )
    slicer.points["cyst"]["background"].append([20, 3, 2])
    slicer.update("interactive", "cyst")
    assert not (slicer.segments["cyst"] & ~answered).any() and forwards == [1, 1, 1]
    assert (session_of(slicer).mask("first") == first).all()
    assert slicer.update_scribbles("cyst")["note"] == "" and slicer.segments["cyst"][tuple(FIRST)]


def test_what_strokes_hide_of_a_segment_that_was_never_sent_is_not_locked_but_told(slicer):
    for name, drawn in (("drawn", ball(FIRST, 4)), ("far", ball([20, 3, 2], 3)), ("cyst", np.zeros(SHAPE, bool))):
        slicer.add(name)
        slicer.segments[name][drawn] = True
    scribbled(slicer, foreground=[FIRST])
    told = slicer.update_scribbles("cyst", lock_others=True)
    assert told["note"] == "drawn: not locked below the strokes, for what they hide was never sent"
    assert slicer.segments["cyst"][tuple(FIRST)]
    slicer.segments["drawn"][tuple(FIRST)] = False
    scribbled(slicer)
    slicer.update_scribbles("drawn")  # without a stroke: from now on the server knows it
    scribbled(slicer, foreground=[[7, 10, 6]])
    told = slicer.update_scribbles("cyst", lock_others=True)
    assert "never sent" not in told["note"] and not slicer.segments["cyst"][7, 10, 6]


def test_a_click_goes_on_from_a_hand_edit_that_the_scribbles_told(slicer):
    """A request with points has no mask; one with scribbles has those of all segments."""
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    slicer.segments["cyst"][0, 0, 0] = True
    slicer.add("other")
    scribbled(slicer, foreground=[SECOND])
    slicer.update_scribbles("other")
    slicer.points["cyst"]["foreground"].append([8, 10, 6])
    slicer.update("interactive", "cyst")
    assert slicer.segments["cyst"][0, 0, 0] and slicer.segments["cyst"][8, 10, 6]


def test_a_scene_that_was_begun_anew_is_told_what_its_scribbles_empty(slicer):
    """3D Slicer was closed meanwhile: its segments are empty, which the server takes for a hand edit. Undo helps."""
    for name, voxel in (("cyst", FIRST), ("node", SECOND)):
        slicer.add(name)
        slicer.points[name]["foreground"].append(voxel)
        slicer.update("interactive", name)
    before = {name: slicer.segments[name].copy() for name in ("cyst", "node")}
    assert slicer.update_scribbles("node")["note"] == ""
    again = Slicer(slicer.client, "scan", slicer.scan, slicer.client_id)
    for name in before:
        again.add(name)
    scribbled(again, foreground=[[12, 3, 6]])
    told = again.update_scribbles("node")
    assert told["note"] == "cyst, node: emptied, as in what you sent; undo brings it back"
    for labels in (["cyst", "node"], ["node"]):  # of the node the stroke first
        again.client.post(f"/interaction/{told['interaction']}/undo", json={"labels": labels})
    for name, mask in before.items():
        assert (session_of(again).mask(name) == mask).all()


@pytest.mark.parametrize("model", ["interactive", "msd_hippocampus_edit"])
def test_what_was_rubbed_out_stays_so_where_an_older_point_vanishes(slicer, model):
    """A point from before the painting does not win over it; one from after it does."""
    slicer.points[POSTERIOR]["foreground"] += [[12, 3, 6]]
    slicer.update(model, POSTERIOR)
    slicer.points[POSTERIOR]["foreground"].append(SECOND)
    slicer.update(model, POSTERIOR)
    slicer.segments[POSTERIOR][ball(SECOND, 6)] = False
    scribbled(slicer)
    slicer.update_scribbles(POSTERIOR)
    for voxel in (FIRST, [18, 14, 6]):
        slicer.points[POSTERIOR]["foreground"].append(voxel)
        slicer.update(model, POSTERIOR)
    before = slicer.segments[POSTERIOR]
    assert before[tuple(FIRST)] and before[18, 14, 6] and not before[tuple(SECOND)]
    slicer.points[POSTERIOR]["foreground"].pop(0)
    slicer.update(model, POSTERIOR)
    after = slicer.segments[POSTERIOR]
    assert after[tuple(FIRST)] and after[18, 14, 6] and not after[tuple(SECOND)]
    assert not (after & ~before & ball(SECOND, 2)).any()


def test_what_was_painted_over_a_point_of_the_background_stays_where_an_older_point_vanishes(slicer):
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    slicer.points[POSTERIOR]["foreground"].append([12, 3, 6])
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    slicer.points["background"]["foreground"].append(SECOND)
    slicer.update("msd_hippocampus_edit", "background")
    assert not slicer.segments[POSTERIOR][tuple(SECOND)]
    slicer.segments[POSTERIOR][ball(SECOND, 2)] = True
    scribbled(slicer)
    slicer.update_scribbles(POSTERIOR)
    slicer.points[POSTERIOR]["foreground"].clear()
    slicer.update("msd_hippocampus_edit", POSTERIOR)
    assert slicer.segments[POSTERIOR][tuple(SECOND)]


def test_a_segment_that_was_emptied_is_empty(slicer):
    slicer.add("other")
    slicer.points["other"]["foreground"].append(SECOND)
    slicer.update("interactive", "other")
    slicer.segments["other"][:] = False  # by hand
    slicer.add("cyst")
    scribbled(slicer, foreground=[FIRST])
    slicer.update_scribbles("cyst")
    assert not session_of(slicer).mask("other").any() and session_of(slicer).undoable("other") == (2, 0)


def test_labels_that_the_user_was_never_shown_are_not_emptied(slicer):
    """After a first click the scene has one segment of what the bundle has found, and its scribbles send all."""
    slicer.points[ANTERIOR]["foreground"].append([8, 10, 6])
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    assert not slicer.segments[POSTERIOR].any()
    for voxel in ([5, 10, 7], [5, 11, 7]):
        scribbled(slicer, background=[voxel])
        slicer.update_scribbles(ANTERIOR)
    assert slicer.update("msd_hippocampus_edit", POSTERIOR)["note"] == ""
    assert (slicer.segments[POSTERIOR] == ball(SECOND, 2)).all()
    session_of(slicer).mask(ANTERIOR)
    session_of(slicer).leave_memory()
    slicer.segments[POSTERIOR][:] = False  # by hand
    slicer.update_scribbles(ANTERIOR)
    assert not session_of(slicer).mask(POSTERIOR).any()


def test_what_the_user_drew_of_a_label_that_was_never_shown_counts(slicer):
    slicer.points[ANTERIOR]["foreground"].append([8, 10, 6])
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    slicer.segments[POSTERIOR][0, 0, 0] = True
    scribbled(slicer, background=[[5, 10, 7]])
    slicer.update_scribbles(ANTERIOR)
    assert session_of(slicer).mask(POSTERIOR).sum() == 1


def test_scribbles_do_not_undo_what_was_refined_meanwhile(slicer):
    """Of no segment: the scene has them as they were told."""
    refined = {}
    for name, voxel in (("cyst", FIRST), ("other", SECOND)):
        slicer.add(name)
        slicer.points[name]["foreground"].append(voxel)
        slicer.update("interactive", name)
        refined[name] = slicer.segments[name].copy()
        refined[name][voxel[0], voxel[1]] = False
        session_of(slicer)._change(name, lambda edit, name=name: edit.begin(torch.from_numpy(refined[name])))
    for hidden in ([SECOND], []):  # the first answer tells nothing of the other segment, a scribble hides some of it
        scribbled(slicer, background=hidden)
        slicer.update_scribbles("cyst")
        assert all((session_of(slicer).mask(name) == mask).all() for name, mask in refined.items())
    assert (slicer.segments["cyst"] == refined["cyst"]).all()
    slicer.update("interactive", "other")
    assert (slicer.segments["other"] == refined["other"]).all()


def test_scribbles_that_the_network_cannot_answer_leave_all_as_it_was(slicer, monkeypatch):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    kept = slicer.segments["cyst"].copy()
    slicer.segments["cyst"][:] = False
    slicer.add("drawn")
    slicer.segments["drawn"][0, 0, 0] = True
    scribbled(slicer, foreground=[SECOND])
    with monkeypatch.context() as patched:
        patched.setattr(change, "correct", out_of_memory)
        with pytest.raises(Refused, match="nothing has changed"):
            slicer.update_scribbles("drawn")
    assert session_of(slicer).labels == ("cyst",) and (session_of(slicer).mask("cyst") == kept).all()


def out_of_memory(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


# --- locks


def test_locks_that_change_change_the_answer_to_the_same_points(slicer):
    for name in ("first", "cyst"):
        slicer.add(name)
        slicer.points[name]["foreground"].append(FIRST)
    session_id = slicer.update("interactive", "first")["interaction"]
    slicer.update("interactive", "cyst")
    free = slicer.segments["cyst"].copy()
    for labels, wanted in ((["first"], np.zeros(SHAPE, bool)), ([], free), (["cyst"], free)):
        slicer.client.put(f"/interaction/{session_id}/locks", json={"labels": labels})
        told = slicer.update("interactive", "cyst")
        assert (slicer.segments["cyst"] == wanted).all() and bool(told["note"]) == (labels == ["first"])
    assert free.any()


def test_locks_hold_for_what_a_bundle_finds(slicer):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    session_id = slicer.update("interactive", "cyst")["interaction"]
    slicer.client.put(f"/interaction/{session_id}/locks", json={"labels": ["cyst"]})
    slicer.update("msd_hippocampus_edit", ANTERIOR)
    assert (slicer.segments[ANTERIOR] == (ball(FIRST, 2) & ~slicer.segments["cyst"])).all()
    assert (slicer.segments[POSTERIOR] == ball(SECOND, 2)).all()


def test_locks_of_the_session(slicer):
    for name in ("first", "cyst"):
        slicer.add(name)
    slicer.points["first"]["foreground"].append(FIRST)
    session_id = slicer.update("interactive", "first")["interaction"]
    assert slicer.client.put(f"/interaction/{session_id}/locks", json={"labels": ["first"]}).status_code == 200
    slicer.points["cyst"]["foreground"] += [[5, 11, 6], SECOND]
    told = slicer.update("interactive", "cyst")
    assert not (slicer.segments["cyst"] & slicer.segments["first"]).any() and slicer.segments["cyst"][tuple(SECOND)]
    assert told["note"] == "without effect, because they lie in a locked label: [5, 11, 6]"
    assert slicer.update("interactive", "cyst")["note"] == told["note"]  # remembered, too


def test_a_submitted_label_is_locked_where_that_is_wished(slicer, tmp_path, monkeypatch):
    label = (2 * (np.indices(SHAPE)[0] < 6)).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, slicer.scan.affine), tmp_path / "label.nii.gz")
    with (tmp_path / "label.nii.gz").open("rb") as file:
        assert (
            slicer.client.put("/datastore/label?image=scan", files={"label": ("label.nii.gz", file)}).status_code == 200
        )
    for name, locked in (("cyst", True), (POSTERIOR, False), (POSTERIOR.upper(), False)):
        slicer.points.setdefault(name, {"foreground": [], "background": []})["foreground"] = [FIRST, [7, 10, 6]]
        slicer.update("interactive", name, lock_submitted=True)
        assert slicer.segments[name][:6].any() != locked and slicer.segments[name][6:].any()
    with monkeypatch.context() as patch:
        patch.setattr(prompted_inference, "read_label", lambda *_, **__: pytest.fail("it is remembered"))
        slicer.points["cyst"]["foreground"] = [FIRST, [7, 10, 6]]
        slicer.update("interactive", "cyst", lock_submitted=True)
    assert slicer.segments["cyst"].any()
    label[:] = 1
    nib.save(nib.Nifti1Image(label, slicer.scan.affine), tmp_path / "label.nii.gz")
    with (tmp_path / "label.nii.gz").open("rb") as file:
        slicer.client.put("/datastore/label?image=scan", files={"label": ("label.nii.gz", file)})
    slicer.update("interactive", "cyst", lock_submitted=True)
    assert not slicer.segments["cyst"].any()
    assert session_of(slicer).leave_memory() and session_of(slicer).nbytes == 0
    slicer.client.delete("/datastore/label?id=scan&tag=final")


def test_what_nobody_has_judged_is_not_locked(slicer, tmp_path):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    clicked, judged = slicer.segments["cyst"], np.indices(SHAPE)[0] < FIRST[0]
    nib.save(nib.Nifti1Image(np.where(judged, 1, 2).astype(np.uint8), slicer.scan.affine), tmp_path / "label.nii.gz")
    names = json.dumps({"label_info": [{"name": POSTERIOR}, {"name": "Ignore"}]})
    with (tmp_path / "label.nii.gz").open("rb") as file:
        told = {"label": ("label.nii.gz", file), "params": (None, names)}
        assert slicer.client.put("/datastore/label?image=scan", files=told).status_code == 200
    slicer.update("interactive", "cyst", lock_submitted=True)
    assert (clicked & judged).any() and not (slicer.segments["cyst"] & judged).any()
    assert slicer.segments["cyst"][tuple(FIRST)]
    slicer.client.delete("/datastore/label?id=scan&tag=final")


@pytest.mark.parametrize(("model", "label"), [("interactive", "cyst"), ("msd_hippocampus_edit", POSTERIOR)])
def test_a_label_whose_names_nobody_told_is_not_locked(slicer, model, label):
    """Nothing tells which of its ids are those of the segment itself."""
    file = slicer.client.services.studies.root / "labels/final/scan.nii.gz"
    nib.save(nib.Nifti1Image(np.full(SHAPE, 2, np.uint8), slicer.scan.affine), file)
    slicer.points.setdefault(label, {"foreground": [], "background": []})["foreground"] = [FIRST]
    try:
        with pytest.raises(
            Refused, match="lock_submitted.* of image 'scan', .* put there by hand: submit it"
        ) as caught:
            slicer.update(model, label, lock_submitted=True)
    finally:
        file.unlink()
    assert caught.value.args[0] == 400
    slicer.update(model, label, lock_submitted=True)
    assert slicer.segments[label][tuple(FIRST)]


# --- OHIF, which tells no label


def ohif(place, model, name, params, output="image"):
    params = {**params, "client_id": name, **OHIF_PARAMETERS}
    answer = place.post(f"/infer/{model}?image=scan&output={output}", files={"params": (None, json.dumps(params))})
    assert answer.status_code == 200, answer.json()
    return answer.json() if output == "json" else read_answer(answer.content)


def test_ohif_gets_the_ids_of_the_labels_that_it_lists(place, request):
    name = request.node.name
    everything = ohif(place, "msd_hippocampus_edit", name, {"background": []})
    assert (everything == ball(FIRST, 2) + 2 * ball(SECOND, 2)).all()
    edited = ohif(place, "msd_hippocampus_edit", name, {"background": [], POSTERIOR: [[20, 10, 6]]})
    assert set(np.unique(edited)) == {0, 2} and edited[20, 10, 6] == 2
    lists = {"background": [FIRST], POSTERIOR: [[20, 10, 6]]}
    both = ohif(place, "msd_hippocampus_edit", name, lists)
    assert both[tuple(FIRST)] == 0 and ((both == 2) == (edited == 2)).all()
    assert ohif(place, "msd_hippocampus_edit", name, lists, "json")["label_names"] == {ANTERIOR: 1, POSTERIOR: 2}
    assert (ohif(place, "msd_hippocampus_edit", name, {"background": []}) == everything).all()


@pytest.mark.parametrize("known", [True, False])
def test_of_lists_of_several_labels_all_are_followed_or_none(place, request, monkeypatch, known):
    """The second one fails; known: of labels that have begun."""
    name = request.node.name
    if known:
        ohif(place, "msd_hippocampus_edit", name, {ANTERIOR: [[8, 10, 6]]})
    answers = iter([change.correct, out_of_memory])
    lists = {"background": [], ANTERIOR: [[5, 12, 6]], POSTERIOR: [[20, 10, 6]], "client_id": name}
    with monkeypatch.context() as patched:
        patched.setattr(change, "correct", lambda *args, **more: next(answers)(*args, **more))
        answer = place.post("/infer/msd_hippocampus_edit?image=scan", files={"params": (None, json.dumps(lists))})
    assert answer.status_code == 503 and next(answers, None) is None
    told = [one for one in place.get("/interaction/").json() if one["client"] == f"{name}@127.0.0.1"]
    session = place.services.interaction.get(told[0]["id"], None)
    assert session.labels == ((ANTERIOR, POSTERIOR) if known else ())
    if known:
        assert session.prompts(ANTERIOR) == (point((8, 10, 6), (1, 1, 2)),) and session.prompts(POSTERIOR) == ()


def test_ohif_points_of_no_label(place, request):
    """The same panel sends no name where the model has no labels: the lists alone tell which structure is meant."""
    name = request.node.name
    one = ohif(place, "interactive", name, {"foreground": [FIRST], "background": []})
    other = ohif(place, "interactive", name, {"foreground": [SECOND], "background": []})
    assert one[tuple(FIRST)] == 1 and not one[tuple(SECOND)] and other[tuple(SECOND)] == 1 and not other[tuple(FIRST)]
    assert (ohif(place, "interactive", name, {"foreground": [FIRST], "background": []}) == one).all()


# --- a session that another program began


def test_a_kept_session_goes_on(place, slicer, forwards, request):
    """As nnInteractive's modules left it: slices first, and a mask without a name."""
    sessions = place.services.interaction
    kept = sessions.of_array(LOCAL_USER.username, "nnInteractive", np.asarray(place.scan.dataobj).T, (2, 1, 1))
    mask = ball(FIRST, 3)
    kept.paint("segment", mask.T)
    assert kept.id in [one["id"] for one in place.get("/interaction/").json()]
    slicer.add("cyst")
    slicer.update("interactive", "cyst", continue_from=kept.id)
    assert (slicer.segments["cyst"] == mask).all() and forwards == []
    slicer.points["cyst"]["foreground"].append(SECOND)
    slicer.update("interactive", "cyst", continue_from=kept.id)
    assert slicer.segments["cyst"][tuple(SECOND)] and (slicer.segments["cyst"] & mask).sum() == mask.sum()
    slicer.points["cyst"]["foreground"].clear()
    slicer.update("interactive", "cyst", continue_from=kept.id)
    assert (slicer.segments["cyst"] == mask).all()
    slicer.add("another")  # the option stays; only the first one begins with a mask without a name
    slicer.points["another"]["foreground"].append(SECOND)
    slicer.update("interactive", "another", continue_from=kept.id)
    assert not (slicer.segments["another"] & mask).any()
    slicer.add("segment")
    slicer.update("interactive", "segment", continue_from=kept.id)
    assert (slicer.segments["segment"] == mask).all() and (kept.mask("segment") == mask.T).all()
    elsewhere = Slicer(
        place, "scan", place.scan, f"{request.node.name} elsewhere"
    )  # of several the one of the same name
    elsewhere.add("another")
    elsewhere.update("interactive", "another", continue_from=session_of(slicer).id)
    assert (elsewhere.segments["another"] == slicer.segments["another"]).all()


def test_a_segment_that_the_kept_session_does_not_have_is_told(place, slicer):
    """Once, where there are points; an answer without any would empty it."""
    sessions = place.services.interaction
    kept = sessions.of_array(LOCAL_USER.username, "nnInteractive", np.asarray(place.scan.dataobj), (1, 1, 2))
    for name in ("segment 1", "segment"):
        kept.paint(name, ball(FIRST, 3))
    slicer.add("Segment")
    told = f"session {kept.id} has no segment 'Segment' to go on from; its segments are 'segment 1', 'segment'"
    with pytest.raises(Refused, match="'Segment' has no prompts yet: place a point or a box; " + told):
        slicer.update("interactive", "Segment", continue_from=kept.id)
    slicer.points["Segment"]["foreground"].append(SECOND)
    assert slicer.update("interactive", "Segment", continue_from=kept.id)["note"] == told
    assert slicer.update("interactive", "Segment", continue_from=kept.id)["note"] == ""


@pytest.mark.parametrize("first", [[], [[12, 10, 6]]])
def test_a_user_who_comes_back_goes_on(place, slicer, first):
    """3D Slicer was started anew, and knows none of the points; the session is that of the same user and image."""
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"] += [FIRST, SECOND]
    slicer.update("interactive", "cyst", roi=[1, 9, 6, 14, 4, 8])
    mask, own = slicer.segments["cyst"], session_of(slicer)
    slicer.update("interactive", "cyst", continue_from=own.id)  # it knows them still
    assert len(own.prompts("cyst")) == 3
    again = Slicer(place, "scan", place.scan, slicer.client_id)
    again.add("cyst")
    again.points["cyst"]["foreground"] += first
    again.update("interactive", "cyst", continue_from=own.id)
    assert (again.segments["cyst"] & mask).sum() == mask.sum() and len(own.prompts("cyst")) == len(first)
    assert (again.segments["cyst"] == mask).all() or first
    again.points["cyst"]["foreground"].append([12, 11, 6])
    again.update("interactive", "cyst", continue_from=own.id)
    more = again.segments["cyst"]
    assert more[12, 11, 6] and (more & mask).sum() == mask.sum()
    again.points["cyst"]["foreground"].clear()
    with pytest.raises(Refused, match="'cyst' has gone on already: empty it to delete") as caught:
        again.update("interactive", "cyst", continue_from=own.id)
    assert caught.value.args[0] == 400 and (own.mask("cyst") == more).all()
    again.update("interactive", "cyst")
    assert (again.segments["cyst"] == mask).all()


def test_what_a_user_had_shown_before_coming_back_lies_beside_the_label(place, slicer, tmp_path):
    """So that a segment that no bundle has can be submitted."""
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    own = session_of(slicer)
    shown = own.prompts("cyst")
    again = Slicer(place, "scan", place.scan, slicer.client_id)
    again.add("cyst")
    again.update("interactive", "cyst", continue_from=own.id)
    nib.save(nib.Nifti1Image(again.segments["cyst"].astype(np.uint8), place.scan.affine), tmp_path / "label.nii.gz")
    params = {"label_info": [{"name": "cyst", "idx": 1}]}
    with (tmp_path / "label.nii.gz").open("rb") as file:
        files = {"params": (None, json.dumps(params)), "label": ("label.nii.gz", file)}
        answer = place.put("/datastore/label?image=scan", files=files)
    assert answer.status_code == 200, answer.text
    versions = place.services.studies.root / "labels/versions/scan"
    kept = json.loads(max(versions.glob("*.prompts.json")).read_text())
    (told,) = (one["labels"]["cyst"] for one in kept if one["session"] == own.id)
    assert [prompt["positions"] for prompt in told] == [[list(shown[0].positions[0])]] and own.prompts("cyst") == ()
    place.delete("/datastore/label?id=scan&tag=final")


def test_what_a_label_is_to_go_on_from_is_looked_for_once(place, slicer, monkeypatch):
    """Also where the label is there already; an image that came from a client would be compared at each click."""
    sessions = place.services.interaction
    kept = sessions.of_array(LOCAL_USER.username, "nnInteractive", np.asarray(place.scan.dataobj), (1, 1, 2))
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    mask = slicer.segments["cyst"]
    for unknown in ("nothing", "../x"):
        with pytest.raises(Refused, match="no such session") as caught:
            slicer.update("interactive", "cyst", continue_from=unknown)
        assert caught.value.args[0] == 404
    looked, kept_for = [], sessions.kept_for
    monkeypatch.setattr(sessions, "kept_for", lambda *args: looked.append(args) or kept_for(*args))
    for _ in range(2):
        slicer.update("interactive", "cyst", continue_from=kept.id)
        assert (slicer.segments["cyst"] == mask).all() and len(looked) == 1


def test_a_session_that_cannot_go_on_here(place, slicer):
    sessions, voxels = place.services.interaction, np.asarray(place.scan.dataobj)
    other = sessions.of_array(LOCAL_USER.username, "nnInteractive", voxels + 1, (1, 1, 2))
    larger = sessions.of_array(LOCAL_USER.username, "nnInteractive", voxels[:-1], (1, 1, 2))
    of_bob = sessions.of_array("bob", "nnInteractive", voxels, (1, 1, 2))
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    for wanted, reason in ((other.id, "another image"), (larger.id, "another image"), (of_bob.id, "no such session")):
        with pytest.raises(Refused, match=reason):
            slicer.update("interactive", "cyst", continue_from=wanted)
    with pytest.raises(Refused, match="models that begin with nothing"):
        slicer.update("msd_hippocampus_edit", ANTERIOR, continue_from=other.id)
    slicer.update("interactive", "cyst")
    assert session_of(slicer).labels == ("cyst",)


# --- what is refused


TEN_THOUSAND = [[1, 1, 1]] * 10_000
REFUSED = {
    "outside": ({"foreground": [FIRST, [24, 0, 0]]}, 400, r"'foreground'\]\[1\] is \[24, 0, 0\], .*24 x 20 x 12"),
    "before": ({"background": [[0, -1, 0]]}, 400, r"'background'\]\[0\] is \[0, -1, 0\]"),
    "far": ({"foreground": [[0, 10**400, 0]]}, 400, r"'foreground'\]\[0\]"),
    "NaN": ({"foreground": [[0, float("nan"), 0]]}, 400, r"'foreground'\]\[0\]\[1\] is nan"),
    "infinite": ({"foreground": [FIRST, [0, 0, float("inf")]]}, 400, r"'foreground'\]\[1\]\[2\] is inf"),
    "two numbers": ({"foreground": [[1, 2]]}, 400, r"'foreground'\]\[0\] is \[1, 2\], expected three numbers"),
    "words": ({"foreground": [["1", "2", "3"]]}, 400, r"'foreground'\]\[0\]"),
    "truth": ({"foreground": [[True, 2, 3]]}, 400, r"'foreground'\]\[0\]"),
    "flat": ({"foreground": FIRST}, 400, r"'foreground'\]\[0\] is 5, expected three numbers"),
    "nested": ({"foreground": [[FIRST]]}, 400, r"'foreground'\]\[0\]"),
    "no list": ({"foreground": {"0": FIRST}}, 400, "'foreground'. is .*, expected a list of points"),
    "ten thousand": ({"foreground": TEN_THOUSAND}, 413, "at most 65536"),
    "thousands": ({"foreground": TEN_THOUSAND[:1001]}, 413, "'foreground'. has 1001 points, at most 1000"),
    "too many in all": ({"foreground": TEN_THOUSAND[:600], "background": TEN_THOUSAND[:600]}, 400, "1200 prompts"),
    "box outside": ({"roi": [30, 40, 0, 5, 0, 5]}, 400, "roi.* outside the image of 24 x 20 x 12"),
    "half a box": ({"roi": [0, 5, 0, 5]}, 400, "roi.*expected six numbers"),
    "a box of words": ({"roi": ["a"] * 6}, 400, "roi"),
    "a box of no numbers": ({"roi": ["nan", 0, "inf", 0, 1, 0]}, 400, "roi"),
    "no name": ({"label": " ", "foreground": [FIRST]}, 400, "the label is ' '"),
    "a long name": ({"label": "x" * 201, "foreground": [FIRST]}, 400, "label"),
    "an expression": ({"label": "$1"}, 400, "expressions are not accepted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_named_and_changes_nothing(slicer, case):
    params, status, reason = REFUSED[case]
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"].append(FIRST)
    slicer.update("interactive", "cyst")
    with pytest.raises(Refused, match=reason) as caught:
        slicer.infer("interactive", {"label": "cyst", **params})
    assert caught.value.args[0] == status and "\n" not in caught.value.args[1]
    session = session_of(slicer)
    assert session.labels == ("cyst",) and session.prompts("cyst") == (point(FIRST, (1, 1, 2)),)
    assert (session.mask("cyst") == slicer.segments["cyst"]).all()


def test_scribbles_that_cannot_be_followed(slicer):
    slicer.add("cyst")
    scribbled(slicer, foreground=[FIRST])
    with pytest.raises(Refused, match="needs a label map"):
        slicer.infer("scribbles", {})
    with pytest.raises(Refused, match="selected_label_name"):
        slicer.update_scribbles("nothing")
    with pytest.raises(Refused, match="two segments of the id 1"):
        slicer.update_scribbles("cyst", label_info=[{"name": "cyst", "id": 1}, {"name": "b", "id": 1}])
    with pytest.raises(Refused, match="other label value"):
        slicer.update_scribbles("cyst", label_info=[{"name": "cyst", "id": 1}])
    with pytest.raises(Refused, match="takes no label map"):
        slicer.infer("interactive", {"label": "cyst"}, np.zeros(SHAPE, np.uint8))
    slicer.scan = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]) + np.eye(4, k=3))
    with pytest.raises(Refused, match="the label's"):
        slicer.update_scribbles("cyst")


def test_points_of_a_label_that_is_none(place):
    """OHIF sends those of "null" while no label is chosen."""
    params = {"background": [], "null": [FIRST]}
    answer = place.post("/infer/msd_hippocampus_edit?image=scan", files={"params": (None, json.dumps(params))})
    assert answer.status_code == 400 and f"points of 'null', expected one of {ANTERIOR}" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["?image=nowhere", "?session_id=nothing", ""])
def test_no_such_image(place, query):
    params = {"label": "cyst", "foreground": [FIRST]}
    answer = place.post(f"/infer/interactive{query}", files={"params": (None, json.dumps(params))})
    assert answer.status_code in (400, 404) and answer.json()["detail"]


def test_two_clients_do_not_mix(place, request):
    first, second = (Slicer(place, "scan", place.scan, f"{request.node.name} {number}") for number in (1, 2))
    for scene, voxel in ((first, FIRST), (second, SECOND)):
        scene.add("cyst")
        scene.points["cyst"]["foreground"].append(voxel)
        scene.update("interactive", "cyst")
    assert not (first.segments["cyst"] & second.segments["cyst"]).any()


def test_a_lent_scan(place, request):
    file = {"files": ("scan.nii.gz", gzip.compress(place.scan.to_bytes()))}
    session = place.put("/session/", files=file).json()["session_id"]
    params = {"label": "cyst", "foreground": [FIRST], "lock_submitted": True}
    answer = place.post(
        f"/infer/interactive?image=x&session_id={session}", files={"params": (None, json.dumps(params))}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/batch/infer/interactive", "/batch/infer/scribbles", "/train/interactive"])
def test_it_is_no_model_for_automatic_segmentation(place, path):
    answer = place.post(path, json={})
    assert answer.status_code in (400, 404) and "interactive" in answer.json()["detail"] or "scribbles" in path


def test_a_network_that_fails_leaves_the_session_as_it_was(slicer, monkeypatch):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"] += [FIRST, SECOND]
    slicer.update("interactive", "cyst")
    before = slicer.segments["cyst"]
    with monkeypatch.context() as patched:
        patched.setattr(change, "correct", lambda *_, **__: 1 / 0)
        slicer.points["cyst"]["foreground"] = [SECOND, [12, 10, 6]]
        with pytest.raises(Refused, match="internal error"):
            slicer.update("interactive", "cyst")
    assert (session_of(slicer).mask("cyst") == before).all() and len(session_of(slicer).prompts("cyst")) == 2


def test_a_request_that_is_admitted_is_answered_whole(slicer):
    """It holds its session more than once, and others may take all other tickets meanwhile."""
    admitted, taken = slicer.client.services.interaction._admitted, 0
    try:
        while admitted.acquire(blocking=False):
            taken += 1
        admitted.release()
        taken -= 1
        slicer.add("cyst")
        scribbled(slicer, foreground=[FIRST])
        slicer.update_scribbles("cyst")
    finally:
        admitted.release(taken)
    assert slicer.segments["cyst"][tuple(FIRST)]
