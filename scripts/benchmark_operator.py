"""Time the depthwise convolution against its peers, side by side: the tables of docs/performance.md.

    python scripts/benchmark_operator.py --threads 2 --output_dir runs/benchmark_operator

Prints Markdown tables and leaves them as CSV, with a plot of the cost against the kernel size, in `output_dir`:
milliseconds (median of `--repeats` rounds that take turns), the largest error in units of the largest value that
`direct` gives, and the memory that a training pass takes beside its arguments.
"""

from __future__ import annotations

import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import matplotlib
import torch
import torch.nn.functional as F
from fire.decorators import SetParseFn
from tqdm import tqdm

from rep3d import depthwise_conv3d
from rep3d.console.commands import run_command, switch
from rep3d.console.tables import markdown_table
from rep3d.files import write_csv
from rep3d.ops.fft_conv import KernelSpectra
from rep3d.training.cpu import keep_freed_memory

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ResultT = TypeVar("ResultT")


class Case(NamedTuple):
    batch: int
    channels: int
    edge: int  # of the map, in voxels
    k: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.edge}^3"


# The encoder stages of the network for patches of 96^3 and 48^3, and what lies around them.
CASES = tuple(
    Case(*case)
    for case in (
        *((1, 48, 48, k) for k in (1, 3, 5, 7, 11, 21, 31)),
        *((1, 96, 24, k) for k in (3, 7, 21)),
        *((1, 192, 12, k) for k in (3, 7, 21)),
        *((1, 384, 6, k) for k in (3, 5, 21)),
        (2, 48, 24, 21),
        (2, 96, 12, 3),
        (4, 32, 24, 5),
        (4, 16, 40, 13),
        (1, 16, 96, 3),
        (1, 16, 96, 21),
    )
)
QUICK_CASES = (Case(1, 8, 8, 3), Case(2, 4, 12, 7))
MEMORY_CASES = (Case(1, 48, 48, 21), Case(1, 48, 96, 21), Case(2, 48, 48, 21), Case(1, 192, 12, 21))
PASSES = ("forward", "forward + backward")
OURS = ("fft", "fft kept", "mixed", "auto")
OF_ONE_PASS = {"fft kept": PASSES[0], "mixed": PASSES[1]}
# The backward pass of `direct` takes minutes at some sizes: where it would take longer than PATIENCE seconds, one call
# is measured on few channels. Its time is linear in them; that of the forward pass is not (vectors of 16 channels).
PATIENCE = 5.0
FEW_CHANNELS = 4
TURN = 0.5  # seconds: a call that takes less is repeated for a quarter of it

Inputs = tuple[torch.Tensor, torch.Tensor]
Operator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x, weight) -> y


