import copy
import pickle

import pytest
import torch

from rep3d import depthwise_conv3d
from rep3d.ops import fft_conv
from rep3d.ops.fft_conv import KernelSpectra


def convolve(x, weight, spectra=None):
    return depthwise_conv3d(x, weight, backend="fft", spectra=spectra)


def test_kept_spectra_change_nothing():
    weight, spectra = torch.randn(3, 1, 5, 5, 5), KernelSpectra()
    for size in (6, 7, 6):
        x = torch.randn(2, 3, size, 8, 5)
        assert torch.equal(convolve(x, weight, spectra), convolve(x, weight))
    assert len(spectra.entries) == 2


def test_kernel_is_transformed_once_per_input_size(monkeypatch):
    weight, spectra, calls = torch.randn(3, 1, 5, 5, 5), KernelSpectra(), []
    transform = torch.fft.rfftn
    monkeypatch.setattr(torch.fft, "rfftn", lambda *args, **kwargs: calls.append(1) or transform(*args, **kwargs))
    x = torch.randn(1, 3, 6, 6, 6)
    counts = []
    for _ in range(3):
        convolve(x, weight, spectra)
        counts.append(len(calls))
    assert counts == [2, 3, 4]


@pytest.mark.parametrize("arguments, kept", [({}, [5, 6]), ({"limit": 1}, [5])])
def test_the_last_sizes_are_kept(arguments, kept):
    weight, spectra = torch.randn(1, 1, 3, 3, 3), KernelSpectra(**arguments)
    for size in (4, 5, 6, 5):
        convolve(torch.randn(1, 1, size, size, size), weight, spectra)
    assert [key[0].shape[0] for key, _, _ in spectra.entries] == kept


def test_changed_kernel_gets_new_spectra():
    weight, spectra, x = torch.nn.Parameter(torch.randn(2, 1, 3, 3, 3)), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)
    with torch.no_grad():
        convolve(x, weight, spectra)
        weight.mul_(2)
        torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))
        weight.data = torch.randn_like(weight)
        torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))
    assert len(spectra.entries) == 1


def test_not_used_with_gradients():
    weight, spectra = torch.randn(2, 1, 3, 3, 3, requires_grad=True), KernelSpectra()
    convolve(torch.randn(1, 2, 4, 4, 4), weight, spectra).sum().backward()
    assert not spectra.entries


def test_inference_mode():
    """Weights made in inference mode have no version that would tell of a change."""
    with torch.inference_mode():
        weight, spectra, x = torch.randn(2, 1, 3, 3, 3), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)
        convolve(x, weight, spectra)
        weight.mul_(2)
        torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))


def test_copies_start_empty():
    weight, spectra = torch.randn(2, 1, 3, 3, 3), KernelSpectra(limit=5)
    convolve(torch.randn(1, 2, 4, 4, 4), weight, spectra)
    for copied in (copy.deepcopy(spectra), pickle.loads(pickle.dumps(spectra))):
        assert copied.limit == 5 and not copied.entries


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("order", ["step after", "evaluated before the step"])
def test_spectra_of_before_a_step_are_not_used(fused, order):
    """A fused optimizer changes the kernel, but neither its address nor its version."""
    weight, spectra, x = torch.nn.Parameter(torch.randn(2, 1, 3, 3, 3)), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)
    optimizer = torch.optim.AdamW([weight], lr=1.0, fused=fused)
    with torch.no_grad():
        convolve(x, weight, spectra)
    loss = convolve(x, weight, spectra).sum()
    assert not spectra.entries
    if order == "evaluated before the step":
        with torch.no_grad():
            convolve(x, weight, spectra)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))


def test_nor_those_of_before_a_pass_with_gradients():
    """Whoever trains by hand, too, writing to `data`; whatever backend the pass takes."""
    for backend in ("direct", "mixed", "fft"):
        weight, spectra, x = torch.nn.Parameter(torch.randn(2, 1, 3, 3, 3)), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)
        with torch.no_grad():
            convolve(x, weight, spectra)
        depthwise_conv3d(x, weight, backend=backend, spectra=spectra).sum().backward()
        weight.data.sub_(weight.grad)
        with torch.no_grad():
            torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))


def test_none_are_kept_of_a_batch_of_kernels():
    """As of the networks of an ensemble under `torch.func.vmap`; those of the kernel of a batch of inputs are."""
    x, weights, spectra = torch.randn(3, 1, 2, 6, 6, 6), torch.randn(3, 2, 1, 5, 5, 5), KernelSpectra()
    actual = torch.func.vmap(lambda weight: convolve(x[0], weight, spectra))(weights)
    torch.testing.assert_close(actual, torch.stack([convolve(x[0], weight) for weight in weights]))
    assert not spectra.entries
    for _ in range(2):
        actual = torch.func.vmap(lambda x: convolve(x, weights[0], spectra))(x)
        torch.testing.assert_close(actual, torch.stack([convolve(x, weights[0]) for x in x]))
    assert len(spectra.entries) == 1


def test_none_are_kept_inside_of_a_function_s_gradient():
    x, weight, spectra = torch.randn(1, 2, 4, 4, 4), torch.randn(2, 1, 3, 3, 3), KernelSpectra()

    def loss(factor):
        with torch.no_grad():
            constant = convolve(x, weight, spectra)
        return (factor * constant).sum()

    expected = convolve(x, weight)
    torch.testing.assert_close(torch.func.grad(loss)(torch.tensor(2.0)), expected.sum())
    assert not spectra.entries
    torch.testing.assert_close(convolve(x, weight, spectra), expected)


def test_clear():
    """What to do after writing to `data` without a pass with gradients."""
    weight, spectra, x = torch.randn(2, 1, 3, 3, 3), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)
    convolve(x, weight, spectra)
    weight.data.mul_(2)
    spectra.clear()
    torch.testing.assert_close(convolve(x, weight, spectra), convolve(x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_of_half_precision_are_transformed_once(dtype, monkeypatch):
    weight, spectra, calls = torch.randn(3, 1, 5, 5, 5).to(dtype), KernelSpectra(), []
    x = torch.randn(1, 3, 6, 6, 6)
    expected = convolve(x, weight)
    transform = fft_conv._kernel_spectrum
    monkeypatch.setattr(fft_conv, "_kernel_spectrum", lambda *args: calls.append(1) or transform(*args))
    for _ in range(3):
        assert torch.equal(convolve(x, weight, spectra), expected)
    assert len(calls) == 1
    assert convolve(x.double(), weight, spectra).dtype == torch.float64  # another precision, another spectrum
    assert len(calls) == 2 and len(spectra.entries) == 2


@pytest.mark.parametrize("view", [lambda w: w.transpose(2, 4), lambda w: w[::2], lambda w: w.flip(2)])
def test_another_view_of_the_same_numbers_is_another_kernel(view):
    weight, spectra = torch.randn(4, 1, 3, 3, 3), KernelSpectra()
    convolve(torch.randn(1, 4, 5, 5, 5), weight, spectra)
    other = view(weight)
    x = torch.randn(1, other.shape[0], 5, 5, 5)
    torch.testing.assert_close(convolve(x, other, spectra), convolve(x, other))
