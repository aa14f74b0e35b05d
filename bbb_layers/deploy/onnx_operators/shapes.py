# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Translations of operators that move, join, cut or repeat values, or make constants."""
import numpy as np

from ..sizes import Linear, fixed
from .registry import translates

_LAST, _FIRST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def _axis(value, ndim):
    return value % ndim


@translates('Reshape', 'reshape_like', 'np_reshape', 'Flatten', 'squeeze', 'expand_dims')
def _translate_reshape(graph, node):
    """MXNet has inferred the new shape already, whichever of its codes and arguments tell it."""
    for name in ('shape', 'newshape', 'reverse', 'axis', 'lhs_begin', 'lhs_end', 'rhs_begin', 'rhs_end'):
        node.get(name, None)
    node.require('order', 'C')
    node.check_size()
    return graph.reshape(graph.of(node.inputs[0]), node.outputs[0].shape)


@translates('transpose')
def _translate_transpose(graph, node):
    ndim = node.inputs[0].ndim
    axes = node.get('axes', ()) or tuple(range(ndim))[::-1]
    return graph.add('Transpose', graph.of(node.inputs[0]), perm=[_axis(axis, ndim) for axis in axes])


@translates('SwapAxis')
def _translate_swap_axis(graph, node):
    ndim = node.inputs[0].ndim
    order = list(range(ndim))
    first, second = (_axis(node.get(name, 0), ndim) for name in ('dim1', 'dim2'))
    order[first], order[second] = second, first
    return graph.add('Transpose', graph.of(node.inputs[0]), perm=order)


@translates('Concat')
def _translate_concat(graph, node):
    return graph.add('Concat', *map(graph.of, node.inputs), axis=_axis(node.get('dim', 1), node.inputs[0].ndim))


@translates('stack')
def _translate_stack(graph, node):
    axis = _axis(node.get('axis', 0), node.outputs[0].ndim)
    return graph.add('Concat', *(graph.add('Unsqueeze', graph.of(array), graph.constant([axis]))
                                 for array in node.inputs), axis=axis)


@translates('SliceChannel')
def _translate_slice_channel(graph, node):
    node.get('num_outputs', None)
    return _parts(graph, node, node.get('axis', 1), node.get('squeeze_axis', False), None)


@translates('split_v2')
def _translate_split_v2(graph, node):
    axis, squeezed = node.get('axis', 0), node.get('squeeze_axis', False)
    node.get('indices', None)
    sizes = None
    if not node.get('sections', 0):
        sizes = [1 if squeezed else output.shape[axis] for output in node.outputs]
        if not fixed(sizes):
            node.refuse_batch('it cuts the batch axis')
    return _parts(graph, node, axis, squeezed, sizes)


def _parts(graph, node, axis, squeezed, sizes):
    axis, x = _axis(axis, node.inputs[0].ndim), graph.of(node.inputs[0])
    if len(node.outputs) == 1:
        parts = [x]
    else:
        parts = graph.add_many('Split', len(node.outputs), x, *([graph.constant(sizes)] if sizes else []), axis=axis)
    return [graph.add('Squeeze', part, graph.constant([axis])) for part in parts] if squeezed else parts


@translates('slice')
def _translate_slice(graph, node):
    ndim = node.inputs[0].ndim
    begin, end, step = (node.get(name, ()) for name in ('begin', 'end', 'step'))
    begin, end, step = ((values,) if isinstance(values, int) else tuple(values) for values in (begin, end, step))
    rows = []
    for axis in range(min(len(begin), ndim)):
        stride = (step[axis] if axis < len(step) else None) or 1
        start, stop = begin[axis], end[axis]
        # A bound that is left out is the far end in the direction of the step.
        start = (0 if stride > 0 else _LAST) if start is None else start
        stop = (_LAST if stride > 0 else _FIRST) if stop is None else stop
        rows.append((start, stop, axis, stride))
    return graph.add('Slice', graph.of(node.inputs[0]), *map(graph.constant, zip(*rows)))


@translates('slice_axis')
def _translate_slice_axis(graph, node):
    axis, end = _axis(node.get('axis', 0), node.inputs[0].ndim), node.get('end', None)
    bounds = [node.get('begin', 0)], [_LAST if end is None else end], [axis]
    return graph.add('Slice', graph.of(node.inputs[0]), *map(graph.constant, bounds))


