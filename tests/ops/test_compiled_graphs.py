"""What `torch.compile` makes of the operator: one graph, of the backend that was asked for, and of no older kernel."""

import pytest
import torch

from rep3d import depthwise_conv3d
from rep3d.ops.fft_conv import KernelSpectra

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backend, transforms", [("direct", False), ("fft", True), ("mixed", True)])
def test_one_graph_of_the_operations_of_the_backend(backend, transforms):
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    x, weight = torch.randn(2, 3, 5, 6, 7), torch.randn(3, 1, 7, 7, 7, requires_grad=True)
    compiled = torch.compile(lambda *tensors: depthwise_conv3d(*tensors, backend=backend), fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x, weight), depthwise_conv3d(x, weight, backend=backend))
    (graph,) = graphs
    parts = [part.graph for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
    operations = {node.target for part in parts for node in part.nodes}
    assert (torch.fft.rfftn in operations) == transforms


def test_kept_spectra_are_not_part_of_a_graph():
    """They would be those of the kernel as it was."""
    torch.compiler.reset()
    weight, spectra, x = torch.randn(2, 1, 3, 3, 3), KernelSpectra(), torch.randn(1, 2, 4, 4, 4)

    def convolve(x, weight):
        return depthwise_conv3d(x, weight, backend="fft", spectra=spectra)

    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x, weight), depthwise_conv3d(x, weight))
        weight.mul_(2)
    assert not spectra.entries
