import copy
import time
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rep3d import depthwise_conv3d
from rep3d.ops import costs, fft_conv
from rep3d.ops import depthwise_conv3d as ops
from rep3d.training.processes import leave_process_group

# B, C, D, H, W, k: cubes, unequal and odd axes, single voxels, axes far smaller than the kernel.
CASES = [
    (1, 1, 1, 1, 1, 1),
    (1, 2, 1, 1, 1, 5),
    (2, 3, 6, 6, 6, 1),
    (2, 3, 5, 6, 7, 3),
    (1, 2, 8, 8, 8, 5),
    (2, 2, 9, 4, 7, 7),
    (1, 3, 2, 1, 13, 7),
    (1, 2, 12, 10, 11, 21),
    (2, 1, 24, 3, 6, 21),
    (1, 2, 3, 5, 2, 21),
]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
FAST = ("fft", "mixed", "auto")
HALVES = (torch.bfloat16, torch.float16)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def make_inputs(case, dtype=torch.float32, device="cpu"):
    """Leaves x, weight and bias that ask for gradients."""
    batch, channels, *spatial_shape, k = case
    shapes = ((batch, channels, *spatial_shape), (channels, 1, k, k, k), (channels,))
    return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]


def run(inputs, backend):
    """Output and the gradients of all inputs, for an upstream gradient that differs between voxels."""
    y = depthwise_conv3d(*inputs, backend=backend)
    grad_y = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [tensor for tensor in inputs if tensor.requires_grad], grad_y)]


class Conv(nn.Module):
    def __init__(self, channels=3, kernel_size=5, backend="fft"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1, *(kernel_size,) * 3))
        self.bias = nn.Parameter(torch.randn(channels))
        self.backend = backend

    def forward(self, x):
        return depthwise_conv3d(x, self.weight, self.bias, backend=self.backend)


# --- values and gradients


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_backends_agree(case, dtype, device, relative_error, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it rounds what `direct` multiplies to 10 bits
    inputs = make_inputs(case, dtype, device)
    expected = run(inputs, "direct")
    for backend in FAST:
        for name, actual, reference in zip(
            ("y", "grad_x", "grad_weight", "grad_bias"), run(inputs, backend), expected, strict=True
        ):
            assert actual.dtype == dtype
            assert relative_error(actual, reference) < TOLERANCES[dtype], (backend, name)


def test_definition():
    """Cross-correlation, not convolution: an impulse gives the kernel mirrored about its centre."""
    x = torch.zeros(1, 1, 5, 5, 5)
    x[0, 0, 2, 2, 2] = 1
    weight = torch.randn(1, 1, 5, 5, 5)
    for backend in ops.BACKENDS:
        torch.testing.assert_close(depthwise_conv3d(x, weight, backend=backend), weight.flip(2, 3, 4))


def test_without_bias(relative_error):
    x, weight, bias = make_inputs((2, 3, 5, 6, 7, 5))
    for backend in ops.BACKENDS:
        with_bias = depthwise_conv3d(x, weight, bias, backend=backend)
        assert relative_error(depthwise_conv3d(x, weight, backend=backend) + bias.view(-1, 1, 1, 1), with_bias) < 1e-6


SMALL_CASES = [(2, 2, 3, 4, 2, 3), (1, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize("save_spectra", [True, False])
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_gradcheck(case, backend, save_spectra):
    inputs = make_inputs(case, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *tensors: depthwise_conv3d(*tensors, backend=backend, save_spectra=save_spectra), inputs
    )


def two_derivatives(x, weight, backend):
    """The gradients as they are computed where somebody wants second derivatives, and those."""
    y = depthwise_conv3d(x, weight, backend=backend)
    grad_y = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).requires_grad_()
    first = torch.autograd.grad(y, (x, weight), grad_y, create_graph=True)
    directions = [torch.linspace(-2, 1, gradient.numel(), dtype=y.dtype).view_as(gradient) for gradient in first]
    return [*first, *torch.autograd.grad(first, (x, weight, grad_y), directions)]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_second_derivatives(case, backend, relative_error):
    """And the gradients on the way to them, which `gradgradcheck` would take as given."""
    x, weight, _ = make_inputs(case, torch.float64)
    names = ("grad_x", "grad_weight", "by x", "by weight", "by grad_y")
    expected = two_derivatives(x, weight, "direct")
    for name, actual, reference in zip(names, two_derivatives(x, weight, backend), expected, strict=True):
        assert relative_error(actual, reference) < 1e-12, name


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_function_transforms(backend, relative_error):
    """Gradients per sample: `torch.func.vmap` over `torch.func.grad`."""
    x, weight, _ = make_inputs((3, 2, 5, 4, 6, 5))

    def loss(weight, sample):
        return depthwise_conv3d(sample.unsqueeze(0), weight, backend=backend).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight.detach(), x.detach())
    for gradient, sample in zip(actual, x.detach(), strict=True):
        assert relative_error(gradient, torch.autograd.grad(loss(weight, sample), weight)[0]) < 1e-5


@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0)], ids=str)
def test_batches_of_functions(in_dims, backend, relative_error):
    """`torch.func.vmap` over inputs, over kernels alone, as of an ensemble, and over both; gradients of each, too."""
    x, weight = torch.randn(3, 2, 2, 5, 4, 6), torch.randn(3, 2, 1, 5, 5, 5)
    arguments = [tensor if dim == 0 else tensor[0] for tensor, dim in zip((x, weight), in_dims, strict=True)]

    def convolve(x, weight):
        return depthwise_conv3d(x, weight, backend=backend)

    def loss(x, weight):
        return convolve(x, weight).square().sum()

    def gradients_of_gradients(x, weight):
        return torch.func.grad(lambda weight: torch.func.grad(loss)(x, weight).square().sum())(weight)

    for function in (convolve, torch.func.grad(loss, 0), torch.func.grad(loss, 1), gradients_of_gradients):
        actual = torch.func.vmap(function, in_dims)(*arguments)
        for i in range(3):
            expected = function(x[i] if in_dims[0] == 0 else x[0], weight[i] if in_dims[1] == 0 else weight[0])
            assert relative_error(actual[i], expected) < 1e-5