@translates('slice_like')
def _translate_slice_like(graph, node):
    axes = node.get('axes', ()) or tuple(range(node.inputs[0].ndim))
    axes = [_axis(axis, node.inputs[0].ndim) for axis in ((axes,) if isinstance(axes, int) else axes)]
    ends = graph.shape([node.outputs[0].shape[axis] for axis in axes])
    return graph.add('Slice', graph.of(node.inputs[0]), graph.constant([0] * len(axes)), ends, graph.constant(axes))


@translates('reverse')
def _translate_reverse(graph, node):
    axes = node.get('axis', ())
    axes = [_axis(axis, node.inputs[0].ndim) for axis in ((axes,) if isinstance(axes, int) else axes)]
    return graph.add('Slice', graph.of(node.inputs[0]), graph.constant([_LAST] * len(axes)),
                     graph.constant([_FIRST] * len(axes)), graph.constant(axes), graph.constant([-1] * len(axes)))


@translates('tile')
def _translate_tile(graph, node):
    data, reps = node.inputs[0], node.get('reps', ())
    reps = (reps,) if isinstance(reps, int) else tuple(reps)
    x, ndim = graph.of(data), max(data.ndim, len(reps))
    if ndim > data.ndim:
        x = graph.add('Unsqueeze', x, graph.constant(range(ndim - data.ndim)))
    return graph.add('Tile', x, graph.constant((1,) * (ndim - len(reps)) + reps))


@translates('repeat')
def _translate_repeat(graph, node):
    data, axis, repeats = node.inputs[0], node.get('axis', None), node.get('repeats', 1)
    x = graph.of(data)
    if axis is None:
        x, axis, ndim = graph.reshape(x, (Linear(1, 0),)), 0, 1
    else:
        axis, ndim = _axis(axis, data.ndim), data.ndim
    x = graph.add('Unsqueeze', x, graph.constant([axis + 1]))
    x = graph.add('Tile', x, graph.constant([repeats if number == axis + 1 else 1 for number in range(ndim + 1)]))
    return graph.reshape(x, node.outputs[0].shape)


@translates('broadcast_to', 'broadcast_like', 'broadcast_axis')
def _translate_broadcast(graph, node):
    node.require('lhs_axes', None)
    node.require('rhs_axes', None)
    for name in ('shape', 'axis', 'size'):
        node.get(name, None)
    return graph.add('Expand', graph.of(node.inputs[0]), graph.shape(node.outputs[0].shape))


@translates('Pad')
def _translate_pad(graph, node):
    data, mode, width = node.inputs[0], node.get('mode', None), node.get('pad_width', ())
    if mode not in ('constant', 'edge', 'reflect'):
        node.refuse(f'mode={mode}')
    value = graph.constant(node.get('constant_value', 0.), data.dtype)
    return graph.add('Pad', graph.of(data), graph.constant(width[::2] + width[1::2]), value, mode=mode)


@translates('UpSampling')
def _translate_up_sampling(graph, node):
    node.require('sample_type', 'nearest')
    if len(node.inputs) > 1:
        node.refuse(f'{len(node.inputs)} inputs')
    node.get('multi_input_mode', None)
    node.get('num_filter', None)
    scales = graph.constant([1, 1] + [node.get('scale', 1)] * 2, np.float32)
    return graph.add('Resize', graph.of(node.inputs[0]), '', scales, mode='nearest', nearest_mode='floor',
                     coordinate_transformation_mode='asymmetric')


@translates('depth_to_space')
def _translate_depth_to_space(graph, node):
    return graph.add('DepthToSpace', graph.of(node.inputs[0]), blocksize=node.get('block_size', None), mode='DCR')


@translates('space_to_depth')
def _translate_space_to_depth(graph, node):
    return graph.add('SpaceToDepth', graph.of(node.inputs[0]), blocksize=node.get('block_size', None))


@translates('zeros', 'ones', 'zeros_like', 'ones_like')
def _translate_filled(graph, node):
    node.get('shape', None)
    node.get('dtype', None)
    return graph.filled(int(node.op.startswith('ones')), node.outputs[0].shape, node.outputs[0].dtype)


@translates('contrib_arange_like')
def _translate_arange_like(graph, node):
    node.require('repeat', 1)
    start, step, shape = node.get('start', 0.), node.get('step', 1.), node.outputs[0].shape
    node.get('axis', None)
    if not fixed(shape):
        node.refuse_batch('it counts along the batch axis')
    values = start + step * np.arange(np.prod(shape)).reshape(shape)
    return graph.constant(values, node.outputs[0].dtype)
