import logging

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from rep3d import inference
from rep3d.inference import segment_each


class Reader:
    """A transform that knows good and bad files, and says which were read."""

    def __init__(self, bad: dict) -> None:
        self.bad, self.read = bad, []

    def __call__(self, item):
        self.read.append(item["image"])
        if item["image"] in self.bad:
            raise self.bad[item["image"]]
        return {"image": torch.ones(1, 2, 2, 2)}


class Results:
    """A postprocessing that gives what a network's output is after it was saved."""

    def __call__(self, item):
        return {**item, "pred": MetaTensor(item["pred"])}


def segment(names: str, **bad: BaseException):
    """Run each of the named files; return what was read, how many were segmented, and the evaluator."""
    reader = Reader(bad)
    dataset = Dataset([{"image": name} for name in names], reader)
    evaluator = SupervisedEvaluator("cpu", DataLoader(dataset), nn.Identity(), postprocessing=Results())
    segmented: list = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: segmented.append(reader.read[-1]))
    return reader, segmented, evaluator, evaluator.data_loader


def test_good_files():
    reader, segmented, evaluator, loader = segment("abc")
    segment_each(evaluator, loader, ".")
    assert reader.read == segmented == ["a", "b", "c"]


@pytest.mark.parametrize("bad", ["a", "b", "d", "ab", "ac", "abd", "abcd"])
def test_every_file_is_tried_once(bad, caplog):
    reader, segmented, evaluator, loader = segment("abcd", **{name: ValueError(f"{name} is broken") for name in bad})
    with pytest.raises(RuntimeError, match=rf"^{len(bad)} of 4 case\(s\) could not be segmented") as raised:
        segment_each(evaluator, loader, ".")
    assert reader.read == ["a", "b", "c", "d"]
    assert segmented == [name for name in "abcd" if name not in bad]
    assert str(raised.value).splitlines()[1:] == [f"  {name}: {name} is broken" for name in bad]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"skipped {name}: {name} is broken" for name in bad
    ]


def test_the_reason_is_one_line_and_the_root_cause():
    _, _, evaluator, loader = segment("ab", a=ValueError("first line\nsecond line"), b=ValueError())
    with pytest.raises(RuntimeError) as raised:
        segment_each(evaluator, loader, ".")
    assert str(raised.value).splitlines()[1:] == ["  a: first line", "  b: ValueError"]


def test_interruption_stops():
    reader, _, evaluator, loader = segment("abc", b=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        segment_each(evaluator, loader, ".")
    assert reader.read == ["a", "b"]


def test_the_evaluator_is_left_as_it_was():
    _, _, evaluator, loader = segment("ab", a=ValueError("broken"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="1 of 2"):
            segment_each(evaluator, loader, ".")
    assert not evaluator.logger.disabled


@pytest.mark.parametrize("is_first, total", [(True, 2), (False, 0)])
def test_the_first_process_shows_the_progress(is_first, total, monkeypatch):
    totals = []
    progress = inference.Progress
    monkeypatch.setattr(inference, "is_first_process", lambda: is_first)
    monkeypatch.setattr(inference, "Progress", lambda *args: totals.append(args[0]) or progress(*args))
    _, segmented, evaluator, loader = segment("ab")
    segment_each(evaluator, loader, ".")
    assert (totals, segmented) == ([total], ["a", "b"])
