"""nnInteractive's own client, as it is, drives the server."""

import numpy as np
import pytest
import torch
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession as Client
from nninteractive_helpers import FIRST, SECOND, SHAPE, SPACING, LookAlike, Running, ball, make_app, two_balls

from monailabel_app.interaction import conversation
from rep3d.interactive import Scene, box, correct, history, lasso, point, scribble


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return make_app(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def network():
    return LookAlike()


@pytest.fixture(scope="module")
def server(app, network, tmp_path_factory):
    with Running(app, tmp_path_factory.mktemp("sessions"), network, most=20) as running:
        yield running


def connect(server, image=None, **kwargs) -> Client:
    """A client with an image and an empty mask, as the modules for 3D Slicer and napari begin."""
    client = Client(server.url, **kwargs)
    client.set_image((two_balls() if image is None else image)[None], {"spacing": np.array(SPACING)})
    client.set_target_buffer(np.zeros(SHAPE, np.uint8))
    return client


@pytest.fixture
def client(server):
    with connect(server) as client:
        yield client


def expected(prompts, *, grow=True, **kwargs) -> np.ndarray:
    image = torch.from_numpy(two_balls())
    return correct(Scene(LookAlike(), image, SPACING, size=32, grow=grow), prompts, **kwargs).mask.numpy()


def dice(mask, other) -> float:
    return 2 * (mask & other).sum() / (mask.sum() + other.sum())


def test_what_clients_are_told(client):
    assert client.ping() and client.license == "CC0" and client.supports_undo and client.do_autozoom
    assert all(client.supported_interactions[kind] for kind in ("points", "scribble", "lasso", "bbox2d", "bbox3d"))
    assert len(client.preferred_scribble_thickness) == 3 and client.supports_initial_label
    assert client.original_image_shape == (1, *SHAPE)
    assert client.heartbeat() == pytest.approx(client.lease_status()["remaining_seconds"], abs=1)
    client.set_do_autozoom(True)


def test_a_point(client, server):
    box_of_change = client.add_point_interaction(FIRST, True)
    np.testing.assert_array_equal(client.target_buffer, expected([point(FIRST, SPACING)]))
    np.testing.assert_array_equal(client.target_buffer, server.mask())
    assert dice(client.target_buffer > 0, ball(FIRST)) > 0.85
    low, high = (np.argwhere(client.target_buffer).min(0), np.argwhere(client.target_buffer).max(0) + 1)
    assert box_of_change == np.stack([low, high], 1).tolist()
    assert client.add_point_interaction(FIRST, True) is None  # nothing changes


def test_the_axes_are_those_of_the_image(server):
    """napari sends them in its own order."""
    with Client(server.url) as client:
        client.set_image(two_balls().transpose(2, 0, 1)[None], {"spacing": [SPACING[2], SPACING[0], SPACING[1]]})
        client.set_target_buffer(np.zeros((SHAPE[2], SHAPE[0], SHAPE[1]), bool))
        client.add_point_interaction([float(FIRST[2]), float(FIRST[0]), float(FIRST[1])], True)
        assert client.target_buffer.dtype == bool
        assert dice(client.target_buffer.transpose(1, 2, 0), ball(FIRST)) > 0.85


def test_axes_that_run_the_other_way(client, server):
    """Of these napari tells a negative spacing, as of most NIfTI files."""
    client.add_point_interaction(FIRST, True)
    with Client(server.url) as other:
        other.set_image(two_balls()[None], {"spacing": [-SPACING[0], SPACING[1], -SPACING[2]]})
        other.set_target_buffer(np.zeros(SHAPE, np.uint8))
        other.add_point_interaction(FIRST, True)
        assert other.target_buffer.any()
        np.testing.assert_array_equal(other.target_buffer, client.target_buffer)


def test_boxes(client):
    z, y, x = FIRST
    client.add_bbox_interaction([[z, z + 1], [y - 5, y + 6], [x - 4, x + 5]], True)
    shown = box((z, y - 5, x - 4), (z, y + 5, x + 4), SPACING)
    np.testing.assert_array_equal(client.target_buffer, expected([shown]))
    assert client.target_buffer.any()
    client.reset_interactions()
    client.add_bbox_interaction([[z - 3, z + 4], [y - 5.2, y + 5.9], [-3, x + 5]], True)
    shown = box((z - 3, y - 5, 0), (z + 3, y + 5, x + 4), SPACING)
    np.testing.assert_array_equal(client.target_buffer, expected([shown]))


def test_autozoom(client):
    """Off, the network looks no farther than the first working grid."""
    client.set_do_autozoom(False)
    client.add_point_interaction((3, 4, 4), True)  # all of the background looks like it
    small = client.target_buffer.copy()
    np.testing.assert_array_equal(small, expected([point((3, 4, 4), SPACING)], grow=False))
    assert client.undo()
    client.set_do_autozoom(True)
    client.add_point_interaction((3, 4, 4), True)
    assert client.target_buffer[-1, -1, -1] and not small[-1, -1, -1]
    np.testing.assert_array_equal(client.target_buffer, expected([point((3, 4, 4), SPACING)]))


def test_a_scribble(client):
    z, y, x = FIRST
    crop = np.zeros((1, 6, 9), np.uint8)
    crop[0, 2:4, 1:8] = 1
    client.add_scribble_interaction(crop, True, interaction_bbox=[[z, z + 1], [y - 2, y + 4], [x - 4, x + 5]])
    voxels = [(z, y + j, x + i) for j in (0, 1) for i in range(-3, 4)]
    np.testing.assert_array_equal(client.target_buffer, expected([scribble(voxels, SPACING)]))
    assert dice(client.target_buffer > 0, ball(FIRST)) > 0.85
    whole = np.zeros(SHAPE, np.uint8)  # without a part: all of the scan
    whole[SECOND] = 1
    client.add_scribble_interaction(whole, True)
    assert client.target_buffer[SECOND]


def test_a_lasso(client):
    z, y, x = FIRST
    crop = np.ones((1, 7, 9), bool)
    client.add_lasso_interaction(crop, True, interaction_bbox=[[z, z + 1], [y - 3, y + 4], [x - 4, x + 5]])
    corners = [(z, y + j, x + i) for j, i in ((-3.5, -4.5), (3.5, -4.5), (3.5, 4.5), (-3.5, 4.5))]
    np.testing.assert_array_equal(client.target_buffer, expected([lasso(corners, SPACING)]))
    assert client.target_buffer.any()


def test_a_negative_prompt(client):
    client.add_point_interaction(FIRST, True)
    before = client.target_buffer.copy()
    edge = (FIRST[0], FIRST[1] + 5, FIRST[2])
    client.add_point_interaction(edge, False)
    assert before[edge] and not client.target_buffer[edge] and client.target_buffer.sum() < before.sum()
    client.add_scribble_interaction(
        np.ones((1, 1, 3), np.uint8), False, interaction_bbox=[[12, 13], [14, 15], [11, 14]]
    )
    assert not client.target_buffer[12, 14, 11:14].any()


def test_prompts_that_are_answered_together(client, network):
    client.add_point_interaction(FIRST, True, run_prediction=False)
    client.add_point_interaction((4, 4, 4), False, run_prediction=False)
    assert not client.target_buffer.any() and client.undo() and not client.target_buffer.any()
    client.add_point_interaction((5, 4, 4), False, run_prediction=False)
    before = network.forwards
    client.add_point_interaction((12, 16, 12), True)
    shown = [point(FIRST, SPACING), point((5, 4, 4), SPACING, False), point((12, 16, 12), SPACING)]
    np.testing.assert_array_equal(client.target_buffer, expected(shown, new=3))
    together = network.forwards - before
    assert client._predict() is None  # nothing waits
    for left in (2, 1):  # one prompt at a time, as the client takes its markers away
        assert client.undo() and not client.target_buffer.any(), left
    before = network.forwards
    client._predict()
    np.testing.assert_array_equal(client.target_buffer, expected(shown[:1]))
    assert 0 < network.forwards - before <= together
    assert client.undo() and not client.undo() and not client.target_buffer.any()


@pytest.mark.slow
def test_twenty_five_undos(client):
    rng, masks = np.random.default_rng(0), []
    for number in range(25):
        masks.append(client.target_buffer.copy())
        client.add_point_interaction(rng.integers(0, SHAPE).tolist(), bool(number % 3))
    for mask in reversed(masks):
        assert client.undo()
        np.testing.assert_array_equal(client.target_buffer, mask)
    assert not client.undo() and client._last_paste_bbox is None


def test_masks_from_the_client(client, server):
    client.add_point_interaction(FIRST, True)
    before = client.target_buffer.copy()
    painted = ball(SECOND).astype(np.uint8) * 255
    client.add_initial_seg_interaction(painted)
    np.testing.assert_array_equal(server.mask(), painted > 0)
    client.add_point_interaction((2, 2, 2), False)
    np.testing.assert_array_equal(client.target_buffer > 0, painted > 0)  # earlier prompts bind no longer
    assert client.undo() and client.undo()
    np.testing.assert_array_equal(client.target_buffer > 0, before > 0)
    client.add_initial_seg_interaction(painted, run_prediction=True)  # nothing says what is wrong with it
    np.testing.assert_array_equal(client.target_buffer, painted)
    np.testing.assert_array_equal(server.mask(), painted > 0)


def test_what_was_refined_since_the_last_answer_is_no_hand_edit(client, server):
    """A client that sends the mask back has it as it was told, and is told the rest with the next answer."""
    client.add_point_interaction(FIRST, True)
    told, session = client.target_buffer.copy(), server.session()
    refined = told > 0
    refined[-1, -1, -1] = True
    session._change("segment", lambda edit: edit.begin(torch.from_numpy(refined)))
    client.add_initial_seg_interaction(told)
    np.testing.assert_array_equal(server.mask(), refined)
    client.add_point_interaction((2, 2, 2), False)
    assert server.mask()[-1, -1, -1]
    np.testing.assert_array_equal(client.target_buffer > 0, server.mask())


def test_a_first_prompt_that_fails_after_a_reset(client, server, network, monkeypatch):
    """The mask is still there for who goes on with it elsewhere, or paints it anew."""
    client.add_point_interaction(FIRST, True)
    before, steps = server.mask(), server.kept()
    client.reset_interactions()
    with monkeypatch.context() as patch:
        patch.setattr(LookAlike, "__call__", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="500"):
            client.add_point_interaction(SECOND, True)
    assert server.kept() == steps
    np.testing.assert_array_equal(server.mask(), before)
    client.add_point_interaction(SECOND, True)
    np.testing.assert_array_equal(server.mask(), expected([point(SECOND, SPACING)]))
    assert client.undo() and not client.undo()


def test_undo_of_a_prompt_after_somebody_else_has_reset_the_label(client, server):
    client.add_initial_seg_interaction(ball(SECOND).astype(np.uint8))
    server.session().reset("segment")
    client.add_point_interaction(FIRST, True)
    assert client.undo() and not server.mask().any()


def test_as_many_undos_after_a_mask_as_without(client, monkeypatch):
    monkeypatch.setattr(history, "MAX_STEPS", 5)
    client.add_initial_seg_interaction(ball(SECOND).astype(np.uint8))
    for number in range(6):
        client.add_point_interaction((2 + 3 * number, 4, 4), False)
    assert [client.undo() for _ in range(6)] == [True] * 5 + [False]
    client.reset_interactions()
    client.add_initial_seg_interaction(ball(SECOND).astype(np.uint8))
    for number in range(4):
        client.add_point_interaction((2 + 3 * number, 4, 4), False)
    assert [client.undo() for _ in range(5)] == [True] * 4 + [False]  # the mask is no step of the user's


def test_only_so_many_earlier_masks_are_kept(client, server, monkeypatch):
    monkeypatch.setattr(conversation, "MAX_EARLIER", 2)
    masks = []
    for number in range(5):
        client.reset_interactions()
        client.add_point_interaction((3 + 4 * number, *FIRST[1:]), True)
        masks.append(client.target_buffer.copy())
    kept = server.session()
    assert sorted(kept.labels) == ["segment", "segment 3", "segment 4"]
    for name, mask in zip(("segment 3", "segment 4", "segment"), masks[2:], strict=True):
        np.testing.assert_array_equal(kept.mask(name), mask)
    assert len(list(server.folder.joinpath(kept.id).glob("*.label"))) == 3
    assert client.undo() and not client.target_buffer.any()
    client.reset_interactions()
    client.add_point_interaction(FIRST, True)  # nothing was left of the one before
    assert sorted(kept.labels) == ["segment", "segment 3", "segment 4"]


def test_locked_masks_do_not_go(client, server, monkeypatch):
    monkeypatch.setattr(conversation, "MAX_EARLIER", 2)
    for number, voxel in enumerate([FIRST, SECOND, (3, 4, 4), SECOND, SECOND]):
        client.reset_interactions()
        client.add_point_interaction(voxel, True)
        if number == 0:
            first = client.target_buffer > 0
            server.session().lock(["segment"])
    kept = server.session()
    assert sorted(kept.labels) == ["segment", "segment 1", "segment 4"] and kept.locked == ("segment 1",)
    np.testing.assert_array_equal(kept.mask("segment 1"), first)
    kept.lock(["segment 1", "segment 4"])
    before = server.kept()
    client.reset_interactions()
    with pytest.raises(Exception, match="413"):
        client.add_point_interaction(SECOND, True)
    assert server.kept() == before and kept.locked == ("segment 1", "segment 4")
    kept.lock([])
    client.add_point_interaction(SECOND, True)
    assert client.target_buffer.any()


def test_a_mask_that_begins_anew_is_not_locked(client, server):
    client.add_point_interaction(FIRST, True)
    assert client.undo()
    kept = server.session()
    kept.lock(["segment"])
    client.reset_interactions()
    client.add_point_interaction(SECOND, True)
    assert kept.labels == ("segment",) and kept.locked == ()


class Slicer:
    """What nnInteractive's module for 3D Slicer does: the mask is sent again, after a reset, where the segment is
    another one than the module left there; one marker for each prompt, one less for each undo."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.segments = {"first": np.zeros(SHAPE, np.uint8)}
        self.chosen = "first"
        self.left: tuple[str, bytes] | None = None
        self.markers: list[tuple] = []

    def choose(self, segment: str) -> None:
        """It resets at once, and again with the next prompt."""
        self.chosen, self.left = segment, None
        self.client.reset_interactions()
        self.markers.clear()

    def prompt(self, voxel, positive=True) -> None:
        segment = self.segments[self.chosen]
        if self.left != (self.chosen, segment.tobytes()):
            self.client.reset_interactions()
            self.markers.clear()
            if segment.any():
                self.client.add_initial_seg_interaction(segment, run_prediction=False)
        self.markers.append(tuple(voxel))
        self._show(self.client.add_point_interaction(list(voxel), positive))

    def undo(self) -> bool:
        undone = self.client.undo()
        if undone:
            self.markers and self.markers.pop()
            if self.client._last_paste_bbox is not None:
                self._show(self.client._last_paste_bbox)
        return undone

    def _show(self, changed) -> None:
        if changed is not None:
            box_of_change = tuple(slice(*side) for side in changed)
            self.segments[self.chosen][box_of_change] = self.client.target_buffer[box_of_change]
        self.left = (self.chosen, self.segments[self.chosen].tobytes())


def test_a_mask_that_was_painted_by_hand_in_slicer(client):
    slicer = Slicer(client)
    slicer.prompt(FIRST)
    clicked = slicer.segments["first"].copy()
    slicer.segments["first"][10:14, 14:16, 10:14] = 0
    slicer.segments["first"][0, 0, :5] = 1
    painted = slicer.segments["first"].copy()
    slicer.prompt(SECOND)
    shown = expected([point(SECOND, SPACING)], previous=torch.from_numpy(painted > 0))
    np.testing.assert_array_equal(slicer.segments["first"], shown)
    slicer.prompt((2, 2, 2), positive=False)
    assert len(slicer.markers) == 2 and slicer.undo() and slicer.undo() and not slicer.markers
    np.testing.assert_array_equal(slicer.segments["first"], painted)
    assert slicer.undo()  # of what was painted
    np.testing.assert_array_equal(slicer.segments["first"], clicked)
    assert slicer.undo() and not slicer.segments["first"].any() and not slicer.undo()


def test_a_mask_that_was_cut_to_a_fifth_by_hand_in_slicer(client):
    slicer = Slicer(client)
    slicer.prompt(FIRST)
    clicked = slicer.segments["first"].copy()
    slicer.segments["first"][:, FIRST[1] - 3 :] = 0
    painted = slicer.segments["first"].copy()
    assert 0 < painted.sum() < 0.3 * clicked.sum()
    slicer.prompt((2, 2, 2), positive=False)
    for mask in (painted, clicked, np.zeros_like(clicked)):
        assert slicer.undo()
        np.testing.assert_array_equal(slicer.segments["first"], mask)
    assert not slicer.undo()


def test_a_copy_of_a_segment_in_slicer(client, server):
    """What was done to the one is no step of the other, and no undo takes away what was painted of that."""
    slicer = Slicer(client)
    slicer.prompt(FIRST)
    first = slicer.segments["first"].copy()
    slicer.segments["copy"] = first.copy()
    slicer.segments["copy"][0, 0, :5] = 1
    copied = slicer.segments["copy"].copy()
    slicer.choose("copy")
    slicer.prompt(SECOND)
    assert slicer.undo() and not slicer.undo()
    np.testing.assert_array_equal(slicer.segments["copy"], copied)
    kept = server.session()
    assert kept.labels == ("segment 1", "segment") and kept.prompts("segment 1") == (point(FIRST, SPACING),)
    np.testing.assert_array_equal(kept.mask("segment 1"), first)


def test_two_segments_in_slicer(client, server):
    """No undo takes more back than was done to the segment since it was chosen; the session keeps both."""
    slicer = Slicer(client)
    slicer.prompt(FIRST)
    first = slicer.segments["first"].copy()
    slicer.segments["second"] = np.zeros(SHAPE, np.uint8)
    slicer.choose("second")
    slicer.prompt(SECOND)
    second = slicer.segments["second"].copy()
    assert dice(second > 0, ball(SECOND)) > 0.85
    kept = server.session()
    assert kept.labels == ("segment 1", "segment")
    np.testing.assert_array_equal(kept.mask("segment 1"), first)
    np.testing.assert_array_equal(kept.mask("segment"), second)
    assert kept.prompts("segment 1") == (point(FIRST, SPACING),) and kept.undoable("segment 1") == (1, 0)
    slicer.choose("first")
    slicer.prompt((2, 2, 2))
    clicked = slicer.segments["first"].copy()
    assert clicked[2, 2, 2] and clicked.sum() > first.sum()
    slicer.segments["first"][0, 0, 0] = 0
    slicer.prompt((20, 2, 2), positive=False)
    assert slicer.undo() and slicer.undo()  # of what was painted
    np.testing.assert_array_equal(slicer.segments["first"], clicked)
    assert slicer.undo() and not slicer.undo() and not slicer.markers
    np.testing.assert_array_equal(slicer.segments["first"], first)
    np.testing.assert_array_equal(slicer.segments["second"], second)