@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("which", [0, 1])
def test_batches_of_one_operand_with_one_gradient_of_the_output(which, backend, relative_error):
    """Their gradients are batches, the gradient of the output is none."""
    grad_y, operands = torch.randn(2, 2, 5, 4, 6), [torch.randn(2, 2, 5, 4, 6), torch.randn(2, 1, 5, 5, 5)]
    batch = torch.randn(3, *operands[which].shape)

    def gradients(one):
        changed = [one if i == which else operand for i, operand in enumerate(operands)]
        return torch.func.vjp(lambda x, weight: depthwise_conv3d(x, weight, backend=backend), *changed)[1](grad_y)

    for actual, expected in zip(
        torch.func.vmap(gradients)(batch), zip(*map(gradients, batch), strict=True), strict=True
    ):
        assert relative_error(actual, torch.stack(expected)) < 1e-5


@pytest.mark.parametrize("backend", FAST)
def test_same_input_gives_the_same_bits(backend):
    inputs = make_inputs((2, 3, 9, 8, 7, 7))
    torch.use_deterministic_algorithms(True)
    try:
        for first, second in zip(run(inputs, backend), run(inputs, backend), strict=True):
            assert torch.equal(first, second)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("backend", FAST)
def test_compiles_without_graph_break(backend, relative_error):
    """From the second shape on the sizes are symbols, whose values the tracer does not know."""
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *tensors: depthwise_conv3d(*tensors, backend=backend).square().sum(), fullgraph=True, backend="aot_eager"
    )
    for case in ((2, 3, 5, 6, 7, 7), (2, 3, 9, 6, 7, 7), (3, 3, 4, 10, 24, 7)):
        inputs = make_inputs(case)
        expected = torch.autograd.grad(depthwise_conv3d(*inputs, backend=backend).square().sum(), inputs)
        for actual, reference in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
            assert relative_error(actual, reference) < 1e-5


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.transpose(2, 4),
        lambda x: x[..., ::2],
        lambda x: x.expand(2, -1, -1, -1, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    ],
    ids=["transposed", "strided", "expanded", "channels_last_3d"],
)
def test_memory_layout(layout, backend, relative_error):
    x, weight, bias = make_inputs((1, 4, 6, 7, 8, 5))
    x = layout(x.detach()).requires_grad_()
    assert not x.is_contiguous()
    for actual, reference in zip(run((x, weight, bias), backend), run((x, weight, bias), "direct"), strict=True):
        assert relative_error(actual, reference) < 1e-5


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_some_inputs(wanted, backend, relative_error):
    inputs = make_inputs((2, 3, 5, 6, 7, 7))
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i in wanted)
    for actual, reference in zip(run(inputs, backend), run(inputs, "direct"), strict=True):
        assert relative_error(actual, reference) < 1e-5


