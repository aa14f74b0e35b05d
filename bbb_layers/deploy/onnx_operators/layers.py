# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Translations of the operators behind Gluon's layers, except for the recurrent ones."""
import numpy as np

from ..sizes import Linear, fixed
from .registry import translates

#: Layouts with the channels on axis 1.
_CHANNELS_FIRST = None, 'None', 'NCW', 'NCHW', 'NCDHW'


@translates('FullyConnected')
def _translate_fully_connected(graph, node):
    data, weight = node.inputs[:2]
    node.get('num_hidden', None)
    node.get('no_bias', False)      # the number of inputs says it too
    x, bias = graph.of(data), [graph.of(array) for array in node.inputs[2:]]
    flatten = node.get('flatten', True)
    if flatten and data.ndim != 2:
        x = graph.add('Flatten', x, axis=1)
    if flatten or data.ndim == 2:
        return graph.add('Gemm', x, graph.of(weight), *bias, transB=1)
    product = graph.add('MatMul', x, graph.add('Transpose', graph.of(weight), perm=[1, 0]))
    return graph.add('Add', product, *bias) if bias else product


def _window(node, count):
    """The attributes of a convolution over ``count`` axes."""
    node.require('layout', *_CHANNELS_FIRST)
    node.get('num_filter', None)
    node.get('no_bias', False)
    pad = node.axes('pad', count, 0)
    return dict(kernel_shape=node.axes('kernel', count, 1), strides=node.axes('stride', count, 1), pads=pad + pad,
                dilations=node.axes('dilate', count, 1), group=node.get('num_group', 1))


@translates('Convolution')
def _translate_convolution(graph, node):
    return graph.add('Conv', *map(graph.of, node.inputs), **_window(node, node.inputs[0].ndim - 2))


@translates('Deconvolution')
def _translate_deconvolution(graph, node):
    count = node.inputs[0].ndim - 2
    if node.get('target_shape', ()):
        node.refuse('target_shape')
    return graph.add('ConvTranspose', *map(graph.of, node.inputs), output_padding=node.axes('adj', count, 0),
                     **_window(node, count))


@translates('Pooling')
def _translate_pooling(graph, node):
    node.require('layout', *_CHANNELS_FIRST)
    data, kind = node.inputs[0], node.get('pool_type', 'max')
    count, x = data.ndim - 2, graph.of(data)
    kernel, stride, pad = (node.axes(name, count, default) for name, default in (
        ('kernel', 1), ('stride', 1), ('pad', 0)))
    convention, include_pad = node.get('pooling_convention', 'valid'), node.get('count_include_pad', True)
    node.get('p_value', None)
    if kind not in ('max', 'avg', 'sum'):
        node.refuse(f'pool_type={kind}')
    if node.get('global_pool', False):
        if kind == 'sum':
            return graph.add('ReduceSum', x, graph.constant(range(2, data.ndim)), keepdims=1)
        return graph.add('GlobalMaxPool' if kind == 'max' else 'GlobalAveragePool', x)
    if convention not in ('valid', 'full'):
        node.refuse(f'pooling_convention={convention}')
    before, after = data.shape[2:], node.outputs[0].shape[2:]
    if not fixed(before):
        node.refuse_batch('it pools along the batch axis')
    # In the convention 'full', the last window may stand over the end of the padding. ONNX's ceil_mode counts other
    # values there than MXNet, so the padding is made as long as the windows need it.
    ends = [max(0, (new - 1) * step + size - old - first)
            for new, step, size, old, first in zip(after, stride, kernel, before, pad)]
    if any((new - 1) * step - first >= old for new, step, old, first in zip(after, stride, before, pad)):
        node.refuse('a window that stands outside of its input')
    if any(end >= size for end, size in zip(ends, kernel)):
        node.refuse(f'padding {ends} for the kernel {kernel}')
    window = dict(kernel_shape=kernel, strides=stride, pads=pad + tuple(max(pair) for pair in zip(pad, ends)))
    if kind == 'max':
        return graph.add('MaxPool', x, **window)
    if kind == 'avg' and not include_pad:
        return graph.add('AveragePool', x, count_include_pad=0, **window)
    mean = graph.add('AveragePool', x, count_include_pad=1, **window)
    factor = _window_factors(kind, before, after, kernel, stride, pad)
    return mean if (factor == 1).all() else graph.add('Mul', mean, graph.constant(factor, data.dtype))


def _window_factors(kind, before, after, kernel, stride, pad):
    """What the mean over whole windows is multiplied by.

    For a sum, this is the number of values of a window. For a mean, MXNet counts the values within the input and its
    own padding only.
    """
    factors = np.ones(tuple(after))
    for axis, (old, new, size, step, first) in enumerate(zip(before, after, kernel, stride, pad)):
        start = np.arange(new) * step - first
        counted = np.minimum(start + size, old + first) - start
        shape = [-1 if number == axis else 1 for number in range(len(after))]
        factors *= np.reshape(size if kind == 'sum' else size / counted, shape if kind == 'avg' else ())
    return factors[None, None]


