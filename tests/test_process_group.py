"""Which process this is, alone and among others."""

import pytest
import torch.distributed as dist

from rep3d.process_group import is_distributed, is_first_process


def test_a_process_by_itself():
    assert not is_distributed() and is_first_process()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_among_others(rank, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    assert is_distributed()
    assert is_first_process() == (rank == 0)


def test_pytorch_without_its_part_for_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.delattr(dist, "is_initialized")
    assert not is_distributed() and is_first_process()
