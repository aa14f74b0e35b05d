# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An ONNX model made from the operators of a network."""
from typing import Any

from .onnx_graph import Graph
from .onnx_operators import elementwise, layers, recurrent, reductions, shapes  # noqa: F401, they fill TRANSLATIONS
from .onnx_operators.registry import TRANSLATIONS
from .trace import Trace

__all__ = ['onnx_model']

#: Operators that make constants. MXNet computes what depends on them and on Parameters alone.
_SOURCES = {'zeros', 'ones', 'full', 'arange', 'linspace', 'eye', 'rnn_param_concat'}


def onnx_model(trace: Trace) -> Any:
    """The ``onnx.ModelProto`` that computes what the network computes.

    Parameters
    ----------
    trace : Trace

    Raises
    ------
    NotImplementedError
        If an operator of the network, or one of its attributes, has no counterpart here.
    ValueError
        If an operator serves one batch size only.
    """
    graph = Graph(trace)
    for node in trace.nodes:
        if node.op == 'Dropout':    # with another mode it is random, also of Parameters
            node.require('mode', 'training')
        if node.op == 'null' or graph.fold(node, node.op in TRANSLATIONS or node.op in _SOURCES):
            continue
        if node.op not in TRANSLATIONS:
            raise NotImplementedError(f'net must consist of operators that export_onnx knows (saw: {node.op} in '
                                      f'{node.name})')
        graph.begin(node)
        outputs = TRANSLATIONS[node.op](graph, node)
        node.check_all_read()
        graph.end(node, [outputs] if isinstance(outputs, str) else outputs)
    return graph.finish(trace.heads)
