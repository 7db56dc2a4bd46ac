"""`auto` where it measures, as on CUDA, tried on the CPU."""

import runpy
import time

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from rep3d import depthwise_conv3d
from rep3d.ops import costs, measured
from rep3d.ops import depthwise_conv3d as ops
from rep3d.ops.fft_conv import KernelSpectra

SHAPE = (2, 3, 6, 5, 4)
WANTED = [(True, True), (True, False), (False, True), (False, False)]  # gradients of x and of the weight


@pytest.fixture
def tried(monkeypatch):
    """The backends that were tried, in order, while `auto` measures on the CPU."""
    calls = []
    make_trial = ops._make_trial

    def watched(call, backend):
        calls.append(backend)
        return make_trial(call, backend)

    monkeypatch.setattr(measured, "DEVICES", {"cpu"})
    monkeypatch.setattr(measured, "_fastest", {})
    monkeypatch.setattr(ops, "_make_trial", watched)
    return calls


@pytest.fixture
def seconds(monkeypatch):
    """What each backend seems to take; the trials run all the same."""
    table = {"direct": 3.0, "mixed": 2.0, "fft": 1.0}

    def times(trial, device):
        trial()
        return table[trial.backend]

    def with_name(call, backend, make_trial=ops._make_trial):
        trial = make_trial(call, backend)
        trial.backend = backend
        return trial

    monkeypatch.setattr(ops, "_make_trial", with_name)
    monkeypatch.setattr(measured, "_seconds", times)
    return table


def inputs(requires_grad=True, size=6):
    shapes = (2, 3, size, 5, 4), (3, 1, 5, 5, 5)
    return [torch.randn(shape, requires_grad=requires_grad) for shape in shapes]


def test_each_kind_of_call_is_measured_once(tried, monkeypatch):
    monkeypatch.setattr(measured, "WORTH_TRYING", float("inf"))
    x, weight = inputs()
    for _ in range(2):
        depthwise_conv3d(x, weight).sum().backward()
    assert sorted(tried) == ["direct", "fft", "mixed"]
    with torch.no_grad():
        for _ in range(2):
            depthwise_conv3d(x, weight)
    assert sorted(tried[3:]) == ["direct", "fft"]
    depthwise_conv3d(*inputs(size=7))
    depthwise_conv3d(x.detach(), weight)
    assert len(measured._fastest) == 4


def test_the_fastest_is_taken(tried, seconds, monkeypatch):
    monkeypatch.setattr(measured, "WORTH_TRYING", float("inf"))
    x, weight = inputs()
    for backend in ("mixed", "direct", "fft"):
        seconds[backend] = 0.5 * min(seconds.values())
        measured._fastest.clear()
        assert ops._choose_backend(x, weight) == backend


def test_hopeless_ones_are_not_tried(tried, monkeypatch):
    hopeless = {"fft": 1.0, "mixed": 29.0, "direct": 31.0}
    monkeypatch.setattr(ops, "expected_costs", lambda call: hopeless)
    ops._choose_backend(*inputs())
    assert tried == ["fft", "mixed"]


def test_one_that_fails_is_not_taken(tried, monkeypatch):
    make_trial = ops._make_trial

    def no_memory(call, backend):
        if backend != "direct":
            raise torch.OutOfMemoryError("too little")
        return make_trial(call, backend)

    monkeypatch.setattr(ops, "_make_trial", no_memory)
    assert ops._choose_backend(*inputs()) == "direct"


@pytest.fixture
def measure(monkeypatch):
    """(seconds, expected costs) -> the backend that is taken, and how often each ran. One without seconds fails."""

    def run(seconds, expected):
        runs = []

        def make_trial(call, backend):
            if seconds[backend] is None:
                raise torch.OutOfMemoryError("too little")
            trial = lambda: runs.append(backend)  # noqa: E731
            trial.backend = backend
            return trial

        def times(trial, device):
            trial()
            return seconds[trial.backend]

        monkeypatch.setattr(measured, "_seconds", times)
        taken = measured._measure(costs.Call(SHAPE, 5), expected, make_trial)
        return taken, {backend: runs.count(backend) for backend in runs}

    return run


def test_how_often_each_runs(measure):
    expected = {"fft": 2.0, "direct": 60.0, "mixed": 60.1}
    assert measure({"fft": 2.0, "direct": 5.9, "mixed": 0.1}, expected) == ("fft", {"fft": 7, "direct": 7})
    assert measure({"fft": 2.0, "direct": 6.0, "mixed": 0.1}, expected) == ("fft", {"fft": 7, "direct": 2})
    assert measure({"fft": 2.0, "direct": 2.0, "mixed": 0.1}, expected)[0] == "fft"
    assert measure({"fft": None, "direct": 2.0, "mixed": 0.1}, expected) == ("direct", {"direct": 7})


