"""The picture of a label map: one scale in all panels, the labels where they are, and in their colours."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rep3d.evaluation import preview
from rep3d.io.colors import distinct_colors

LABELS = {"left": 1, "right": 2, "absent": 3}
AFFINE = {"RAS": np.diag([2.0, 2.0, 5.0, 1.0]), "LPS": np.diag([-2.0, -2.0, 5.0, 1.0])}


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """The figure of a scan with two labels: the left one in front, and lower."""

    def drawn(codes, shape=(40, 30, 12), empty=False):
        voxels = np.zeros(shape, np.uint8)
        if not empty:
            voxels[: shape[0] // 4, shape[1] // 2 :, : shape[2] // 2] = 1  # in RAS the first voxels are left
            voxels[-shape[0] // 4 :, : shape[1] // 2] = 2
        image = np.random.default_rng(0).normal(size=shape)
        if codes == "LPS":
            voxels, image = voxels[::-1, ::-1], image[::-1, ::-1]
        kept: list[Figure] = []
        monkeypatch.setattr(preview, "save_picture", lambda figure, path: kept.append(figure) or path)
        volumes = {name: float((voxels == index).sum()) for name, index in LABELS.items()}
        preview.draw_preview(image, AFFINE[codes], voxels, LABELS, volumes, tmp_path / "a.png")
        (figure,) = kept
        FigureCanvasAgg(figure).draw()
        return figure

    return drawn


@pytest.mark.parametrize("shape", [(40, 30, 12), (122, 101, 30), (40, 30, 1)])
def test_one_scale(shape, draw):
    sizes, scales = np.array(shape) * (2, 2, 5), []
    for axes, (across, up) in zip(draw("RAS", shape).axes, ((0, 1), (0, 2), (1, 2), (0, 2)), strict=True):
        panel = axes.get_window_extent()
        scales += [panel.width / sizes[across], panel.height / sizes[up]]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)


@pytest.mark.parametrize("codes", AFFINE)
def test_labels_stand_where_they_are(codes, draw):
    """On the screen the patient's left is on the right; the lower label at the bottom."""
    front = draw(codes).axes[3].images[1].get_array()
    assert front.shape == (12, 40, 4)
    shown = front[..., 3] > 0
    assert shown[6:, 30:].all() and not shown[:6, 30:].any()  # label 1, at low indices of R
    assert shown[:, :10].all() and not shown[:, 10:30].any()
    colors = distinct_colors(LABELS)
    np.testing.assert_allclose(front[8, 35, :3], colors["left"], atol=1e-5)  # the nearest keeps its colour
    far = front[8, 3, :3]
    np.testing.assert_allclose(far / far.max(), np.array(colors["right"]) / max(colors["right"]), atol=1e-5)
    assert far.max() < 0.5 * max(colors["right"])


def test_legend_names_what_is_there(draw):
    texts = [text.get_text() for text in draw("RAS").legends[0].get_texts()]
    assert texts == ["right, 1800 ml", "left, 900 ml"]
    figure = draw("RAS", empty=True)
    assert not figure.legends and figure.texts[0].get_text() == "no label was found"
