"""What each backend is expected to take, against counts by hand."""

import pytest
import torch

from rep3d.ops import costs
from rep3d.ops.costs import Call, Cost, expected_costs

VOXELS = 2 * 3 * 4 * 5 * 6
PRODUCTS = 2 * 3 * 10 * 13 * (6 * 3)  # conv3d skips the padding along the first two axes
PADDED = 3 * 6 * 6 * 8
CALL = Call((2, 3, 4, 5, 6), 3)
TRAINING = CALL._replace(needs_x=True)
NOTHING = Cost(0, 0, 0, 0, 0, 0, fft_training=5, fft_weight_gradient=7, unfold=0, unfold_backward=0)


@pytest.mark.parametrize(
    ("call", "part", "expected"),
    [
        (CALL, "voxel", {"direct": VOXELS, "fft": 0}),
        (CALL, "multiply", {"direct": PRODUCTS, "fft": 0}),
        (CALL, "multiply_backward", {"direct": 0, "fft": 0}),
        (CALL, "fft_call", {"direct": 0, "fft": 1}),
        (CALL, "fft_map", {"direct": 0, "fft": 2 * PADDED}),
        (CALL, "fft_kernel", {"direct": 0, "fft": PADDED}),
        (CALL._replace(keeps_kernel_spectrum=True), "fft_kernel", {"direct": 0, "fft": 0}),
        (CALL._replace(dtype=torch.float64), "fft_map", {"direct": 0, "fft": 4 * PADDED}),
        (CALL._replace(unfolds=True), "unfold", {"direct": VOXELS * 27, "fft": 0}),
        (CALL._replace(unfolds=True), "multiply", {"direct": 0, "fft": 0}),
        (TRAINING, "voxel", {"direct": VOXELS, "fft": 0, "mixed": 2 * VOXELS}),
        (TRAINING, "multiply_backward", {"direct": PRODUCTS, "fft": 0, "mixed": 0}),
        (TRAINING, "fft_call", {"direct": 0, "fft": 5, "mixed": 7}),
        (TRAINING._replace(unfolds=True), "unfold_backward", {"direct": VOXELS * 27, "fft": 0, "mixed": 0}),
    ],
)
def test_what_counts(call, part, expected, monkeypatch):
    monkeypatch.setitem(costs.COSTS, "cpu", NOTHING._replace(**{part: 1}))
    assert expected_costs(call) == expected


def test_other_devices_are_taken_for_a_gpu():
    of_cuda, of_meta = (expected_costs(CALL._replace(device=torch.device(name))) for name in ("cuda", "meta"))
    assert of_meta == of_cuda != expected_costs(CALL)


def test_ties_go_to_conv3d(monkeypatch):
    monkeypatch.setattr(costs, "expected_costs", lambda call: {"fft": 1.0, "direct": 1.0, "mixed": 1.0})
    assert costs.cheapest(TRAINING) == "direct"