@SetParseFn(str, "output_dir", "quick")  # a folder may be called 2024_01_05
def main(
    device: str = "cpu",
    repeats: int = 5,
    threads: int | None = None,
    output_dir: str = "runs/benchmark_operator",
    quick: str | bool = False,
) -> None:
    """Print the tables and what they were measured on.

    Args:
        device: "cpu" or "cuda".
        repeats: rounds per figure, after one that warms up.
        threads: CPU threads; None: PyTorch's choice.
        output_dir: for `speed.csv`, `memory.csv` and `kernel_size.png`.
        quick: two tiny sizes, to try the script itself.
    """
    is_quick = switch("quick", quick)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()  # for all alike, as in training: page faults hide what the operators cost
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{device_name(device)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    speed = [row for case in tqdm(QUICK_CASES if is_quick else CASES) for row in speed_rows(case, device, repeats)]
    print(markdown(speed), "\n")
    if any("*" in row["direct ms"] for row in speed):
        print(f"\\* backward: one call on {FEW_CHANNELS} channels, times channels / {FEW_CHANNELS}\n")
    memory = [memory_row(case, device) for case in tqdm(QUICK_CASES[:1] if is_quick else MEMORY_CASES)]
    print(markdown(memory))
    write_csv(folder / "speed.csv", speed)
    write_csv(folder / "memory.csv", memory)
    plot(speed, folder / "kernel_size.png")


# --- time


def peers() -> dict[str, Operator]:
    """What is measured beside the backends: stock PyTorch in its other layout, and packages that are installed."""

    def channels_last(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv3d(
            x.contiguous(memory_format=torch.channels_last_3d), weight, padding=weight.shape[-1] // 2, groups=x.shape[1]
        )

    found: dict[str, Operator] = {"conv3d channels_last_3d": channels_last}
    try:
        from fft_conv_pytorch import fft_conv
    except ImportError:
        return found
    found["fft-conv-pytorch"] = lambda x, weight: fft_conv(x, weight, padding=weight.shape[-1] // 2, groups=x.shape[1])
    return found


def make_inputs(case: Case, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch, case.channels, *(case.edge,) * 3, generator=generator)
    weight = torch.randn(case.channels, 1, *(case.k,) * 3, generator=generator)
    return x.to(device), weight.to(device)


def make_call(function, inputs: Inputs, name: str) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A function that runs one pass: returns (y,) or (y, grad_x, grad_weight)."""
    x, weight = (tensor.clone().requires_grad_(name == PASSES[1]) for tensor in inputs)
    grad_y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)

    def call():
        y = function(x, weight)
        return (y.detach(), *torch.autograd.grad(y, (x, weight), grad_y)) if y.requires_grad else (y,)

    return call


def backend(name: str):
    """One of OURS; "fft kept" keeps the spectra of the kernel, as the deployed network does."""
    if name == "fft kept":
        spectra = KernelSpectra()
        return lambda x, weight: depthwise_conv3d(x, weight, backend="fft", spectra=spectra)
    return lambda x, weight: depthwise_conv3d(x, weight, backend=name)


def seconds(call) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Seconds of each; every round runs all of them, so that a slow moment of the machine meets all.

    A short call is repeated within its turn, after one that is not timed: what the peer before it leaves in caches and
    allocator costs up to a fifth of a call's time.
    """
    first = {name: seconds(call) for name, call in calls.items()}
    rounds = [{name: turn(call, first[name]) for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in calls}


def turn(call: Callable, expected: float) -> float:
    """Seconds per call."""
    if expected > TURN:
        return seconds(call)
    call()
    number = math.ceil(TURN / expected / 4)
    return seconds(lambda: [call() for _ in range(number)]) / number


def speed_rows(case: Case, device: str, repeats: int) -> list[dict[str, str]]:
    """One row per pass."""
    inputs = make_inputs(case, device)
    few = inputs[0][:, :FEW_CHANNELS], inputs[1][:FEW_CHANNELS]
    functions = {"direct": backend("direct"), **peers(), **{name: backend(name) for name in OURS}}
    forward_seconds: dict[str, float] = {}
    rows = []
    for name in PASSES:
        timed, estimates = {}, {}
        for peer, function in functions.items():
            if OF_ONE_PASS.get(peer, name) != name:
                continue
            estimate = 0.0
            if name == PASSES[1] and peer not in OURS:
                both, forward = (seconds(make_call(function, few, p)) for p in reversed(PASSES))
                estimate = forward_seconds[peer] + max(both - forward, 0) * case.channels / len(few[1])
            if estimate > PATIENCE:
                estimates[peer] = estimate
            else:
                timed[peer] = make_call(function, inputs, name)
        figures = {**medians(timed, repeats), **estimates}
        if name == PASSES[0]:
            forward_seconds = figures
        rows.append(speed_row(case, name, figures, estimates, errors(few, name)))
    return rows


def speed_row(case: Case, name: str, figures: dict[str, float], estimates, error: str) -> dict[str, str]:
    row = {"size": str(case), "k": str(case.k), "pass": name}
    for peer in ("direct", *peers(), *OURS):
        row[f"{peer} ms"] = f"{1000 * figures[peer]:.2f}{'*' * (peer in estimates)}" if peer in figures else "-"
    best = min(figures[peer] for peer in ("direct", "fft", "mixed") if peer in figures)
    row["direct/auto"] = f"{figures['direct'] / figures['auto']:.2f}"
    row["auto/best"] = f"{figures['auto'] / best:.2f}"
    row["error of fft"] = error
    return row


def errors(inputs: Inputs, name: str) -> str:
    """Largest error of every tensor that the pass gives."""
    expected, actual = (make_call(backend(way), inputs, name)() for way in ("direct", "fft"))
    pairs = list(zip(("y", "grad x", "grad weight"), actual, expected, strict=False))
    return ", ".join(f"{part} {(a - e).abs().max() / e.abs().max():.0e}" for part, a, e in pairs[1:] or pairs)


# --- memory


def memory_row(case: Case, device: str) -> dict[str, str]:
    row = {"size": str(case), "k": str(case.k)}
    inputs = make_inputs(case, "cpu")
    arguments = 4 * (2 * inputs[0].numel() + inputs[1].numel())
    row["x + weight + y MB"] = f"{arguments / 1e6:.0f}"
    for name, save_spectra in (("fft", True), ("low memory", False)):
        extra = extra_memory(case, save_spectra, device)
        row[f"{name} extra MB"] = f"{extra / 1e6:.0f}"
        row[f"{name} extra/arguments"] = f"{extra / arguments:.2f}"
    return row


def in_own_process(function: Callable[..., ResultT], *arguments) -> ResultT:
    """What the function returns in a new process, where no measurement meets the memory of another.

    Forked from a process that has loaded the libraries and computed nothing yet, where the system can.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["rep3d.training.cpu"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def extra_memory(case: Case, save_spectra: bool, device: str) -> int:
    """Bytes that a training pass takes at its peak beside x, weight and grad_y, in a process of its own."""
    return in_own_process(training_pass, case, save_spectra, device)


def training_pass(case: Case, save_spectra: bool, device: str) -> int:
    """In the process of its own: run one and return its extra peak memory in bytes."""
    torch.set_num_threads(1)

    def call(case: Case):
        def function(x, weight):
            return depthwise_conv3d(x, weight, backend="fft", save_spectra=save_spectra)

        return make_call(function, make_inputs(case, device), PASSES[1])

    call(Case(1, 1, 4, 3))()  # loads the libraries
    measured = call(case)
    before = peak_memory(device, reset=True)
    measured()
    return peak_memory(device) - before


def peak_memory(device: str, reset: bool = False) -> int:
    """Bytes: resident size of the process on Linux, allocated memory on CUDA. `reset` starts a new peak."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak)


# --- output


def markdown(rows: list[dict[str, str]]) -> str:
    return markdown_table(rows[0], [row.values() for row in rows])


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Milliseconds against the kernel size, for the map size with the most kernel sizes."""
    sizes = [row["size"] for row in rows]
    size = max(sizes, key=sizes.count)
    figure, axes = plt.subplots(1, len(PASSES), figsize=(11, 5), sharey=True, layout="constrained")
    columns = [column for column in rows[0] if column.endswith(" ms")]
    for i, column in enumerate(columns):
        for axis, name in zip(axes, PASSES, strict=True):
            mine = [row for row in rows if row["size"] == size and row["pass"] == name and row[column] != "-"]
            kernels, values = [int(row["k"]) for row in mine], [float(row[column].rstrip("*")) for row in mine]
            axis.plot(kernels, values, color=f"C{i}", marker="o", label=column.removesuffix(" ms"))
    for axis, name in zip(axes, PASSES, strict=True):
        axis.set(title=f"{name}, {size}", xlabel="kernel size", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(columns), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    run_command(main)
