# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every operator that export_onnx knows, in onnxruntime."""
import json

import mxnet as mx
import pytest
from onnx_files import Function, assert_exports

from bbb_layers.deploy.onnx_operators.registry import TRANSLATIONS

pytest.importorskip('onnx', reason="needs the extra 'onnx'")
pytest.importorskip('onnxruntime', reason="needs the extra 'onnx'")

IMAGE, ROWS, SEQUENCE = (1, 4, 6, 7), (1, 6), (1, 3, 4)


def unary(name):
    return lambda F, x: getattr(F, name)(x)


def of(low, high, name):
    """An operator that is defined between two bounds only."""
    return lambda F, x: getattr(F, name)(F.sigmoid(x) * (high - low) + low)


def pool(kind, **kwargs):
    return lambda F, x: F.Pooling(x, pool_type=kind, **dict(dict(kernel=(3, 2), stride=(2, 2)), **kwargs))


#: Name -> (function, shapes of its inputs).
OPERATORS = {
    **{name: (unary(name), ROWS) for name in (
        'exp', 'abs', 'negative', 'ceil', 'floor', 'sign', 'erf', 'sin', 'cos', 'tan', 'arctan', 'sinh', 'cosh',
        'arcsinh', 'relu', 'sigmoid', 'tanh', 'softsign', 'square', 'identity', 'BlockGrad', 'make_loss', 'MakeLoss',
        'hard_sigmoid',
        'Flatten', 'softmax', 'log_softmax', 'softmin', 'zeros_like', 'ones_like')},
    **{name: (of(0.1, 3, name), ROWS) for name in ('log', 'log2', 'log10', 'sqrt', 'rsqrt', 'reciprocal')},
    **{name: (of(-0.9, 0.9, name), ROWS) for name in ('arcsin', 'arccos', 'arctanh')},
    'arccosh': (of(1.1, 3, 'arccosh'), ROWS),
}
del OPERATORS['zeros_like']
for _kind in ('relu', 'sigmoid', 'tanh', 'softrelu', 'softsign'):
    OPERATORS[f'Activation {_kind}'] = (lambda F, x, kind=_kind: F.Activation(10 * x, act_type=kind)), ROWS
for _kind in ('leaky', 'elu', 'selu', 'gelu'):
    OPERATORS[f'LeakyReLU {_kind}'] = (lambda F, x, kind=_kind: F.LeakyReLU(x, act_type=kind)), ROWS
for _name in ('add', 'sub', 'mul', 'div'):
    OPERATORS[f'elemwise_{_name}'] = (lambda F, x, y, name=_name: getattr(F, f'elemwise_{name}')(x, y)), ROWS, ROWS
    OPERATORS[f'broadcast_{_name}'] = (lambda F, x, y, name=_name: getattr(F, f'broadcast_{name}')(
        x, F.slice_axis(y, axis=1, begin=0, end=1))), ROWS, ROWS
for _name in ('maximum', 'minimum', 'power', 'equal', 'not_equal', 'greater', 'greater_equal', 'lesser',
              'lesser_equal', 'logical_and', 'logical_or', 'logical_xor'):
    OPERATORS[f'broadcast_{_name}'] = (lambda F, x, y, name=_name: 1 + getattr(F, f'broadcast_{name}')(
        F.floor(F.abs(x)), F.floor(F.abs(F.slice_axis(y, axis=1, begin=0, end=1))))), ROWS, ROWS