# --- memory


@pytest.mark.parametrize("numbers", [1, 200, 500])
def test_channel_blocks_change_nothing(numbers, monkeypatch, relative_error):
    inputs = make_inputs((2, 5, 6, 4, 3, 5))
    expected = run(inputs, "fft")
    monkeypatch.setitem(fft_conv.BLOCK_NUMBERS, "cpu", numbers)
    blocks = fft_conv._channel_blocks(inputs[0], fft_conv.make_plan((6, 4, 3), 5))
    assert len(blocks) > 1
    assert [channel for block in blocks for channel in range(5)[block]] == list(range(5))
    for actual, reference in zip(run(inputs, "fft"), expected, strict=True):
        assert relative_error(actual, reference) < 1e-6


@pytest.mark.parametrize("shape", [(9, 2, 5), (2, 9, 5), (2, 5, 9)])
def test_size_of_channel_blocks(shape, monkeypatch):
    """As many channels as fit."""
    plan, x = fft_conv.make_plan(shape, 3), torch.empty(2, 7, *shape)
    spectrum = torch.fft.rfftn(torch.zeros(2, 1, *plan.sizes), dim=(2, 3, 4)).numel()
    for numbers, channels in ((4 * spectrum, [4, 3]), (4 * spectrum - 1, [3, 3, 1]), (0, [1] * 7)):
        monkeypatch.setitem(fft_conv.BLOCK_NUMBERS, "cpu", numbers)
        assert [block.stop - block.start for block in fft_conv._channel_blocks(x, plan)] == channels
    assert len(fft_conv._channel_blocks(x.to("meta"), plan)) == 1  # as a GPU


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize(
    "correlate", [fft_conv.correlate, partial(depthwise_conv3d, backend="fft")], ids=["fft", "all"]
)
def test_spectra_are_saved_where_a_gradient_needs_them(correlate, wanted, saves, monkeypatch):
    monkeypatch.setitem(fft_conv.BLOCK_NUMBERS, "cpu", 1)  # 3 blocks
    saved, transforms, rfftn = [], [], torch.fft.rfftn
    x, weight, _ = (tensor.requires_grad_(i in wanted) for i, tensor in enumerate(make_inputs((1, 3, 4, 4, 4, 3))))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = correlate(x, weight, **({} if saves else {"save_spectra": False}))
    assert len(saved) == 2 + 3 * saves * len(wanted)
    monkeypatch.setattr(torch.fft, "rfftn", lambda *args, **kwargs: transforms.append(1) or rfftn(*args, **kwargs))
    y.sum().backward()
    assert len(transforms) == 3 * (1 if saves else 1 + len(wanted))


def test_mixed_transforms_in_the_backward_pass_alone(monkeypatch):
    x, weight, _ = make_inputs((1, 3, 4, 4, 4, 3))
    transforms, rfftn = [], torch.fft.rfftn
    monkeypatch.setattr(torch.fft, "rfftn", lambda *args, **kwargs: transforms.append(1) or rfftn(*args, **kwargs))
    y = depthwise_conv3d(x, weight, backend="mixed")
    assert not transforms
    y.sum().backward()
    assert transforms


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_the_spectra_of_one_block(context, monkeypatch):
    """Also where the weight is a parameter, whose gradient is asked for outside `no_grad`."""
    spectra, alive = [], []
    transform = torch.fft.rfftn

    def watched_transform(*args, **kwargs):
        alive.append(sum(reference() is not None for reference in spectra))
        spectrum = transform(*args, **kwargs)
        spectra.append(weakref.ref(spectrum))
        return spectrum

    monkeypatch.setattr(torch.fft, "rfftn", watched_transform)
    monkeypatch.setitem(fft_conv.BLOCK_NUMBERS, "cpu", 1)
    x, weight, bias = make_inputs((1, 6, 6, 6, 6, 5))
    with context():
        y = depthwise_conv3d(x, weight, bias, backend="fft")
    assert not y.requires_grad
    assert len(alive) == 2 * 6
    assert max(alive) <= 3  # of this block and the one before


