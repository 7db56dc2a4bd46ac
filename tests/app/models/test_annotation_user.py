"""What one simulated user does with a proposal, and with a network that is of no help."""

import pytest
import torch

from monailabel_app.models.annotation.user import annotate
from rep3d.interactive.scene import Scene

TRUTH = torch.zeros(20, 20, 20, dtype=torch.bool)
TRUTH[4:12, 4:12, 4:12] = True


def scene(logit):
    """Of a network that says the same of all voxels."""
    network = lambda channels: torch.full_like(channels[:, :1], logit)  # noqa: E731
    return Scene(network, torch.rand(20, 20, 20), (1.0, 1.0, 1.0), size=16)


def test_a_good_proposal_is_taken_as_it_is():
    proposal = TRUTH.clone()
    proposal[4] = False
    scan, mask = annotate("a", TRUTH, proposal, scene(-1))
    assert scan.dice == [pytest.approx(2 * 448 / (448 + 512))] and (scan.clicks, scan.discarded) == (0, False)
    assert torch.equal(mask, proposal)


def test_a_useless_proposal_costs_an_action():
    proposal = torch.zeros_like(TRUTH)
    proposal[12:, 12:, 12:] = True
    scan, _ = annotate("a", TRUTH, proposal, scene(-1))
    assert (scan.proposal, scan.discarded, scan.failed, scan.clicks) == (0, True, True, 20)
    assert scan.dice[0] == 0 and len(scan.dice) == 1 + 19


def test_without_a_proposal():
    scan, mask = annotate("a", TRUTH, None, scene(-1))
    assert (scan.proposal, scan.discarded, scan.failed) == (None, False, True) and len(scan.dice) == 1 + 20
    assert int(mask.sum()) == 20  # the clicked voxels, whatever the network answers
