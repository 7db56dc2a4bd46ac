"""When the working grid grows: for what goes on beyond it, be it thin, and for nothing else."""

import pytest
import torch

from rep3d.interactive import correction
from rep3d.interactive.correction import correct
from rep3d.interactive.grid import resample
from rep3d.interactive.prompts import point
from rep3d.interactive.scene import Scene

SIZE, UNIT = 16, (1.0, 1.0, 1.0)
RIM = 3  # voxels at each face


def looks(found, previous=None):
    """How often a network is asked that finds the same voxels of every grid, round a click in the middle."""
    asked = []
    network = lambda channels: asked.append(1) or torch.where(found, 1.0, -1.0)[None, None]  # noqa: E731
    click = [point((50, 50, 50), UNIT)]
    correct(Scene(network, torch.zeros(100, 100, 100), UNIT, size=SIZE, tiles=0), click, previous=previous)
    return len(asked)


def nothing():
    found = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool)
    found[7:9, 7:9, 7:9] = True
    return found


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("thick", [1, 2, 3])
@pytest.mark.parametrize("end", [slice(8, None), slice(0, 8)])
def test_a_tube_that_leaves_makes_it_grow(axis, thick, end):
    found, sides = nothing(), [slice(7, 7 + thick)] * 3
    sides[axis] = end
    found[tuple(sides)] = True
    assert looks(found) > 1


def test_a_slanting_tube_that_leaves_makes_it_grow():
    found = nothing()
    for step in range(8):
        found[8 + step, 8 + step // 2, 8 - step // 3] = True
    assert looks(found) > 1


def ball(radius, centre):
    voxels = torch.stack(torch.meshgrid(*[torch.arange(float(SIZE))] * 3, indexing="ij"), -1)
    return (voxels - torch.tensor(centre)).norm(dim=-1) <= radius


@pytest.mark.parametrize(
    "found",
    [nothing(), ball(4.0, (8.0, 7.0, 7.0)),
     nothing() | (torch.rand(SIZE, SIZE, SIZE, generator=torch.manual_seed(0)) < 0.004)],
    ids=["inside", "touches with a voxel", "speckle"],
)  # fmt: skip
def test_what_ends_there_does_not(found):
    assert looks(found) == 1


def test_a_few_voxels_of_a_face_make_it_grow():
    """Four, of what is much thicker inside."""
    found = ball(4.07, (8.0, 7.5, 7.5))
    assert int(found[-1 - RIM].sum()) == 4 and looks(found) > 1


def test_what_ends_in_the_rim_makes_it_grow():
    """There a network knows too little to find all of it."""
    found = ball(6.0, (7.5, 7.5, 7.5))
    assert not found[[0, -1]].any() and looks(found) > 1


@pytest.mark.parametrize(("thick", "grows"), [(1, False), (3, True)])
def test_a_border_that_moves_a_little_does_not(thick, grows):
    """Along the border of a mask that goes on beyond the grid, a network always changes its mind somewhere."""
    previous, found = torch.zeros(100, 100, 100, dtype=torch.bool), torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool)
    previous[:50] = found[:8] = True
    found[8 : 8 + thick, 6:, 7:11] = True
    assert (looks(found, previous) > 1) == grows


def test_what_the_click_may_not_change_does_not():
    """A positive one, where the network gives up a mask that fills the grid."""
    assert looks(torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool), torch.ones(100, 100, 100, dtype=torch.bool)) == 1


def test_what_is_not_reached_does_not():
    """The crop is 16 voxels on each side of the click; here what leaves the grid lies beyond it."""
    asked, size = [], 48
    found = torch.zeros(size, size, size, dtype=torch.bool)
    found[23:25, 23:25, 23:25] = found[:, :4] = True
    network = lambda channels: asked.append(1) or torch.where(found, 1.0, -1.0)[None, None]  # noqa: E731
    scene = Scene(network, torch.zeros(200, 200, 200), UNIT, size=size, tiles=0)
    answer = correct(scene, [point((100, 100, 100), UNIT)])
    assert len(asked) == 1 and int(answer.mask.sum()) < 100


def test_a_vessel_is_followed_to_its_ends(monkeypatch):
    """Three millimetres thick, and five times as long as the first grid, which its section fills by less than 1 %."""
    shape = (170, 40, 44)
    x, y, z = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    course = 20 + 6 * torch.sin(x / 25)
    truth = ((y - course).square() + (z - 22).square() <= 2.6) & (x >= 5) & (x < 165)
    asked, logits_of = [], correction._logits

    def logits(scene, grid, *others):
        asked.append((scene.scan, grid))
        return logits_of(scene, grid, *others)

    def oracle(channels):
        """Who knows the truth, and sees a thin part of it on a coarse grid, too."""
        scan, grid = asked[-1]
        return (resample(truth, scan, grid) - (0.5 if grid.spacing[0] <= 1 else 0.05))[None, None]

    monkeypatch.setattr(correction, "_logits", logits)
    clicks = [point((80, int(course[80, 0, 0]), 22), UNIT)]
    answer = correct(Scene(oracle, torch.zeros(shape), UNIT, size=32, tiles=10_000), clicks)
    found = answer.mask & truth
    assert 2 * int(found.sum()) / (int(answer.mask.sum()) + int(truth.sum())) > 0.95
    assert found[5:8].any() and found[162:165].any()
