"""Functions as CUDA graphs: what the GPU takes for them, without Python."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(function: Callable[[], object], calls_before: int = 1) -> Callable[[], None]:
    """What replays the work that a function gives to the GPU.

    Args:
        function: reads and writes the same memory in every call.
        calls_before: outside the graph, in which kernels are compiled and libraries choose theirs.

    Raises:
        RuntimeError: the function cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(calls_before):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    replay: Callable[[], None] = graph.replay
    return replay
