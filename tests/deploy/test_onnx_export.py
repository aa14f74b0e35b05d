# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks as ONNX files, run by onnxruntime."""
import os
import subprocess
import sys
import threading

import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn
from mxnet.gluon.contrib.nn import PixelShuffle2D, SyncBatchNorm
from mxnet.gluon.model_zoo import vision
from onnx_files import BATCH_SIZES, Function, assert_equal, assert_exports, batch, run

import bbb_layers as bbb
from bbb_layers import BayesConv2D, BayesDense, MonteCarlo, export_onnx, to_deterministic, to_sparse

onnx = pytest.importorskip('onnx', reason="needs the extra 'onnx'")
pytest.importorskip('onnxruntime', reason="needs the extra 'onnx'")


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net.onnx'


def sequential(*layers):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(*layers)
    return net


def ready(net, *shapes, dtypes=None):
    """``net``, initialized so that no Parameter is 0 or 1, for inputs of these shapes."""
    net.initialize(mx.init.Xavier(magnitude=2))
    net(*(nd.zeros([size or 2 for size in shape], dtype=dtype)
          for shape, dtype in zip(shapes, dtypes or ['float32'] * len(shapes))))
    for name, param in net.collect_params().items():
        if name.endswith(('bias', 'beta', 'running_mean')):
            param.set_data(nd.random.normal(shape=param.shape))
        elif name.endswith(('gamma', 'running_var')):
            param.set_data(nd.random.uniform(0.5, 2, shape=param.shape))
    return net