def test_time_of_a_trial(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    start = time.perf_counter()
    seconds = measured._seconds(lambda: time.sleep(0.02), torch.device("cpu"))
    assert 0.02 <= seconds <= time.perf_counter() - start and not waited
    measured._seconds(lambda: waited.append("trial"), torch.device("cuda"))
    assert waited == [torch.device("cuda"), "trial", torch.device("cuda")]


@pytest.mark.parametrize("keeps_kernel_spectrum", [False, True])
@pytest.mark.parametrize("needs_x, needs_weight", WANTED)
def test_what_is_measured_is_the_call(needs_x, needs_weight, keeps_kernel_spectrum, monkeypatch):
    monkeypatch.setattr(measured, "measures", lambda device: device == torch.device("meta"))
    monkeypatch.setattr(measured, "fastest", lambda call, *_: call)
    x = torch.empty(SHAPE, device="meta", requires_grad=needs_x)
    weight = torch.empty(3, 1, 5, 5, 5, device="meta", requires_grad=needs_weight)
    expected = costs.Call(
        SHAPE,
        k=5,
        dtype=torch.float64,
        device=x.device,
        needs_x=needs_x,
        needs_weight=needs_weight,
        saves_spectra=False,
        keeps_kernel_spectrum=keeps_kernel_spectrum and not (needs_x or needs_weight),
    )
    chosen = ops._choose_backend(x, weight, torch.float64, False, keeps_kernel_spectrum)
    assert chosen == expected
    plain = expected._replace(dtype=torch.float32, saves_spectra=True, keeps_kernel_spectrum=False)
    assert ops._choose_backend(x, weight) == plain
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # a graph cannot measure
    monkeypatch.setattr(ops, "cheapest", lambda call: (call,))
    assert ops._choose_backend(x, weight) == (plain,)


@pytest.mark.parametrize("dtype, save_spectra, spectra", [(torch.float32, False, True), (torch.float64, True, False)])
def test_what_the_caller_says_counts(dtype, save_spectra, spectra, monkeypatch):
    calls = []
    monkeypatch.setattr(measured, "measures", lambda device: True)
    monkeypatch.setattr(measured, "fastest", lambda call, *_: calls.append(call) or "direct")
    x, weight = inputs(requires_grad=False)
    told = {"save_spectra": False} if not save_spectra else {}
    depthwise_conv3d(x, weight.to(dtype), **told, spectra=KernelSpectra() if spectra else None)
    ((_, _, *taken),) = calls
    assert taken == [dtype, x.device, False, False, save_spectra, spectra, dtype == torch.float64]


@pytest.mark.parametrize("needs_x, needs_weight", WANTED)
def test_a_trial_does_what_the_call_will(needs_x, needs_weight, monkeypatch):
    call = costs.Call(
        SHAPE,
        k=5,
        dtype=torch.float64,
        device=torch.device("meta"),
        needs_x=needs_x,
        needs_weight=needs_weight,
        saves_spectra=False,
        keeps_kernel_spectrum=not needs_x,
    )
    passes, wanted = [], []
    monkeypatch.setattr(ops, "_compute", lambda *args: passes.append(args) or args[0] * args[1].sum())
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs, gradient: wanted.extend(inputs))
    ops._make_trial(call, "mixed")()
    ((x, weight, bias, backend, save_spectra, spectra),) = passes
    assert [x.shape, weight.shape] == [call.shape, (3, 1, 5, 5, 5)]
    assert {(tensor.dtype, tensor.device.type) for tensor in (x, weight)} == {(torch.float64, "meta")}
    assert (x.requires_grad, weight.requires_grad) == (needs_x, needs_weight)
    assert [any(tensor is one for one in wanted) for tensor in (x, weight)] == [needs_x, needs_weight]
    assert (bias, backend, save_spectra) == (None, "mixed", False)
    assert (spectra is None) == needs_x


def test_all_that_fail_leave_the_expectation(tried, monkeypatch):
    monkeypatch.setattr(ops, "_make_trial", lambda call, backend: torch.zeros(2) + torch.zeros(3))
    x, weight = inputs()
    assert ops._choose_backend(x, weight) == costs.cheapest(next(iter(measured._fastest)))


@pytest.mark.parametrize("how", ["device", "deterministic"])
def test_it_can_be_turned_off(how, tried, monkeypatch):
    if how == "device":
        monkeypatch.setattr(measured, "DEVICES", set())
    torch.use_deterministic_algorithms(how == "deterministic")
    try:
        depthwise_conv3d(*inputs())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not tried


@pytest.mark.parametrize("captured", [False, True])
def test_nor_while_a_graph_is_captured(captured, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
    assert measured.measures(torch.device("cuda")) != captured


@pytest.mark.parametrize("value, devices", [("0", set()), ("1", {"cuda"}), (None, {"cuda"})])
def test_nor_where_the_environment_says_so(value, devices, monkeypatch):
    if value is None:
        monkeypatch.delenv("REP3D_MEASURE", raising=False)
    else:
        monkeypatch.setenv("REP3D_MEASURE", value)
    assert runpy.run_path(measured.__file__)["DEVICES"] == devices


def test_what_the_caller_has_set_is_left_alone(tried, relative_error):
    """Random numbers, gradients, autocast, function transforms, and checkpointing, which counts saved tensors."""
    x, weight = inputs()
    expected = torch.autograd.grad(depthwise_conv3d(x, weight, backend="direct").square().sum(), (x, weight))
    state = torch.get_rng_state()
    loss = lambda x, weight: depthwise_conv3d(x, weight).square().sum()  # noqa: E731
    with torch.autocast("cpu", dtype=torch.bfloat16):
        depthwise_conv3d(x, weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None and weight.grad is None
    for actual in (
        torch.autograd.grad(checkpoint(loss, x, weight, use_reentrant=False), (x, weight)),
        torch.func.grad(loss, (0, 1))(x, weight),
    ):
        for gradient, reference in zip(actual, expected, strict=True):
            assert relative_error(gradient, reference) < 1e-5
        measured._fastest.clear()
    per_sample = torch.func.vmap(lambda sample: depthwise_conv3d(sample[None], weight)[0])(x)
    assert relative_error(per_sample, depthwise_conv3d(x, weight, backend="direct")) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(monkeypatch, relative_error):
    monkeypatch.setattr(measured, "_fastest", {})
    x, weight = (tensor.detach().cuda().requires_grad_() for tensor in inputs())
    y = depthwise_conv3d(x, weight)
    (backend,) = measured._fastest.values()
    assert relative_error(y, depthwise_conv3d(x, weight, backend=backend)) == 0