def test_no_grad_gives_the_same_output():
    inputs = make_inputs((2, 3, 5, 6, 7, 7))
    for backend in ops.BACKENDS:
        expected = depthwise_conv3d(*inputs, backend=backend).detach()
        with torch.no_grad():
            torch.testing.assert_close(depthwise_conv3d(*inputs, backend=backend), expected, rtol=1e-4, atol=1e-4)


# --- dtypes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("x_dtype", (torch.float32, *HALVES), ids=str)
def test_autocast_computes_in_float32(x_dtype, backend, dtype, device):
    """The result is the float32 one, rounded once."""
    x, weight, bias = make_inputs((2, 3, 5, 6, 7, 5), device=device)
    x = x.detach().to(x_dtype).requires_grad_()
    with torch.autocast(device, dtype=dtype):
        y, *gradients = run((x, weight, bias), backend)
    assert y.dtype == dtype
    torch.testing.assert_close(y, depthwise_conv3d(x.float(), weight, bias, backend=backend).to(dtype), rtol=0, atol=0)
    assert [gradient.dtype for gradient in gradients] == [x_dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_gradients_inside_autocast_are_those_outside(backend):
    inputs = make_inputs((2, 3, 5, 6, 7, 5))
    upstream = torch.randn(2, 3, 5, 6, 7)
    expected = torch.autograd.grad(depthwise_conv3d(*inputs, backend=backend), inputs, upstream)
    y = depthwise_conv3d(*inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = torch.autograd.grad(y, inputs, upstream)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("backend", ["fft", "mixed"])
def test_forward_mode_is_refused(backend):
    """There is no rule for it; a derivative of zero would be wrong."""
    x, weight = torch.randn(1, 2, 6, 6, 6), torch.randn(2, 1, 5, 5, 5)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: depthwise_conv3d(x, weight, backend=backend), (x,), (x,))
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda w: depthwise_conv3d(x, w, backend=backend), (weight,), (weight,))


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_autocast_leaves_float64(backend):
    inputs = make_inputs((1, 2, 4, 5, 6, 3), torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise_conv3d(*inputs, backend=backend)
    torch.testing.assert_close(y, depthwise_conv3d(*inputs, backend=backend), rtol=0, atol=0)


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_a_float64_weight_is_not_rounded(backend):
    """Two elements that differ by less than float32 can tell."""
    weight = torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64)
    weight[0, 0, 1, 1, 0], weight[0, 0, 1, 1, 2] = 1 + 2**-30, -1
    y = depthwise_conv3d(torch.ones(1, 1, 3, 3, 5), weight, backend=backend)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[..., 1:-1], torch.full((1, 1, 3, 3, 3), 2.0**-30), rtol=1e-4, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_half_precision_outside_autocast(backend, dtype, device):
    inputs = make_inputs((2, 3, 5, 6, 7, 5), dtype, device)
    y, *gradients = run(inputs, backend)
    expected = depthwise_conv3d(*(tensor.float() for tensor in inputs), backend=backend)
    torch.testing.assert_close(y, expected.to(dtype), rtol=0, atol=0)
    assert {gradient.dtype for gradient in gradients} == {dtype}


# --- values that are no good


@pytest.mark.parametrize("backend", ["direct", "fft"])
def test_a_voxel_that_is_not_a_number(backend):
    """By `conv3d` it spoils its neighbourhood, by FFT the whole channel of its sample; others stay as they are."""
    x, weight = torch.randn(2, 3, 12, 12, 12), torch.randn(3, 1, 3, 3, 3)
    expected = depthwise_conv3d(x, weight, backend="direct")
    x[1, 2, 4, 5, 6] = float("nan")
    y = depthwise_conv3d(x, weight, backend=backend)
    spoilt = y.isnan()
    assert spoilt.sum() == (27 if backend == "direct" else 12**3) and spoilt[1, 2].sum() == spoilt.sum()
    torch.testing.assert_close(y[~spoilt], expected[~spoilt], rtol=1e-4, atol=1e-4)


def test_a_voxel_that_is_much_larger_than_the_others():
    """An FFT is right to 1e-6 of the largest value of its channel, `conv3d` of that of its neighbourhood."""
    x, weight = torch.randn(1, 2, 12, 12, 12), torch.randn(2, 1, 3, 3, 3)
    x[0, 1, 4, 5, 6] = 1e9
    expected = depthwise_conv3d(x.double(), weight.double(), backend="direct")
    far = torch.ones(12, 12, 12, dtype=torch.bool)
    far[3:6, 4:7, 5:8] = False
    errors = {}
    for backend in ("direct", "fft"):
        error = (depthwise_conv3d(x, weight, backend=backend).double() - expected).abs()[0]
        assert error[0].max() < 1e-4  # of another channel
        errors[backend] = error[1, far].max()
    assert errors["direct"] < 1e-4 and 1 < errors["fft"] < 1e-6 * 1e9


