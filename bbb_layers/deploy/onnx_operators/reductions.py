# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Translations of operators that reduce or normalize along axes, and of products of matrices."""
import numpy as np

from ..sizes import Linear
from .registry import translates

_REDUCTIONS = {'sum': 'ReduceSum', 'mean': 'ReduceMean', 'max': 'ReduceMax', 'min': 'ReduceMin', 'prod': 'ReduceProd'}


def _reduced_axes(node):
    """The axes over which a node reduces."""
    ndim, axis = node.inputs[0].ndim, node.get('axis', None)
    if axis is None or axis == ():
        return list(range(ndim))
    axes = sorted(number % ndim for number in ((axis,) if isinstance(axis, int) else axis))
    return [number for number in range(ndim) if number not in axes] if node.get('exclude', False) else axes


def _reduced(graph, node, op):
    axes, keepdims = _reduced_axes(node), int(bool(node.get('keepdims', False)))
    node.get('exclude', False)
    x = graph.of(node.inputs[0])
    if op == 'ReduceSum':       # the first whose axes became an input
        result = graph.add(op, x, graph.constant(axes), keepdims=keepdims)
    else:
        result = graph.add(op, x, axes=axes, keepdims=keepdims)
    return result if keepdims or len(axes) < node.inputs[0].ndim else graph.reshape(result, (1,))


@translates(*_REDUCTIONS)
def _translate_reduce(graph, node):
    return _reduced(graph, node, _REDUCTIONS[node.op])


@translates('norm')
def _translate_norm(graph, node):
    node.require('out_dtype', None)
    node.require('ord', 2, 1)
    if node.inputs[0].dtype.kind != 'f':        # MXNet rounds between the steps
        node.refuse(f'an input of type {node.inputs[0].dtype}')
    return _reduced(graph, node, 'ReduceL1' if node.get('ord', 2) == 1 else 'ReduceL2')


@translates('argmax', 'argmin')
def _translate_arg(graph, node):
    data, axis, keepdims = node.inputs[0], node.get('axis', None), int(bool(node.get('keepdims', False)))
    x = graph.of(data)
    if axis is None:
        x, axis, keepdims = graph.reshape(x, (Linear(1, 0),)), 0, 1
    result = graph.add('ArgMax' if node.op == 'argmax' else 'ArgMin', x, axis=axis, keepdims=keepdims)
    result = graph.cast(result, node.outputs[0].dtype)
    return graph.reshape(result, node.outputs[0].shape) if data.ndim == 1 or node.get('axis', None) is None else result


@translates('softmax', 'log_softmax', 'softmin')
def _translate_softmax(graph, node):
    node.require('use_length', False)
    node.require('dtype', None, str(node.inputs[0].dtype))
    x, temperature = graph.of(node.inputs[0]), node.get('temperature', None)
    if temperature not in (None, 1.):
        x = graph.add('Div', x, graph.constant(temperature, node.inputs[0].dtype))
    if node.op == 'softmin':
        x = graph.add('Neg', x)
    return graph.add('LogSoftmax' if node.op == 'log_softmax' else 'Softmax', x, axis=node.get('axis', -1))


@translates('SoftmaxActivation')
def _translate_softmax_activation(graph, node):
    # In the mode 'instance', MXNet sums over the last axis, whatever its documentation says of more than two axes.
    axis = 1 if node.get('mode', 'instance') == 'channel' else -1
    return graph.add('Softmax', graph.of(node.inputs[0]), axis=axis)


@translates('L2Normalization')
def _translate_l2_normalization(graph, node):
    data, mode = node.inputs[0], node.get('mode', 'instance')
    axes = {'instance': range(1, data.ndim), 'channel': [1], 'spatial': range(2, data.ndim)}[mode]
    x = graph.of(data)
    sums = graph.add('ReduceSum', graph.add('Mul', x, x), graph.constant(axes), keepdims=1)
    norm = graph.add('Sqrt', graph.add('Add', sums, graph.constant(node.get('eps', 1e-10), data.dtype)))
    return graph.add('Div', x, norm)


@translates('dot')
def _translate_dot(graph, node):
    node.require('forward_stype', None)
    first, second = node.inputs
    transposed = [node.get(name, False) for name in ('transpose_a', 'transpose_b')]
    if second.ndim != 2 or first.ndim < 2 or (first.ndim > 2 and transposed[0]):
        node.refuse(f'{first.ndim} and {second.ndim} axes')
    return graph.add('MatMul', *(graph.add('Transpose', graph.of(array), perm=[1, 0]) if turn else graph.of(array)
                                 for array, turn in zip(node.inputs, transposed)))


@translates('batch_dot', 'linalg_gemm2')
def _translate_batch_dot(graph, node):
    node.require('forward_stype', None)
    node.require('axis', -2)
    sides = []
    for array, name in zip(node.inputs, ('transpose_a', 'transpose_b')):
        tensor = graph.of(array)
        if node.get(name, False):
            order = list(range(array.ndim))
            order[-2:] = order[:-3:-1]
            tensor = graph.add('Transpose', tensor, perm=order)
        sides.append(tensor)
    product, alpha = graph.add('MatMul', *sides), node.get('alpha', 1.)
    return product if alpha == 1 else graph.add('Mul', product, graph.constant(alpha, node.inputs[0].dtype))


@translates('contrib_div_sqrt_dim')
def _translate_div_sqrt_dim(graph, node):
    size = node.inputs[0].shape[-1]
    if isinstance(size, Linear):
        node.refuse_batch('it divides by the batch size')
    return graph.add('Div', graph.of(node.inputs[0]), graph.constant(np.sqrt(size), node.inputs[0].dtype))
