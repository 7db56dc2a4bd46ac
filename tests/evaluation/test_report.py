import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from rep3d.evaluation.pictures import save_picture
from rep3d.evaluation.report import dice_table, write_report


def test_dice_table():
    nan, labels = float("nan"), ("left|right", "tumour", "none")
    dices = {"a": (0.5, 0.9, nan), "c": (0.7, nan, nan), "d": (0.9, 0.7, nan)}
    scores = {case: {n: {"dice": d} for n, d in zip(labels, row, strict=True)} for case, row in dices.items()}
    assert dice_table(scores).splitlines() == [
        "| label | mean | std | median | min | cases |",
        "| --- | --- | --- | --- | --- | --- |",
        "| left/right | 0.700 | 0.163 | 0.700 | 0.500 | 3 |",
        "| tumour | 0.800 | 0.100 | 0.800 | 0.700 | 2 |",
        "| none | - | - | - | - | 0 |",
        "| mean | 0.750 | 0.047 | 0.700 | 0.700 | 3 |",
    ]


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that what opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while (opened := self.open.pop()) != tag:
            assert opened == "tr"

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_one_page(tmp_path):
    picture = save_picture(Figure(), tmp_path / "curve.png")
    path = write_report(
        tmp_path / "report",
        title="Rep3D <Hippocampus>",
        facts={"Network": "<script>alert(1)</script>"},
        table=dice_table({"a": {"head & tail": {"dice": 0.25}}}),
        pictures=[("Loss > 0", picture)],
        next_commands=["python -m monai.bundle run < x"],
    )
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link"} & {tag for tag, _ in page.tags} and not re.search("https?:", text)
    for expected in ("Rep3D <Hippocampus>", "<script>alert(1)</script>", "head & tail", "0.250", "Loss > 0",
                     "python -m monai.bundle run < x", "Research software, not a medical device."):  # fmt: skip
        assert expected in page.text
    (source,) = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture.read_bytes()


def test_report_without_anything(tmp_path):
    assert Page(write_report(tmp_path, title="", facts={}, table="", pictures=[], next_commands=[]).read_text())


def test_report_errors(tmp_path):
    rest = {"title": "", "facts": {}, "table": "", "next_commands": []}
    with pytest.raises(FileNotFoundError, match="gone.png: expected a PNG"):
        write_report(tmp_path / "r", pictures=[("", tmp_path / "gone.png")], **rest)
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ValueError, match="a.png: expected a PNG"):
        write_report(tmp_path / "r", pictures=[("", tmp_path / "a.png")], **rest)
    assert not (tmp_path / "r").exists()
