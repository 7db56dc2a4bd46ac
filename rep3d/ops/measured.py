"""Which backend of `depthwise_conv3d` is fastest, by trying them at the first call of a kind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from rep3d.ops.costs import Call

# Device types on which `auto` measures; without them it goes by what it expects.
DEVICES = set() if os.environ.get("REP3D_MEASURE") == "0" else {"cuda"}
WORTH_TRYING = 30.0  # times the lowest expectation
WORTH_REPEATING = 3.0  # times the shortest time so far
ROUNDS = 5

Trial = Callable[[], None]
MakeTrial = Callable[[Call, str], Trial]
Costs = Callable[[Call], Mapping[str, float]]
_fastest: dict[Call, str] = {}
_measuring = threading.Lock()


def measures(device: torch.device) -> bool:
    """Whether `auto` may try the backends now: not while a CUDA graph is captured, nor where bits are to repeat."""
    if device.type not in DEVICES or torch.are_deterministic_algorithms_enabled():
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def fastest(call: Call, expected_costs: Costs, make_trial: MakeTrial) -> str:
    """The backend that takes the least time; remembered for calls of the same kind.

    Args:
        call: the kind of call.
        expected_costs: (call) -> what each backend is expected to take, in any unit: hopeless ones are not tried.
        make_trial: (call, backend) -> one pass, forward and, where the call trains, backward.
    """
    if call not in _fastest:
        with _measuring:
            if call not in _fastest:
                # In a thread of its own: there are no transforms, autocast, hooks or grad mode of the caller.
                with ThreadPoolExecutor(1) as thread:
                    _fastest[call] = thread.submit(_measure, call, expected_costs(call), make_trial).result()
    return _fastest[call]


def _measure(call: Call, costs: Mapping[str, float], make_trial: MakeTrial) -> str:
    by_cost = sorted(costs, key=lambda backend: costs[backend])
    best, shortest = by_cost[0], float("inf")
    for backend in by_cost:
        if costs[backend] > WORTH_TRYING * costs[by_cost[0]]:
            break
        try:
            trial = make_trial(call, backend)
            trial()  # memory, and plans of the transforms
            seconds = _seconds(trial, call.device)
            if seconds < WORTH_REPEATING * shortest:
                seconds = min(_seconds(trial, call.device) for _ in range(ROUNDS))
        except RuntimeError:  # mostly too little memory; where it is needed after all, the call itself says so
            continue
        if seconds < shortest:
            best, shortest = backend, seconds
    return best


def _seconds(trial: Trial, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    trial()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