# --- inside of larger things


@pytest.mark.parametrize("backend", FAST)
def test_checkpoint(backend, relative_error):
    inputs = make_inputs((2, 3, 5, 6, 7, 7))
    function = lambda *tensors: depthwise_conv3d(*tensors, backend=backend)  # noqa: E731
    checkpoint(function, *inputs, use_reentrant=False).square().sum().backward()
    expected = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    for tensor, reference in zip(inputs, expected, strict=True):
        assert relative_error(tensor.grad, reference) < 1e-6


def test_deepcopy_of_a_module_in_use(relative_error):
    module, x = Conv(), torch.randn(1, 3, 6, 6, 6)
    module(x).sum().backward()
    copied = copy.deepcopy(module)
    expected = module(x).detach()
    with torch.no_grad():
        module.weight.zero_()
    assert relative_error(copied(x), expected) < 1e-6
    copied(x).sum().backward()
    assert copied.weight.grad.abs().max() > 0


def _ddp_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    module, x = torch.load(folder / "start.pt", weights_only=False)
    parallel = nn.parallel.DistributedDataParallel(module)
    parallel(x[rank : rank + 1]).square().mean().backward()
    torch.save([parameter.grad for parameter in module.parameters()], folder / f"{rank}.pt")
    leave_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch was built without torch.distributed")
def test_distributed_data_parallel(tmp_path, relative_error):
    """Two processes with half the batch each average to the gradients of the whole batch."""
    module, x = Conv(), torch.randn(2, 3, 6, 6, 6)
    torch.save((module, x), tmp_path / "start.pt")
    torch.multiprocessing.set_forkserver_preload(["rep3d.training.cpu"])  # the libraries, imported once
    processes = torch.multiprocessing.start_processes(
        _ddp_process, (tmp_path,), nprocs=2, join=False, start_method="forkserver"
    )
    end = time.monotonic() + 120
    while not processes.join(timeout=5):
        if time.monotonic() > end:
            for process in processes.processes:
                process.kill()
            pytest.fail("the two processes did not end in 120 s")
    module(x).square().mean().backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for gradient, parameter in zip(gradients, module.parameters(), strict=True):
            assert relative_error(gradient, parameter.grad) < 1e-5