OPERATORS.update({
    'comparisons of arrays': (lambda F, x, y: F.stack(*(F.abs(op) for op in (
        F.floor(x) == F.floor(y), F.floor(x) != F.floor(y), F.floor(x) > F.floor(y),
        F.floor(x) >= F.floor(y), F.floor(x) < F.floor(y), F.floor(x) <= F.floor(y)))), ROWS, ROWS),
    'comparisons with a number': (lambda F, x: F.stack(*(
        op for op in (F.floor(x) == 1, F.floor(x) != 1, F.floor(x) > 1, F.floor(x) >= 1, F.floor(x) < 1,
                      F.floor(x) <= 1))), ROWS),
    'numbers': (lambda F, x: F.add_n(x + 2.5, x - 0.3, 0.7 - x, x * 3.1, x / 1.7, 2 / (F.abs(x) + 1), F.abs(x) ** 1.5,
                                     2 ** x, F.maximum(x, 0.3), F.minimum(x, 0.2)), ROWS),
    'arrays': (lambda F, x, y: F.add_n(F.maximum(x, y), F.minimum(x, y), F.power(F.abs(x), y)), ROWS, ROWS),
    'logical_not': (lambda F, x: F.logical_not(F.floor(x)), ROWS),
    'clip': (lambda F, x: F.clip(x, -0.7, 1.2), ROWS),
    'Cast': (lambda F, x: F.Cast(F.Cast(x * 3, 'int32'), 'float32'), ROWS),
    'where': (lambda F, x, y: F.where(x > 0, x, y), ROWS, ROWS),
    'where along the batch': (lambda F, x, y: F.where(F.slice_axis(x, axis=1, begin=0, end=1).reshape((-1,)) > 0, x, y),
                              ROWS, ROWS),
    'prelu': (lambda F, x, y: F.LeakyReLU(x, F.slice_axis(y, axis=0, begin=0, end=1).reshape((-1,)), act_type='prelu'),
              IMAGE, (1, 4)),
    'hard_sigmoid of its own': (lambda F, x: F.hard_sigmoid(x, alpha=0.3, beta=0.4), ROWS),
    # products
    'dot': (lambda F, x: F.dot(x, F.reshape(F.arange(8), (2, 4)), transpose_b=True), SEQUENCE),
    'dot, both transposed': (lambda F, x, y: F.dot(x, F.dot(y, x, transpose_a=True), transpose_b=True), ROWS, (1, 3)),
    'batch_dot': (lambda F, x, y: F.batch_dot(x, y, transpose_b=True), SEQUENCE, (1, 5, 4)),
    'batch_dot of the first transposed': (lambda F, x, y: F.batch_dot(x, y, transpose_a=True), SEQUENCE, (1, 3, 5)),
    'linalg_gemm2': (lambda F, x, y: F.linalg.gemm2(x, y, alpha=0.3, transpose_b=True), (1, 2, 3, 4), (1, 2, 5, 4)),
    'div_sqrt_dim': (lambda F, x: F.contrib.div_sqrt_dim(x), ROWS),
    # reductions
    **{f'{name} {kwargs}': ((lambda F, x, name=name, kwargs=kwargs: getattr(F, name)(x, **kwargs)), SEQUENCE)
       for name in ('sum', 'mean', 'max', 'min', 'prod')
       for kwargs in ({}, dict(axis=1), dict(axis=(0, 2)), dict(axis=-1, keepdims=True), dict(axis=0, exclude=True),
                      dict(axis=(0, 1, 2)), dict(keepdims=True))},
    **{f'norm {kwargs}': ((lambda F, x, kwargs=kwargs: F.norm(x, **kwargs)), SEQUENCE)
       for kwargs in ({}, dict(ord=1, axis=1), dict(axis=(1, 2), keepdims=True))},
    **{f'{name} {kwargs}': ((lambda F, x, name=name, kwargs=kwargs: 1 + getattr(F, name)(x, **kwargs)), SEQUENCE)
       for name in ('argmax', 'argmin') for kwargs in ({}, dict(axis=1), dict(axis=-1, keepdims=True))},
    'softmax, axis 1, temperature': (lambda F, x: F.softmax(x, axis=1, temperature=2.), SEQUENCE),
    'log_softmax, axis 1': (lambda F, x: F.log_softmax(100 * x, axis=1), SEQUENCE),
    'softmax of large numbers': (lambda F, x: F.softmax(1000 * x, axis=1), SEQUENCE),
    'SoftmaxActivation': (lambda F, x: F.SoftmaxActivation(x), SEQUENCE),
    'SoftmaxActivation, channel': (lambda F, x: F.SoftmaxActivation(x, mode='channel'), IMAGE),
    **{f'L2Normalization {mode}': ((lambda F, x, mode=mode: F.L2Normalization(x, mode=mode)), IMAGE)
       for mode in ('instance', 'channel', 'spatial')},
    'InstanceNorm with defaults': (lambda F, x: F.InstanceNorm(x, F.ones(4), F.zeros(4)), IMAGE),
    'LRN': (lambda F, x: F.LRN(x, nsize=3, alpha=0.1, knorm=1.5), IMAGE),
    'LRN with defaults': (lambda F, x: F.LRN(x, nsize=3), IMAGE),
    # shapes
    **{f'reshape {shape}': ((lambda F, x, shape=shape: F.reshape(x, shape)), SEQUENCE)
       for shape in ((0, -1), (-1,), (-1, 4), (0, 0, 2, 2), (-2,), (-3, 4), (0, -4, 3, 1, 0), (2, 6, -1), (0, 0, -2))},
    'reshape, reverse': (lambda F, x: F.reshape(x, (-1, 0), reverse=True), SEQUENCE),
    'outer product of the batch': (lambda F, x, y: F.reshape_like(F.dot(x, y, transpose_b=True), F.dot(
        y, x, transpose_b=True)), ROWS, ROWS),
    'expand_dims, squeeze': (lambda F, x: F.squeeze(F.expand_dims(F.expand_dims(x, axis=1), axis=-1), axis=1), ROWS),
    'transpose': (lambda F, x: F.transpose(F.transpose(x), axes=(1, 0, 2)), SEQUENCE),
    'SwapAxis': (lambda F, x: F.swapaxes(x, 0, 2), SEQUENCE),
    'Concat': (lambda F, x, y: F.concat(F.concat(x, y, dim=-1), F.concat(y, x), dim=0), ROWS, ROWS),
    'stack': (lambda F, x, y: F.stack(x, y, axis=-1), ROWS, ROWS),
    'SliceChannel': (lambda F, x: F.concat(*F.split(x, num_outputs=3), F.split(x, num_outputs=1), dim=-1), ROWS),
    'SliceChannel, squeezed': (lambda F, x: F.stack(*list(F.split(x, num_outputs=3, axis=1, squeeze_axis=True))[::-1]),
                               SEQUENCE),
    'split_v2': (lambda F, x: F.concat(*list(F.split_v2(x, (1, 4), axis=1))[::-1], dim=1), ROWS),
    'split_v2, squeezed': (lambda F, x: F.stack(*list(F.split_v2(x, 3, axis=1, squeeze_axis=True))[::-1]), SEQUENCE),
    'slice': (lambda F, x: F.slice(x, begin=(None, 1, None), end=(None, 3, -1)), SEQUENCE),
    'slice with steps': (lambda F, x: F.slice(x, begin=(None, None, 3), end=(None, None, 0), step=(1, -2, -1)),
                         SEQUENCE),
    'slice_axis': (lambda F, x: F.slice_axis(x, axis=-1, begin=-3, end=None), SEQUENCE),
    'slice_like': (lambda F, x, y: F.slice_like(x, y, axes=(1,)), (1, 5, 2), SEQUENCE),
    'slice_like with a shorter batch': (lambda F, x, y: F.slice_like(F.concat(x, x, dim=0), y), ROWS, (1, 3)),
    'reverse': (lambda F, x: F.reverse(F.flip(x, axis=1), axis=(0, 2)), SEQUENCE),
    'tile': (lambda F, x: F.tile(F.tile(x, (2,)), (2, 1, 3)), ROWS),
    'repeat': (lambda F, x: F.repeat(x, repeats=3, axis=-1), SEQUENCE),
    'repeat of all': (lambda F, x: F.repeat(x, repeats=2), SEQUENCE),
    'repeat of the batch': (lambda F, x: F.repeat(x, repeats=2, axis=0), SEQUENCE),
    'broadcast_to': (lambda F, x: F.broadcast_to(F.expand_dims(x, axis=1), shape=(0, 3, 0)), ROWS),
    'broadcast_like': (lambda F, x, y: F.broadcast_like(F.sum(x, axis=0, keepdims=True), y), ROWS, ROWS),
    'broadcast_like twice the batch': (lambda F, x, y: F.broadcast_like(F.sum(x, axis=0, keepdims=True), F.concat(
        y, y, F.ones((1, 6)), dim=0)), ROWS, ROWS),
    'broadcast_axis': (lambda F, x: F.broadcast_axis(F.expand_dims(x, axis=1), axis=1, size=2), ROWS),
    **{f'Pad {mode}': ((lambda F, x, mode=mode: F.Pad(x, mode=mode, pad_width=(0, 0, 0, 0, 1, 2, 3, 1),
                                                      constant_value=0.5)), IMAGE)
       for mode in ('constant', 'edge', 'reflect')},
    'UpSampling': (lambda F, x: F.UpSampling(x, scale=2, sample_type='nearest'), IMAGE),
    'depth_to_space': (lambda F, x: F.depth_to_space(x, 2), (1, 8, 2, 3)),
    'space_to_depth': (lambda F, x: F.space_to_depth(x, 2), (1, 3, 4, 6)),
    'zeros_like': (lambda F, x: x + F.zeros_like(x), ROWS),
    'constants': (lambda F, x: F.broadcast_add(x, F.reshape(F.arange(6) * 2 + F.full(6, 0.5), (1, 6))), ROWS),
    'eye, linspace': (lambda F, x: F.broadcast_add(F.dot(x, F.eye(6)), F.linspace(0, 1, 6).expand_dims(0)), ROWS),
    'arange_like': (lambda F, x: F.broadcast_add(x, F.contrib.arange_like(x, axis=1, start=1, step=0.5).expand_dims(0)),
                    ROWS),
    # layers
    'take': (lambda F, x: F.take(x, F.arange(9) - 2, axis=1), ROWS),
    'take for a batch': (lambda F, x: F.take(F.reshape(F.arange(12), (4, 3)), x * 3), ROWS),
    'Embedding': (lambda F, x: F.Embedding(x * 5, F.reshape(F.arange(12), (4, 3)), input_dim=4, output_dim=3), ROWS),
    'one_hot': (lambda F, x: F.one_hot(x * 5, depth=4, on_value=3., off_value=-1.), ROWS),
    'AdaptiveAvgPooling2D': (lambda F, x: F.contrib.AdaptiveAvgPooling2D(x), IMAGE),
    'AdaptiveAvgPooling2D of its own': (lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=(3, 7)), IMAGE),
    'Pooling of no kernel': (lambda F, x: F.Pooling(x, kernel=(2, 2)), IMAGE),
    **{f'Pooling {kind} {kwargs}': (pool(kind, **kwargs), IMAGE) for kind in ('max', 'avg', 'sum') for kwargs in (
        {}, dict(pad=(1, 1)), dict(pooling_convention='full'), dict(pooling_convention='full', pad=(1, 0)),
        dict(global_pool=True), dict(stride=(1, 1), pad=(2, 1)))},
    **{f'Pooling avg without pad {kwargs}': (pool('avg', count_include_pad=False, **kwargs), IMAGE) for kwargs in (
        dict(pad=(1, 1)), dict(pooling_convention='full'), dict(pooling_convention='full', pad=(1, 0)))},
    'Dropout': (lambda F, x: F.Dropout(x, p=0.9), ROWS),
})


def functions():
    return {name: (function, shapes) for name, (function, *shapes) in OPERATORS.items()}


def used(name):
    """The operators in the graph of a test, with MXNet's names without the underscores at their start."""
    function, shapes = functions()[name]
    symbol = function(mx.sym, *(mx.sym.var(f'data{number}') for number, _ in enumerate(shapes)))
    return {node['op'].lstrip('_') for node in json.loads(symbol.tojson())['nodes']} - {'null'}


def test_every_operator_is_tried():
    of_layers = {'BatchNorm', 'contrib_SyncBatchNorm', 'Convolution', 'Deconvolution', 'FullyConnected', 'GroupNorm',
                 'InstanceNorm', 'LayerNorm', 'RNN', 'zeros'}       # in test_onnx_export.py
    known = {name for name in TRANSLATIONS if not name.startswith('np')}    # those of np arrays have their own test
    assert known == set.union(of_layers, *map(used, OPERATORS)) - {'arange', 'eye', 'full', 'linspace'}


@pytest.mark.parametrize('name', OPERATORS)
def test_operator(name, tmp_path):
    function, shapes = functions()[name]
    assert_exports(Function(function), tmp_path / 'net.onnx', *shapes)