IMAGE = 1, 3, 32, 32
#: Name -> (the network, the shape of its input).
NETWORKS = {
    'dense': (lambda: sequential(nn.Dense(5, 'relu'), nn.Dense(4, 'tanh', use_bias=False), nn.Dense(3)), (1, 4)),
    'dense of images': (lambda: sequential(nn.Dense(5, 'sigmoid'), nn.Flatten()), (1, 4, 3)),
    'dense without flatten': (lambda: sequential(nn.Dense(5, flatten=False), nn.Dense(
        3, flatten=False, use_bias=False)), (1, 4, 3)),
    'embedding': (lambda: sequential(nn.Embedding(4, 5), nn.Dense(3)), (1, 3)),
    'conv': (lambda: sequential(
        nn.Conv2D(8, 3, padding=1, activation='relu'), nn.BatchNorm(), nn.MaxPool2D(), nn.Conv2D(
            4, (3, 2), strides=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, use_bias=False), nn.BatchNorm(),
        nn.AvgPool2D(3, 2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Dense(3)), (1, 2, 12, 11)),
    'conv1d': (lambda: sequential(nn.Conv1D(4, 3), nn.BatchNorm(), nn.MaxPool1D(3, 2, 1, ceil_mode=True),
                                  nn.AvgPool1D(2, ceil_mode=True), nn.GlobalAvgPool1D()), (1, 2, 12)),
    'conv3d': (lambda: sequential(nn.Conv3D(4, 3), nn.BatchNorm(), nn.MaxPool3D(2), nn.AvgPool3D(2, 1, 1),
                                  nn.GlobalMaxPool3D()), (1, 2, 8, 7, 6)),
    'batch norms': (lambda: sequential(
        nn.BatchNorm(scale=False), nn.BatchNorm(center=False), nn.BatchNorm(use_global_stats=True, epsilon=0.1),
        nn.BatchNorm(axis=2), nn.BatchNorm(axis=-1), SyncBatchNorm(num_devices=1)), (1, 3, 4, 5)),
    'batch norm of rows': (lambda: sequential(nn.BatchNorm(), nn.BatchNorm(axis=-1)), (1, 4)),
    'norms': (lambda: sequential(
        nn.LayerNorm(), nn.LayerNorm(axis=1, epsilon=0.1), nn.LayerNorm(scale=False), nn.InstanceNorm(scale=True),
        nn.InstanceNorm(axis=2, epsilon=0.1), nn.GroupNorm(2), nn.GroupNorm(4, epsilon=0.1)), (1, 4, 5, 6)),
    'activations': (lambda: sequential(
        nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(in_channels=4), nn.ELU(0.3), nn.SELU(), nn.GELU(), nn.Swish(1.5),
        nn.Activation('softrelu'), nn.Activation('softsign')), (1, 4, 5)),
    'pixel shuffle': (lambda: sequential(PixelShuffle2D((2, 3))), (1, 12, 3, 4)),
    'padding': (lambda: sequential(nn.ReflectionPad2D(2)), (1, 2, 4, 5)),
    'lambda': (lambda: sequential(nn.Dense(5), nn.HybridLambda('tanh'), nn.HybridLambda(
        lambda F, x: F.broadcast_sub(F.softmax(x), F.mean(x, axis=0, keepdims=True)))), (1, 4)),
    'resnet18_v1': (lambda: vision.resnet18_v1(classes=10), IMAGE),
    'resnet18_v2': (lambda: vision.resnet18_v2(classes=10), IMAGE),
    'mobilenet': (lambda: vision.mobilenet0_25(classes=10), IMAGE),
    'mobilenet_v2': (lambda: vision.mobilenet_v2_0_25(classes=10), IMAGE),
    'squeezenet': (lambda: vision.squeezenet1_1(classes=10), (1, 3, 209, 209)),
    'densenet': (lambda: vision.densenet121(classes=10), (1, 3, 224, 224)),
}
for _layer in nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose:
    NETWORKS[_layer.__name__] = (lambda layer=_layer: sequential(
        layer(4, 3, strides=2, padding=1, output_padding=1, in_channels=2),
        layer(6, 2, groups=2, in_channels=4, activation='relu'), layer(2, 3, use_bias=False, in_channels=6))), (
            1, 2, *(4, 5, 3)[:int(_layer.__name__[4])])
for _layer, _cell in (rnn.LSTM, rnn.LSTMCell), (rnn.GRU, rnn.GRUCell), (rnn.RNN, rnn.RNNCell):
    for _text, _options in (
            ('', {}), (', 2 layers', dict(num_layers=2)), (', both directions', dict(bidirectional=True)),
            (', 3 layers, both directions, NTC', dict(num_layers=3, bidirectional=True, layout='NTC', dropout=0.5))):
        NETWORKS[_layer.__name__ + _text] = (lambda layer=_layer, options=_options: layer(5, **options)), (
            (1, 4, 6) if 'layout' in _options else (4, None, 6))
    NETWORKS[_cell.__name__] = (lambda cell=_cell: nets.Unrolled(cell)), (1, 4, 3)
NETWORKS['RNN, tanh'] = (lambda: rnn.RNN(5, activation='tanh', bidirectional=True)), (4, None, 6)


@pytest.mark.parametrize('name', NETWORKS)
def test_plain_network(name, path):
    build, shape = NETWORKS[name]
    assert_exports(ready(build(), shape), path, shape)


@pytest.mark.parametrize('name', nets.NETWORKS)
def test_bayesian_network(name, mode, path):
    net, x = nets.make(name)
    hybridize(net, mode)
    assert_exports(net, path, x.shape)


@pytest.mark.parametrize('ceil', [False, True])
@pytest.mark.parametrize('pad', [0, 1])
@pytest.mark.parametrize('size', range(6, 12))
@pytest.mark.parametrize('layer', [nn.MaxPool2D, nn.AvgPool2D, lambda *args, **kwargs: nn.AvgPool2D(
    *args, count_include_pad=False, **kwargs)], ids=['max', 'average', 'average without padding'])
def test_pooling(layer, size, pad, ceil, path):
    assert_exports(sequential(layer(3, 2, pad, ceil_mode=ceil)), path, (1, 2, size, 9))


def test_batch_norm_with_the_defaults_of_the_operator(path):
    layer = nn.BatchNorm()
    layer._kwargs.clear()       # such as eps, which Gluon always hands over, with a default of its own
    assert_exports(ready(layer, (1, 4, 5)), path, (1, 4, 5))


def test_batch_norm_over_the_first_axis(path):
    net = ready(nn.BatchNorm(axis=0), (3, 4, 5))
    export_onnx(net, path, (3, 4, 5), dynamic_batch=False)
    assert_equal(path, net, batch((3, 4, 5), 3))


class Several(gluon.HybridBlock):
    """Two inputs, and as outputs: a sum, twice the same array, an input, a Parameter, and a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.dense = nn.Dense(3, flatten=False)
            self.table = self.params.get('table', shape=(2, 3), init=mx.init.Normal())

    def hybrid_forward(self, F, x, y, table):
        hidden = self.dense(x)
        return F.broadcast_add(hidden, y), [hidden, hidden], y, table, list(F.split(hidden, num_outputs=3))


def test_several_inputs_and_outputs(path):
    net = Several()
    assert_exports(ready(net, (2, 4), (2, 3)), path, (1, 4), (1, 3))
    model = onnx.load(str(path))
    assert [described.name for described in model.graph.input] == ['data0', 'data1']
    assert [described.name for described in model.graph.output] == [f'output{number}' for number in range(8)]


def test_order_of_inputs_is_that_of_the_arguments(path):
    net = Function(lambda F, x, y: F.dot(F.exp(y), F.square(x)))       # uses the second first
    net(nd.ones((3, 2)), nd.ones((2, 3)))
    export_onnx(net, path, (3, 2), (2, 3), dynamic_batch=False)
    x, y = np.random.normal(size=(3, 2)).astype('float32'), np.random.normal(size=(2, 3)).astype('float32')
    np.testing.assert_allclose(run(path, x, y)[0], np.exp(y) @ x ** 2, rtol=1e-5)


class WithStates(gluon.HybridBlock):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.layer = layer

    def hybrid_forward(self, F, x, states):
        return self.layer(x, states)


@pytest.mark.parametrize('layer, states', [(rnn.LSTM, 2), (rnn.GRU, 1), (rnn.RNN, 1), (bbb.BayesLSTM, 2)])
@pytest.mark.parametrize('options', [{}, dict(num_layers=2, bidirectional=True)], ids=['one', 'many'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_states(layer, states, options, wrapped, path):
    net = layer(5, input_size=6, **options)
    net = WithStates(net) if wrapped else net
    net.initialize(mx.init.Normal(0.5))
    rows = 4 if options else 1
    shapes = [(3, None, 6), [(rows, None, 5)] * states]
    export_onnx(net, path, *shapes)
    for size in BATCH_SIZES:
        x, *first = (batch(shape, size) for shape in [shapes[0], *shapes[1]])
        output, last = net(nd.array(x), [nd.array(state) for state in first])
        results = run(path, x, *first)
        assert len(results) == 1 + states
        for result, wanted in zip(results, [output, *last]):
            np.testing.assert_allclose(result, wanted.asnumpy(), rtol=1e-5, atol=1e-5)


def test_zeros_with_a_batch_size_that_is_not_known(path):
    net = Function(lambda F, x: F.concat(x + F.zeros((0, 4)), F.ones((0, 4)) * x))
    net.hybridize()     # MXNet infers the size then
    assert_exports(net, path, (1, 4))


@pytest.mark.parametrize('dtype', ['float32', 'int32', 'int64', 'uint8', 'int8'])
def test_type_of_indices(dtype, path):
    net = ready(sequential(nn.Embedding(4, 5), nn.Dense(3)), (1, 3))
    export_onnx(net, path, (1, 3), dtypes=dtype)
    indices = np.array([[0, 1, 3], [2, 100, 3], [1, 1, 1]], dtype)      # MXNet takes the last for 100
    assert_equal(path, net, indices)
    if not dtype.startswith('u'):
        assert_equal(path, net, -indices)
    if dtype == 'float32':
        assert_equal(path, net, indices + np.float32(0.75))


def test_dtypes_of_several_inputs(path):
    net = Function(lambda F, x, y: F.broadcast_add(F.one_hot(x, depth=3), F.expand_dims(y, axis=1)))
    export_onnx(net, path, (1, 4), (1, 3), dtypes=['int32', 'float32'])
    assert_equal(path, net, np.array([[0, 1, 2, 1], [2, 0, 2, 2]], 'int32'), batch((1, 3), 2))


@pytest.mark.parametrize('build', [
    lambda: sequential(nn.Dense(5, 'tanh', dtype='float64'), nn.Dense(3, dtype='float64')),
    lambda: sequential(BayesDense(5, dtype='float64'), nn.LayerNorm())], ids=['plain', 'Bayesian'])
def test_float64(build, path):
    net = build()
    net.cast('float64')
    assert_exports(ready(net, (1, 4), dtypes=['float64']), path, (1, 4), dtypes=['float64'], rtol=1e-12)


def test_constants_with_the_same_bytes(path):
    """The number 0 of int64, for the limits of an index, and of float64 are two constants."""
    net = Function(lambda F, x: F.take(F.arange(1, 5, dtype='float64'), x) + (x > 0))
    assert_exports(net, path, (1, 4), dtypes=['float64'])


def test_float16(path):
    net = sequential(nn.Embedding(4, 5), nn.HybridLambda(lambda F, x: F.tanh(x) * 2.5), nn.BatchNorm(axis=-1))
    net.cast('float16')
    net.initialize(mx.init.Normal(1))
    indices = np.array([[0, 1, 3], [2, 0, 3]], 'int32')
    net(nd.array(indices, dtype='int32'))
    export_onnx(net, path, (1, 3), dtypes='int32')
    assert_equal(path, net, indices, rtol=1e-3)


@pytest.mark.parametrize('mode', ['predict', 'train'])
def test_network_stays_as_it_was(mode, path):
    net = ready(sequential(BayesConv2D(3, 3), nn.BatchNorm(), BayesDense(2), nn.Dropout(0.5)), (1, 2, 5, 5))
    net.hybridize()
    loss_fn = bbb.BBBLoss(net, 10, likelihood=nets.SumOfSquares())
    calls = []
    net.register_forward_hook(lambda *args: calls.append(1))
    net[0].register_forward_pre_hook(lambda *args: calls.append(1))
    x = nd.random.normal(shape=(4, 2, 5, 5))
    expected = net(x).asnumpy()
    before, graph, attributes = nets.values(net), net._cached_graph, {id(block): dict(vars(block))
                                                                      for block in nets.blocks(net)}
    variables = {name: param._var for name, param in net.collect_params().items()}
    del calls[:]
    with autograd.record(train_mode=mode == 'train'):
        export_onnx(net, path, x.shape)
    assert not calls
    after = nets.values(net)
    assert list(before) == list(after) and all((before[name] == after[name]).all() for name in before)
    assert net._active and net._cached_graph is graph
    assert {id(block): dict(vars(block)) for block in nets.blocks(net)} == attributes
    assert {name: param._var for name, param in net.collect_params().items()} == variables
    np.testing.assert_array_equal(net(x).asnumpy(), expected)
    assert_equal(path, net, x.asnumpy())
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    with autograd.record():
        loss = loss_fn(net(x), x)
    loss.backward()
    trainer.step(4)
    assert (net[0].weight.data().asnumpy() != before[net[0].weight.name]).all()


def test_plain_network_stays_as_it_was(path):
    net = ready(rnn.LSTM(3), (2, None, 4))
    before, variables = dict(vars(net)), [param._var for param in net.collect_params().values()]
    export_onnx(net, path, (2, None, 4))
    assert dict(vars(net)) == before
    assert all(param._var is old for param, old in zip(net.collect_params().values(), variables))


@pytest.mark.filterwarnings('ignore:Cannot decide type')
def test_symbol_block(tmp_path, path):
    net, x = nets.make('conv2d', bayesian=False)
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'net'))
    block = gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params'))
    assert_exports(block, path, x.shape)
    head = nn.Dense(3, in_units=12)
    head.initialize()
    assert_exports(sequential(block, head), tmp_path / 'part.onnx', x.shape)


@pytest.mark.parametrize('name', ['dense', 'conv2d', 'embedding', 'LSTM', 'GRU', 'RNN', 'LSTMCell'])
@pytest.mark.parametrize('bayesian', [False, True], ids=['plain', 'Bayesian'])
def test_np_arrays(name, bayesian, path):
    if not bayesian and name == 'LSTMCell':
        pytest.skip("Gluon's own cells fail under set_np()")
    mx.npx.set_np()
    try:
        build, example = nets.NETWORKS[name]
        with mx.util.np_array(False):
            x = example()
        net = build(nets._Classes(bayesian, {}))
        net.initialize(mx.init.Normal(0.5))
        expected = net(x.as_np_ndarray()).asnumpy()
        export_onnx(net, path, x.shape)
        assert mx.util.is_np_array() and mx.util.is_np_shape()
        np.testing.assert_allclose(run(path, x.asnumpy())[0], expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
    finally:
        mx.npx.reset_np()


def test_arithmetic_of_np_arrays(path):
    mx.npx.set_np()
    try:
        net = Function(lambda F, x, y: (2 - (x + y) * 3 / (x * y - 0.5) - 1) / 2 + 1 / (x - y) - x / y + (y - 2) * 1.5)
        x, y = (np.random.uniform(low, low + 0.5, size=(4, 3)).astype('float32') for low in (1, 3))
        export_onnx(net, path, x.shape, y.shape)
        expected = net(mx.np.array(x, dtype='float32'), mx.np.array(y, dtype='float32')).asnumpy()
        np.testing.assert_allclose(run(path, x, y)[0], expected, rtol=1e-5)
        with pytest.raises(NotImplementedError, match=r'npi_exp in function\d+_exp0'):
            export_onnx(Function(lambda F, x: F.np.exp(x)), path, (1, 3), overwrite=True)
        with pytest.raises(NotImplementedError, match='npi_true_divide_scalar with arrays of float32 and int32'):
            export_onnx(Function(lambda F, x: x / 2), path, (1, 3), dtypes='int32', overwrite=True)
    finally:
        mx.npx.reset_np()


@pytest.mark.parametrize('mode', ['training', 'always'])
def test_dropout_of_weights(mode, path):
    """What depends on Parameters alone is computed at the export, in predict mode whichever mode is on."""
    net = WithDropout(mode)
    net.initialize(mx.init.Normal(1))
    with autograd.train_mode():
        if mode == 'always':
            with pytest.raises(NotImplementedError, match="Dropout with mode='always' in odd_dropout0"):
                export_onnx(net, path, (1, 4))
            return
        export_onnx(net, path, (1, 4))
    assert_equal(path, net, batch((1, 4), 3))


class WithDropout(gluon.HybridBlock):
    def __init__(self, mode):
        super().__init__(prefix='odd_')
        self.mode = mode
        self.table = self.params.get('table', shape=(4, 50))

    def hybrid_forward(self, F, x, table):
        return F.dot(x, F.Dropout(table, p=0.5, mode=self.mode))


def test_file(path):
    net = ready(sequential(BayesDense(5), nn.Dropout(0.5), nn.Dense(3)), (1, 4))
    export_onnx(net, str(path), (8, 4))
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [('', 13)] and model.ir_version == 7
    plain = to_deterministic(net)
    assert sorted(tensor.name for tensor in model.graph.initializer) == sorted(plain.collect_params())
    assert [node.op_type for node in model.graph.node] == ['Gemm', 'Gemm', 'Identity']
    assert model.graph.node[0].name.startswith(plain[0].name)
    for described, name, size in (model.graph.input[0], 'data', 4), (model.graph.output[0], 'output', 3):
        dims = described.type.tensor_type.shape.dim
        assert described.name == name and [dims[0].dim_param, dims[1].dim_value] == ['batch_size', size]


def test_only_the_batch_size_itself_has_its_name(path):
    export_onnx(Function(lambda F, x: (x, F.concat(x, x, dim=0))), path, (1, 4))
    names = [output.type.tensor_type.shape.dim[0].dim_param for output in onnx.load(str(path)).graph.output]
    assert names[0] == 'batch_size' and names[1] != 'batch_size'


def test_one_batch_size(path):
    net = ready(nn.Dense(3), (1, 4))
    export_onnx(net, path, (5, 4), dynamic_batch=False)
    assert_equal(path, net, batch((5, 4), 5))
    with pytest.raises(Exception, match='(?i)invalid dimensions'):
        run(path, batch((5, 4), 2))


@pytest.mark.parametrize('function', [
    lambda F, x: F.reshape(x, (2, 6)),
    lambda F, x: x + F.ones((4, 3)),
    lambda F, x: F.broadcast_add(x, F.reshape(F.arange(4), (4, 1))),
    lambda F, x: F.slice(x, (1,), (4,)),
    lambda F, x: F.slice(x, (0,), (100,)),
    lambda F, x: F.squeeze(F.expand_dims(x, axis=1)),       # drops the batch axis too, if its size is 1
    lambda F, x: F.take(x, F.arange(4)),
    lambda F, x: F.broadcast_add(x, F.contrib.arange_like(x, axis=0).reshape((-1, 1))),
    lambda F, x: F.concat(*F.split_v2(x, (1,), axis=0), dim=0),
    lambda F, x: F.contrib.div_sqrt_dim(F.transpose(x)),
])
def test_what_serves_one_batch_size_only(function, path):
    net = Function(function, prefix='odd_')
    with pytest.raises(ValueError, match=r'dynamic_batch must be False for this network, .*saw: True, but .*odd_'):
        export_onnx(net, path, (4, 3))
    assert not path.exists()
    export_onnx(net, path, (4, 3), dynamic_batch=False)
    assert_equal(path, net, batch((4, 3), 4))


def test_marked_batch_axes(path):
    net = Function(lambda F, x, y: F.broadcast_add(F.transpose(x), y))
    assert_exports_both = [batch((3, None), 2), np.ones((1, 3), 'float32')]
    export_onnx(net, path, (3, None), (1, 3))
    assert_equal(path, net, *assert_exports_both)
    with pytest.raises(ValueError, match=r'dynamic_batch must be False for this network'):
        export_onnx(net, path, (3, 5), (5, 3), overwrite=True)
    with pytest.raises(ValueError, match=r'must have no None if dynamic_batch is False \(saw: \(3, None\)'):
        export_onnx(net, path, (3, None), (1, 3), dynamic_batch=False, overwrite=True)
    with pytest.raises(ValueError, match=r'one batch axis of each input by None \(saw: \(None, None\)\)'):
        export_onnx(net, path, (None, None), (1, 3), overwrite=True)


def test_existing_files(path, tmp_path):
    net = ready(nn.Dense(3), (1, 4))
    path.write_bytes(b'old')
    with pytest.raises(FileExistsError, match='path must not exist, unless overwrite is True') as error:
        export_onnx(net, path, (1, 4))
    assert error.value.filename == os.fspath(path) and path.read_bytes() == b'old'
    with pytest.raises(FileExistsError):        # before any work
        export_onnx(nn.Dense(3), path, (1, 4))
    with pytest.raises(NotImplementedError):
        export_onnx(Function(lambda F, x: F.topk(x)), path, (1, 4), overwrite=True)
    assert path.read_bytes() == b'old'
    export_onnx(net, path, (1, 4), overwrite=True)
    assert_equal(path, net, batch((1, 4), 3))
    with pytest.raises(IsADirectoryError, match='path must be a file'):
        export_onnx(net, tmp_path, (1, 4), overwrite=True)
    with pytest.raises(FileNotFoundError, match='path must be in a folder that exists'):
        export_onnx(net, tmp_path / 'none' / 'net.onnx', (1, 4))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('function, dtype', [(lambda F, x: F.exp(x), 'int32'), (lambda F, x: x + 1, 'int8')])
def test_an_operator_that_onnx_lacks_for_a_type(path, function, dtype):
    path.write_bytes(b'old')
    with pytest.raises(NotImplementedError, match=f'(?s)types of their inputs .*{dtype}'):
        export_onnx(Function(function), path, (1, 4), dtypes=dtype, overwrite=True)
    assert path.read_bytes() == b'old'


def test_batch_norm_with_the_channels_on_the_first_axis(path):
    net = nn.BatchNorm(axis=0, in_channels=3, running_mean_initializer='uniform', gamma_initializer='uniform')
    net.initialize()
    with pytest.raises(ValueError, match='one mean for each entry of the batch axis'):
        export_onnx(net, path, (3, 4, 5))
    export_onnx(net, path, (3, None, 5))
    for batch_size in (1, 2, 7):
        assert_equal(path, net, batch((batch_size, 3, 5), batch_size).swapaxes(0, 1))


def test_a_link_that_leads_nowhere_exists(path, tmp_path):
    net = ready(nn.Dense(3), (1, 4))
    path.symlink_to(tmp_path / 'target')
    with pytest.raises(FileExistsError, match='path must not exist, unless overwrite is True'):
        export_onnx(net, path, (1, 4))
    assert not path.exists()
    export_onnx(net, path, (1, 4), overwrite=True)
    assert path.is_symlink() and (tmp_path / 'target').is_file()


def test_operators_that_are_not_known(path):
    for function, what in (
            (lambda F, x: F.topk(x), 'topk in odd_topk0'),
            (lambda F, x: F.broadcast_add(F.random.uniform(shape=(1, 4)), x), 'random_uniform in odd_'),
            (lambda F, x: F.Dropout(x, mode='always'), "Dropout with mode='always' in odd_dropout0"),
            (lambda F, x: F.softmax(x, F.sum(x, axis=1), use_length=True), 'softmax with use_length=True in odd_soft'),
            (lambda F, x: F.LeakyReLU(x, act_type='rrelu')[0], 'LeakyReLU with act_type=rrelu in odd_leakyrelu0'),
            (lambda F, x: F.take(x, F.zeros((1,)), mode='wrap'), "take with mode='wrap' in odd_take0"),
            (lambda F, x: F.clip(x, 2, 1), r'clip with a_min=2(\.0)? above a_max=1(\.0)? in odd_clip0'),
            (lambda F, x: F.norm(F.cast(x, 'int32'), axis=1), 'norm with an input of type int32 in odd_norm0'),
            (lambda F, x: F.norm(x, ord=1, out_dtype='float64'), "norm with out_dtype='float64' in odd_norm0")):
        with pytest.raises(NotImplementedError, match=rf'operators that export_onnx knows \(saw: {what}'):
            export_onnx(Function(function, prefix='odd_'), path, (1, 4))
    image = (1, 2, 6, 6)
    for layer, what in (
            (nn.Conv2D(3, (2, 3), layout='NHWC', in_channels=6, prefix='odd_'),
             "Convolution with layout='NHWC' in odd_fwd"),
            (nn.MaxPool2D(2, 3, ceil_mode=True, prefix='odd_'),
             'Pooling with a window that stands outside of its input in odd_fwd'),
            (nn.MaxPool2D(layout='NHWC', prefix='odd_'), "Pooling with layout='NHWC' in odd_fwd"),
            (Function(lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type='lp', p_value=2), prefix='odd_'),
             'Pooling with pool_type=lp in odd_'),
            (Function(lambda F, x: F.Deconvolution(x, F.ones((2, 3, 6, 6)), kernel=(6, 6), num_filter=3,
                                                   target_shape=(5, 5), no_bias=True), prefix='odd_'),
             'Deconvolution with target_shape in odd_'),
            (Function(lambda F, x: F.UpSampling(x, x, scale=2, sample_type='nearest', num_args=2), prefix='odd_'),
             'UpSampling with 2 inputs in odd_')):
        layer.initialize()
        with pytest.raises(NotImplementedError, match=what):
            export_onnx(layer, path, image, dynamic_batch=False)
    net = rnn.LSTM(3, use_sequence_length=True, input_size=4)
    net.initialize()
    with pytest.raises(NotImplementedError, match='RNN with use_sequence_length=True in lstm'):
        export_onnx(WithLength(net), path, (2, None, 4), (None,))
    assert not path.exists()


class WithLength(WithStates):
    def hybrid_forward(self, F, x, length):
        return self.layer(x, None, length)


def test_bad_networks(path):
    for net, message in ((3, r'net must be a HybridBlock, such as nn.HybridSequential \(saw: int\)'),
                         (nn.Sequential(), r'net must be a HybridBlock.* \(saw: Sequential\)')):
        with pytest.raises(TypeError, match=message):
            export_onnx(net, path, (1, 4))
    plain = nn.Sequential(prefix='plain_')
    net = nn.HybridSequential()
    net._children['0'] = plain
    with pytest.raises(TypeError, match=r'net must hold HybridBlocks only \(saw: plain, a Sequential\)'):
        export_onnx(net, path, (1, 4))
    trained, x = nets.make('dense')
    bbb.prune(trained, 0.9)
    with pytest.raises(TypeError, match=r'no SparseDense, .* \(saw: net_bayesdense0\): export .* before to_sparse'):
        export_onnx(to_sparse(trained), path, x.shape)
    assert_exports(trained, path, x.shape)
    with pytest.raises(TypeError, match='MonteCarlo'):
        export_onnx(MonteCarlo(trained, 3), path, x.shape, overwrite=True)
    with pytest.raises(RuntimeError, match=r'^net must be initialized \(saw: .*_weight without values\): call '):
        export_onnx(nn.Dense(3, in_units=4), path, (1, 4), overwrite=True)
    for layer in nn.Dense(3), BayesDense(3):
        layer.initialize()
        with pytest.raises(gluon.parameter.DeferredInitializationError, match=(
                r'^net must know the shapes of its Parameters \(saw: .*_weight.*call it once')):
            export_onnx(layer, path, (1, 4), overwrite=True)
    named = Function(lambda F, x: x)
    named.table = gluon.Parameter('data', shape=(1,))
    named.initialize()
    named.table.initialize()
    with pytest.raises(ValueError, match=r'no Parameter with the name of an input \(saw: data\)'):
        export_onnx(named, path, (1, 4), overwrite=True)
    with pytest.raises(ValueError, match='net must run on Symbols, as hybridize needs it'):
        export_onnx(Function(lambda F, x: x.asnumpy()), path, (1, 4), overwrite=True)


def test_bad_shapes(path):
    net = ready(nn.Dense(3, in_units=4), (1, 4))
    for shapes, error, message in (
            ((), ValueError, 'input_shapes must have one shape for each input of net'),
            (((1, 4), (1, 4)), ValueError, 'one argument for each of the 2 input_shapes'),
            (((0, 4),), ValueError, r'each size in input_shapes must be at least 1 \(saw: 0\)'),
            (((-1, 4),), ValueError, r'each size in input_shapes must be at least 1 \(saw: -1\)'),
            (((1, 4.),), TypeError, r'each size in input_shapes must be an integer \(saw: 4.0\)'),
            ((4,), TypeError, r'input_shapes must be tuples of at least one size \(saw: 4\)'),
            (((),), TypeError, r'input_shapes must be tuples of at least one size \(saw: \(\)\)'),
            (('data',), TypeError, r"input_shapes must be tuples of at least one size \(saw: 'data'\)"),
            (((2, 5),), ValueError, r'input_shapes and dtypes must fit the network \(saw: \(2, 5\) of float32; Error '
                                    r'in operator dense\d+_fwd: Shape inconsistent, Provided = \[3,4\]')):
        with pytest.raises(error, match=message):
            export_onnx(net, path, *shapes)
    with pytest.raises(ValueError, match=r'that net uses \(saw: \(1, 4\), \(1, 3\), where \(1, 3\) for data1'):
        export_onnx(Function(lambda F, x, y: x + 1), path, (1, 4), (1, 3))
    with pytest.raises(ValueError, match=r'must fit the network \(saw: .*Reshape in .* makes shape \(2, 3\) of shape'):
        export_onnx(Function(lambda F, x: F.reshape(x, (2, 3))), path, (1, 4), dynamic_batch=False)


def test_bad_dtypes(path):
    net = ready(nn.Dense(3), (1, 4))
    with pytest.raises(ValueError, match=r"one for each of the 1 inputs \(saw: \['float32', 'int32'\]\)"):
        export_onnx(net, path, (1, 4), dtypes=['float32', 'int32'])
    with pytest.raises(ValueError, match=r'dtype of an input must be float16, .* \(saw: complex64\)'):
        export_onnx(net, path, (1, 4), dtypes='complex64')
    with pytest.raises(TypeError, match='dtype of an input must be a dtype'):
        export_onnx(net, path, (1, 4), dtypes='number')
    with pytest.raises(ValueError, match=r'dtypes must fit the network \(saw: \(1, 4\) of float64; Error'):
        export_onnx(net, path, (1, 4), dtypes='float64')


def test_without_onnx(path, monkeypatch):
    for name in [name for name in sys.modules if name.partition('.')[0] == 'onnx']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match=r"needs the package onnx, .*pip install '.\[onnx\]'"):
        export_onnx(ready(nn.Dense(3), (1, 4)), path, (1, 4))


def test_onnx_is_imported_at_need_only():
    code = ('import sys; sys.modules["onnx"] = None; import bbb_layers; '
            'print([name for name in sys.modules if name.startswith("onnx")])')
    output = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, check=True).stdout
    assert output.decode().strip() == "['onnx']"


def test_files_too_large_for_protobuf(path, monkeypatch):
    monkeypatch.setattr('bbb_layers.deploy.onnx_export._LARGEST', 100)
    with pytest.raises(ValueError, match=r'net must fit into a file of 2 GB \(saw: \d+ bytes\)'):
        export_onnx(ready(nn.Dense(3), (1, 4)), path, (1, 4))
    assert not path.exists()


def test_two_threads(tmp_path):
    net, x = nets.make('conv2d')
    paths = [tmp_path / f'{number}.onnx' for number in range(4)]
    threads = [threading.Thread(target=export_onnx, args=(net, path, x.shape)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in paths:
        assert_equal(path, net, x.asnumpy())