@translates('contrib_AdaptiveAvgPooling2D')
def _translate_adaptive_average_pooling(graph, node):
    size = node.get('output_size', ())
    size = (size,) * 2 if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1) or (1, 1)
    before = node.inputs[0].shape[2:]
    if size == (1, 1):
        return graph.add('GlobalAveragePool', graph.of(node.inputs[0]))
    if not fixed(before) or any(old % new for old, new in zip(before, size)):
        node.refuse(f'output_size={size} for an input of {before}')
    window = [old // new for old, new in zip(before, size)]
    return graph.add('AveragePool', graph.of(node.inputs[0]), kernel_shape=window, strides=window)


@translates('Dropout')
def _translate_dropout(graph, node):
    for name in ('mode', 'p'):
        node.get(name, None)
    node.get('axes', ())
    return graph.of(node.inputs[0])


@translates('BatchNorm', 'contrib_SyncBatchNorm')
def _translate_batch_norm(graph, node):
    node.require('output_mean_var', False)
    data, gamma = node.inputs[:2]
    axis = node.get('axis', 1) % data.ndim
    if isinstance(data.shape[axis], Linear):
        node.refuse_batch('it has one mean for each entry of the batch axis')
    eps = float(node.get('eps', 1e-3))
    x, (scale, shift, mean, variance) = graph.of(data), map(graph.of, node.inputs[1:])
    if node.get('fix_gamma', True):
        scale = graph.constant(np.ones(gamma.shape), gamma.dtype)
    order = list(range(data.ndim))
    order.insert(1, order.pop(axis))        # the channels come to axis 1
    moved = axis != 1
    if moved:
        x = graph.add('Transpose', x, perm=order)
    # The statistics stay float32 in a float16 network.
    cast = data.dtype != gamma.dtype
    if cast:
        x = graph.cast(x, gamma.dtype)
    x = graph.add('BatchNormalization', x, scale, shift, mean, variance, epsilon=eps)
    if cast:
        x = graph.cast(x, data.dtype)
    return graph.add('Transpose', x, perm=[int(number) for number in np.argsort(order)]) if moved else x


def _standardized(graph, x, axes, eps, dtype):
    """``x`` minus its mean over ``axes``, divided by its standard deviation."""
    centred = graph.add('Sub', x, graph.add('ReduceMean', x, axes=axes, keepdims=1))
    variance = graph.add('ReduceMean', graph.add('Mul', centred, centred), axes=axes, keepdims=1)
    return graph.add('Div', centred, graph.add('Sqrt', graph.add('Add', variance, graph.constant(eps, dtype))))


def _scaled(graph, x, node, shape):
    """``x`` times gamma plus beta, which have this shape."""
    gamma, beta = (graph.reshape(graph.of(array), shape) for array in node.inputs[1:3])
    return graph.add('Add', graph.add('Mul', x, gamma), beta)


@translates('LayerNorm')
def _translate_layer_norm(graph, node):
    node.require('output_mean_var', False)
    data = node.inputs[0]
    axis, eps = node.get('axis', -1) % data.ndim, node.get('eps', 1e-5)
    x = _standardized(graph, graph.of(data), [axis], eps, data.dtype)
    return _scaled(graph, x, node, [-1 if number == axis else 1 for number in range(data.ndim)])


@translates('InstanceNorm')
def _translate_instance_norm(graph, node):
    data = node.inputs[0]
    x = _standardized(graph, graph.of(data), list(range(2, data.ndim)), node.get('eps', 1e-3), data.dtype)
    return _scaled(graph, x, node, [1, -1] + [1] * (data.ndim - 2))


@translates('GroupNorm')
def _translate_group_norm(graph, node):
    node.require('output_mean_var', False)
    data, groups = node.inputs[0], node.get('num_groups', 1)
    batch, channels, *rest = data.shape
    if isinstance(channels, Linear):
        node.refuse_batch('it normalizes along the batch axis')
    x = graph.reshape(graph.of(data), (batch, groups, channels // groups, *rest))
    x = _standardized(graph, x, list(range(2, data.ndim + 1)), node.get('eps', 1e-5), data.dtype)
    x = _scaled(graph, x, node, [1, -1] + [1] * (data.ndim - 1))
    return graph.reshape(x, data.shape)


@translates('LRN')
def _translate_lrn(graph, node):
    return graph.add('LRN', graph.of(node.inputs[0]), alpha=float(node.get('alpha', 1e-4)),
                     beta=float(node.get('beta', 0.75)), bias=float(node.get('knorm', 2.)), size=node.get('nsize', 1))


@translates('Embedding')
def _translate_embedding(graph, node):
    node.get('input_dim', None)
    node.get('output_dim', None)
    node.get('dtype', 'float32')
    indices, weight = node.inputs
    return graph.add('Gather', graph.of(weight), _clipped(graph, indices, weight.shape[0]), axis=0)


@translates('take')
def _translate_take(graph, node):
    node.require('mode', 'clip')
    data, indices = node.inputs
    axis = node.get('axis', 0) % data.ndim
    if isinstance(data.shape[axis], Linear):
        node.refuse_batch('it takes entries of the batch axis')
    return graph.add('Gather', graph.of(data), _clipped(graph, indices, data.shape[axis]), axis=axis)


def _clipped(graph, indices, size):
    """``indices`` as MXNet reads them: whole, and the nearest valid index for those outside."""
    whole = graph.cast(graph.of(indices), np.int64)
    return graph.add('Clip', whole, graph.constant(0), graph.constant(size - 1))


@translates('one_hot')
def _translate_one_hot(graph, node):
    node.get('dtype', 'float32')
    indices, dtype = node.inputs[0], node.outputs[0].dtype
    whole = graph.add('Unsqueeze', graph.cast(graph.of(indices), np.int64), graph.constant([indices.ndim]))
    hit = graph.add('Equal', whole, graph.constant(range(node.get('depth', None))))
    values = (graph.constant(node.get(name, default), dtype) for name, default in (('on_value', 1.), ('off_value', 0.)))
    return graph.add('Where', hit, *values)
