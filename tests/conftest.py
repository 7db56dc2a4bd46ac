import functools
import multiprocessing.util
import os
from collections import Counter

# Tests run side by side: threads that wait for one another would take the cores from the other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from monai.bundle.config_item import ComponentLocator

from rep3d import Rep3D

multiprocessing.util.get_temp_dir()  # made here, not where the app keeps its temporary files while a test runs it

TINY = {"feature_size": (4, 8, 8, 8), "hidden_size": 16, "kernel_size": 5}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _components():
    """MONAI looks through all of its modules for each config that it parses: here once for all."""
    find = functools.cache(functools.partial(ComponentLocator._find_classes_or_functions, ComponentLocator()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ComponentLocator, "_find_classes_or_functions", lambda _, modules: find(tuple(modules)))
        yield


@pytest.fixture(scope="session")
def tiny_rep3d():
    """Build a small network: one input channel and three classes."""

    def build(**arguments) -> Rep3D:
        return Rep3D(1, 3, **{**TINY, **arguments})

    return build


@pytest.fixture(scope="session")
def relative_error():
    """Largest difference of two tensors in units of the largest expected value."""

    def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
        assert actual.shape == expected.shape
        difference = (actual.double() - expected.double()).abs().max()
        return (difference / expected.double().abs().max().clamp(min=1e-30)).item()

    return error


def pytest_collection_modifyitems(items):
    """Files with many slow tests first, then those with many, so that no process is left with them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    every = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -every[item.path]))
