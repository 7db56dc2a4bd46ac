"""The picture of three planes: a millimetre is as long in each of them, across and up."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rep3d.evaluation import correction_picture
from rep3d.interactive.prompts import box, point


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((122, 101, 30), (3.0, 3.0, 3.0)), ((64, 64, 9), (0.7, 0.7, 5.0)), ((5, 90, 300), (2.0, 1.0, 0.5)),
     ((40, 30, 1), (1, 1, 4))],
)  # fmt: skip
def test_one_scale(shape, spacing, tmp_path, monkeypatch):
    kept: list[Figure] = []
    monkeypatch.setattr(correction_picture, "save_picture", lambda figure, path: kept.append(figure) or path)
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    centre = [n // 2 for n in shape]
    prompts = [point(centre, spacing), box((0, 0, 0), centre, spacing, False)]
    correction_picture.draw_planes(
        torch.rand(shape), affine, torch.zeros(shape, dtype=torch.bool), prompts, tmp_path / "a.png"
    )
    (figure,) = kept
    FigureCanvasAgg(figure).draw()
    scales, sizes = [], [n * s for n, s in zip(shape, spacing, strict=True)]
    for axes, (across, up) in zip(figure.axes, ((0, 1), (0, 2), (1, 2)), strict=True):
        panel = axes.get_window_extent()
        scales += [panel.width / sizes[across], panel.height / sizes[up]]
        written = [axes.title.get_window_extent(), axes.xaxis.label.get_window_extent()]
        assert min(text.y0 for text in written) >= 0 and max(text.y1 for text in written) <= figure.bbox.height
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(one.x1 <= other.x0 for one, other in zip(titles, titles[1:], strict=False))
    assert max(figure.get_size_inches()) < 16
