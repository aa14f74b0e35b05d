# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The translation of MXNet's fused recurrent operator, which has all layers and directions in one node."""
from typing import Any, Dict, List, Tuple

import numpy as np

from .registry import translates

#: Mode -> (ONNX's operator, ONNX's order of MXNet's gates, attributes).
_MODES: Dict[str, Tuple[str, List[int], Dict[str, Any]]] = {
    'lstm': ('LSTM', [0, 3, 1, 2], {}),
    'gru': ('GRU', [1, 0, 2], {'linear_before_reset': 1}),
    'rnn_relu': ('RNN', [0], {'activations': ['Relu']}),
    'rnn_tanh': ('RNN', [0], {'activations': ['Tanh']}),
}


@translates('RNN')
def _translate_rnn(graph, node):
    for name in ('projection_size', 'lstm_state_clip_max', 'lstm_state_clip_min'):
        node.require(name, None)
    node.require('use_sequence_length', False)
    node.require('lstm_state_clip_nan', False)
    node.get('p', 0.)       # dropout between the layers
    op, order, options = _MODES[node.get('mode', None)]
    layers, hidden = node.get('num_layers', None), node.get('state_size', None)
    directions = 1 + bool(node.get('bidirectional', False))
    options = dict(options, hidden_size=hidden, direction=('forward', 'bidirectional')[directions - 1])
    if 'activations' in options:
        options['activations'] = options['activations'] * directions
    data, _, *states = node.inputs
    x, ends = graph.of(data), [[] for _ in states]
    vector = graph.value(node.inputs[1])
    if vector is None:
        node.refuse('parameters that depend on an input')
    for layer, parts in enumerate(_layers(vector, data.shape[2], hidden, layers, directions, order)):
        starts = [_first_state(graph, state, layer, directions) for state in states]
        parameters = [graph.constant(array, data.dtype) for array in parts]
        y, *lasts = graph.add_many(op, 1 + len(states), x, *parameters, '', *starts, **options)
        # (time, direction, batch, hidden) -> (time, batch, direction * hidden)
        if directions == 1:
            x = graph.add('Squeeze', y, graph.constant([1]))
        else:
            x = graph.add('Reshape', graph.add('Transpose', y, perm=[0, 2, 1, 3]), graph.constant([0, 0, -1]))
        for end, last in zip(ends, lasts):
            end.append(last)
    if not node.get('state_outputs', False):
        return x
    return [x] + [end[0] if layers == 1 else graph.add('Concat', *end, axis=0) for end in ends]


def _first_state(graph, state, layer, directions):
    """The first state of one layer; empty if it is 0, which is ONNX's default."""
    if graph.is_zero(state):
        return ''
    bounds = [layer * directions], [(layer + 1) * directions], [0]
    return graph.add('Slice', graph.of(state), *map(graph.constant, bounds))


def _layers(vector, inputs, hidden, count, directions, order):
    """ONNX's W, R and B of each layer, with the directions on the first axis.

    MXNet's vector of all parameters has the weights of all layers, and then the biases of all layers.
    """
    rows, position = len(order) * hidden, 0
    gates = np.arange(rows).reshape(len(order), hidden)[order].ravel()

    def take(*shape):
        nonlocal position
        part = vector[position:position + int(np.prod(shape))].reshape(shape)
        position += part.size
        return part[gates]

    weights = [[(take(rows, directions * hidden if layer else inputs), take(rows, hidden)) for _ in range(directions)]
               for layer in range(count)]
    for pairs in weights:
        biases = [np.concatenate([take(rows), take(rows)]) for _ in pairs]
        yield tuple(map(np.stack, (*zip(*pairs), biases)))
    assert position == vector.size
