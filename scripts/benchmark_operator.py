"""Time the backends of the depthwise convolution against each other at the network's sizes.

    python scripts/benchmark_operator.py --device cpu --threads 2

Prints a Markdown table: milliseconds, median of `--repeats` calls, and the largest error of `fft` in units of the
largest value that `direct` gives.
"""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path

import fire
import torch
from tqdm import tqdm

from rep3d import depthwise_conv3d

# Channels, edge of the map, kernel size, at batch 1: a small case that stock PyTorch finishes on any machine, and the
# four encoder stages for a patch of 96^3.
CASES = (
    (4, 40, 21),
    *((channels, edge, k) for channels, edge in ((48, 48), (96, 24), (192, 12), (384, 6)) for k in (3, 7, 21)),
)
QUICK_CASES = ((8, 8, 3), (4, 12, 7))
PASSES = ("forward", "forward + backward")
# The backward pass of `direct` takes minutes at some sizes: where one call would take longer than PATIENCE seconds, it
# is measured on few channels. Its time is linear in them; that of the forward pass is not (vectors of 16 channels).
PATIENCE = 10.0
FEW_CHANNELS = 4
HEADER = ("channels", "map", "k", "pass", "direct ms", "fft ms", "auto ms", "direct/fft", "direct/auto", "error of fft")


def main(device: str = "cpu", repeats: int = 5, threads: int | None = None, quick: bool = False) -> None:
    """Print the table and what it was measured on.

    Args:
        device: "cpu" or "cuda".
        repeats: calls per figure, after one that warms up.
        threads: CPU threads; None: PyTorch's choice.
        quick: two tiny sizes, to try the script itself.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    print(f"{device_name(device)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print(benchmark(QUICK_CASES if quick else CASES, device, repeats))


def benchmark(cases, device: str = "cpu", repeats: int = 5) -> str:
    """The table as Markdown, two rows for each (channels, edge, kernel size)."""
    rows, any_estimated = [HEADER, ("---",) * len(HEADER)], False
    for case in tqdm(cases):
        directs, estimated = direct_seconds(case, device, repeats)
        any_estimated |= estimated
        for name, direct, mark in zip(PASSES, directs, ("", "*" * estimated), strict=True):
            fft, auto = (median_seconds(make_call(case, name, device, backend), repeats) for backend in ("fft", "auto"))
            figures = (f"{1000 * direct:.2f}{mark}", f"{1000 * fft:.2f}", f"{1000 * auto:.2f}")
            ratios = (f"{direct / fft:.2f}", f"{direct / auto:.2f}")
            sizes = (str(case[0]), f"{case[1]}^3", str(case[2]))
            rows.append((*sizes, name, *figures, *ratios, errors(case, name, device)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if any_estimated:
        table += f"\n\n\\* backward: one call on {FEW_CHANNELS} channels, times channels / {FEW_CHANNELS}"
    return table


def make_call(case, name: str, device: str, backend: str):
    """A function that runs one pass: returns (y,) or (y, grad_x, grad_weight)."""
    channels, edge, k = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, edge, edge, edge, generator=generator).to(device)
    weight = torch.randn(channels, 1, k, k, k, generator=generator).to(device)
    grad_y = torch.randn(x.shape, generator=generator).to(device)

    def forward():
        with torch.no_grad():
            return (depthwise_conv3d(x, weight, backend=backend),)

    def forward_backward():
        inputs = x.requires_grad_(), weight.requires_grad_()
        y = depthwise_conv3d(*inputs, backend=backend)
        return (y.detach(), *torch.autograd.grad(y, inputs, grad_y))

    return forward if name == PASSES[0] else forward_backward


def seconds(call) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(call, repeats: int) -> float:
    call()
    return statistics.median(seconds(call) for _ in range(repeats))


def direct_seconds(case, device: str, repeats: int) -> tuple[tuple[float, float], bool]:
    """Seconds of `direct` for each of PASSES, and whether the second is estimated from few channels."""
    forward = median_seconds(make_call(case, PASSES[0], device, "direct"), repeats)
    few = min(FEW_CHANNELS, case[0])
    few_forward, few_both = (seconds(make_call((few, *case[1:]), name, device, "direct")) for name in PASSES)
    both = forward + (few_both - few_forward) * case[0] / few
    if both > PATIENCE and few < case[0]:
        return (forward, both), True
    return (forward, median_seconds(make_call(case, PASSES[1], device, "direct"), repeats)), False


def errors(case, name: str, device: str) -> str:
    """Largest error of every tensor that the pass gives, on few channels."""
    few = (min(FEW_CHANNELS, case[0]), *case[1:])
    expected, actual = (make_call(few, name, device, backend)() for backend in ("direct", "fft"))
    names = ("y", "grad x", "grad weight")
    pairs = list(zip(names, actual, expected, strict=False))
    return ", ".join(f"{name} {(a - e).abs().max() / e.abs().max():.0e}" for name, a, e in pairs[1:] or pairs)


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    fire.Fire(main)