# --- export


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_trace_is_the_plain_convolution(backend):
    module, x = Conv(backend=backend), torch.randn(1, 3, 6, 6, 6)
    traced = torch.jit.trace(module, x)
    graph = str(traced.inlined_graph)
    assert "aten::_convolution" in graph
    assert "fft" not in graph
    torch.testing.assert_close(traced(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_torch_export_is_the_plain_convolution(backend):
    program = torch.export.export(Conv(backend=backend), (torch.randn(1, 3, 6, 6, 6),))
    graph = program.graph_module.print_readable(print_output=False)
    assert "conv3d" in graph
    assert "fft" not in graph


# --- the choice of a backend


@pytest.mark.parametrize(
    "shape, k, training, expected",
    [
        ((1, 48, 48, 48, 48), 21, True, "fft"),
        ((1, 48, 48, 48, 48), 21, False, "fft"),
        ((1, 192, 12, 12, 12), 3, True, "mixed"),
        ((1, 4, 4, 4, 4), 1, True, "direct"),
        ((1, 48, 48, 48, 48), 1, False, "direct"),
    ],
)
def test_auto_takes_the_faster(shape, k, training, expected):
    """Cases where the two differ by an order of magnitude, so that they hold whatever the machine."""
    x, weight = torch.empty(shape), torch.empty(shape[1], 1, k, k, k, requires_grad=training)
    assert ops._choose_backend(x, weight) == expected


def test_auto_knows_of_no_grad(monkeypatch):
    monkeypatch.setattr(ops, "cheapest_remembered", costs.cheapest)
    monkeypatch.setitem(costs.COSTS, "cpu", costs.Cost(0, 1, 10, 0, 0, 7))  # fft is faster with a backward pass only
    x, weight, _ = make_inputs((1, 2, 4, 4, 4, 3))
    assert ops._choose_backend(x, weight) == "fft"
    assert ops._choose_backend(x.detach(), weight.detach()) == "direct"
    with torch.no_grad():
        assert ops._choose_backend(x, weight) == "direct"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape, k", [((1, 48, 48, 48, 48), 7), ((1, 8, 24, 24, 24), 5), ((2, 16, 12, 12, 12), 3)])
def test_auto_knows_where_conv3d_unfolds(shape, k, training, monkeypatch):
    """It copies each voxel k^3 times, 14.6 GB for the first, in float64 and wherever oneDNN is missing."""
    x, weight = torch.empty(shape), torch.empty(shape[1], 1, k, k, k, requires_grad=training)
    assert ops._choose_backend(x, weight, torch.float64) == "fft"
    with torch.backends.mkldnn.flags(enabled=False):
        assert ops._choose_backend(x, weight) == "fft"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert ops._choose_backend(x, weight) == "fft"


def test_float64_takes_no_memory_for_unfolding(monkeypatch):
    def unfold(*args, **kwargs):
        raise AssertionError("conv3d unfolds in float64")

    x, weight, _ = make_inputs((1, 4, 12, 12, 12, 7), torch.float64)
    expected = depthwise_conv3d(x, weight, backend="direct")
    monkeypatch.setattr(torch.nn.functional, "conv3d", unfold)
    y = depthwise_conv3d(x, weight)
    y.sum().backward()
    torch.testing.assert_close(y, expected)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv3d(x.float(), weight), expected.float())  # float64 by its weight


def test_multiplies_inside_the_map_are_counted():
    """A kernel of ones on a map of ones gives the number of products at each voxel."""
    for n, k in ((1, 5), (4, 3), (6, 21), (30, 7)):
        line = torch.nn.functional.conv1d(torch.ones(1, 1, n), torch.ones(1, 1, k), padding=k // 2)
        assert costs.overlaps(n, k) == line.sum()


@pytest.mark.parametrize(
    "n, expected",
    [(1, 2), (9, 10), (11, 12), (25, 32), (58, 60), (68, 72), (106, 112), (130, 144), (153, 160), (161, 168)],
)
def test_good_size(n, expected):
    assert fft_conv.good_size(n) == expected


# --- errors


@pytest.mark.parametrize(
    "name, value, change",
    [
        ("x", "(2, 4, 4, 4)", {"x": torch.zeros(2, 4, 4, 4)}),
        ("x", "(0, 2, 4, 4, 4)", {"x": torch.zeros(0, 2, 4, 4, 4)}),
        ("x", "(1, 2, 4, 0, 4)", {"x": torch.zeros(1, 2, 4, 0, 4)}),
        ("x", "torch.int64", {"x": torch.zeros(1, 2, 4, 4, 4, dtype=torch.int64)}),
        ("weight", "(2, 3, 3, 3)", {"weight": torch.zeros(2, 3, 3, 3)}),
        ("weight", "(2, 2, 3, 3, 3)", {"weight": torch.zeros(2, 2, 3, 3, 3)}),
        ("weight", "(2, 1, 3, 3, 5)", {"weight": torch.zeros(2, 1, 3, 3, 5)}),
        ("weight", "4", {"weight": torch.zeros(2, 1, 4, 4, 4)}),
        ("weight", "3", {"weight": torch.zeros(3, 1, 3, 3, 3)}),
        ("weight", "torch.int32", {"weight": torch.zeros(2, 1, 3, 3, 3, dtype=torch.int32)}),
        ("weight", "meta", {"weight": torch.zeros(2, 1, 3, 3, 3, device="meta")}),
        ("bias", "(3,)", {"bias": torch.zeros(3)}),
        ("bias", "(2, 1)", {"bias": torch.zeros(2, 1)}),
        ("bias", "torch.bool", {"bias": torch.zeros(2, dtype=torch.bool)}),
        ("backend", "'winograd'", {"backend": "winograd"}),
    ],
)
def test_error_names_argument_and_value(name, value, change):
    arguments = {"x": torch.zeros(1, 2, 4, 4, 4), "weight": torch.zeros(2, 1, 3, 3, 3), "bias": None, **change}
    with pytest.raises(ValueError) as error:
        depthwise_conv3d(**arguments)
    assert str(error.value).startswith(name)
    assert value in str(error.value)
