import sys

import benchmark_operator
import pytest

from rep3d.ops.fft_conv import make_plan


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.parametrize("edge", [48, 96])
@pytest.mark.parametrize("save_spectra, bound", [(True, 6), (False, 3)])
def test_extra_memory_of_a_training_pass(save_spectra, bound, edge):
    """In units of x + weight + y, and not without the spectra that are to be saved."""
    case = benchmark_operator.Case(1, 48, edge, 21)
    voxels, offsets = case.channels * edge**3, case.channels * case.k**3
    extra = benchmark_operator.extra_memory(case, save_spectra, "cpu")
    assert extra < bound * 4 * (2 * voxels + offsets)
    d, h, w = make_plan((edge,) * 3, case.k).sizes
    spectrum = 8 * case.channels * d * h * (w // 2 + 1)
    assert extra > (2 * spectrum if save_spectra else 4 * (voxels + offsets))
