# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sparse layers compute what nn.Dense computes, in less space, whatever refers to them."""
import importlib
import sys

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn
from mxnet.gluon.parameter import DeferredInitializationError
from subprocesses import EXAMPLES, run

from bbb_layers import BayesDense, prune
from bbb_layers.networks.sparse import SparseDense, to_sparse

SCRIPT = EXAMPLES / 'benchmark' / 'sparse.py'
sys.path.insert(0, str(SCRIPT.parent))
sparse_benchmark = importlib.import_module('sparse')


def normal(*shape, dtype='float32'):
    return nd.array(np.random.normal(size=shape), dtype=dtype)


def sparse_values(units, in_units, zeros=0.8, dtype='float32'):
    """A matrix with zeros, and with a row that holds nothing else."""
    values = np.random.normal(size=(units, in_units)) * (np.random.uniform(size=(units, in_units)) >= zeros)
    values[units // 2] = 0
    return nd.array(values, dtype=dtype)


def give_zeros(net):
    for param in net.collect_params('.*weight').values():
        param.set_data(param.data() * nd.array(np.random.uniform(size=param.shape) >= 0.4, dtype=param.dtype))
    return net


def perceptron(Dense=nn.Dense, mode=None, initialize=True, in_units=(7, 6, 5), dtype='float32'):
    net = nn.HybridSequential()
    net.add(Dense(6, activation='relu', in_units=in_units[0], dtype=dtype),
            Dense(5, activation='tanh', use_bias=False, in_units=in_units[1], dtype=dtype),
            Dense(4, in_units=in_units[2], dtype=dtype))
    if initialize:
        net.initialize(mx.init.Normal(1))
        net.collect_params('.*bias').initialize(mx.init.Normal(1), force_reinit=True)
        give_zeros(net)
    return hybridize(net, mode)


def check_equal(one, other, x, rtol=1e-5):
    expected, actual = other(x), one(x)
    assert actual.shape == expected.shape and actual.dtype == expected.dtype and actual.stype == 'default'
    assert abs(expected.asnumpy()).max() > 0
    np.testing.assert_allclose(actual.asnumpy(), expected.asnumpy(), rtol=rtol, atol=rtol)


def is_sparse(layer):
    return type(layer) is SparseDense and layer.weight.data().stype == 'csr'


def contents(net):
    return {name: param.list_data()[0].asnumpy().copy() for name, param in net._collect_params_with_prefix().items()}


@pytest.mark.parametrize('dtype, rtol', [('float32', 1e-5), ('float64', 1e-13)])
@pytest.mark.parametrize('activation', [None, 'relu', 'sigmoid'])
@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('flatten, shape', [(True, (9, 7)), (True, (9, 1, 7)), (False, (9, 7)), (False, (2, 3, 4, 7))])
def test_computes_what_dense_computes(mode, dtype, rtol, activation, use_bias, flatten, shape):
    kwargs = dict(units=5, activation=activation, use_bias=use_bias, flatten=flatten, dtype=dtype, in_units=7)
    dense, sparse = nn.Dense(**kwargs), hybridize(SparseDense(**kwargs), mode)
    assert repr(sparse) == repr(dense).replace('Dense', 'SparseDense', 1)
    for zeros in (0.8, 0., 0.5):        # another number of values in the same graph
        values, bias = sparse_values(5, 7, zeros, dtype), normal(5, dtype=dtype)
        for layer in (dense, sparse):
            layer.initialize(force_reinit=True)
            layer.weight.set_data(values)
            if use_bias:
                layer.bias.set_data(bias)
        assert sparse.weight.data().stype == 'csr'
        assert (sparse.weight.data().asnumpy() == values.asnumpy()).all()
        assert sparse.weight.data().data.size == (values.asnumpy() != 0).sum()
        check_equal(sparse, dense, normal(*shape, dtype=dtype), rtol)


def test_all_zero_and_full_weight(mode):
    x, bias = normal(3, 7), normal(5)
    layer = hybridize(SparseDense(5, in_units=7), mode)
    layer.initialize()
    layer.bias.set_data(bias)
    for values in (nd.zeros((5, 7)), normal(5, 7), nd.sparse.zeros('csr', (5, 7)), normal(5, 7).tostype('csr')):
        layer.weight.set_data(values)
        np.testing.assert_allclose(layer(x).asnumpy(), x.asnumpy() @ values.asnumpy().T + bias.asnumpy(), rtol=1e-4,
                                   atol=1e-5)


def test_any_batch_size(mode):
    dense = perceptron(mode=mode)
    sparse = to_sparse(dense)
    for batch in (8, 8, 3, 1, 16, 8):
        check_equal(sparse, dense, normal(batch, 7))


@pytest.mark.parametrize('between', [
    lambda: nn.Dropout(0.5), lambda: nn.BatchNorm(), lambda: nn.Flatten(), lambda: nn.Activation('relu'),
    lambda: nn.PReLU(alpha_initializer=mx.init.Uniform(1)), lambda: nn.HybridLambda(lambda F, x: F.softmax(x, axis=0))])
def test_layers_in_between(mode, between):
    """A graph leaves the transposes between layers out; what stands there must not notice."""
    net = nn.HybridSequential()
    net.add(nn.Dense(6, activation='tanh'), between(), nn.Dense(6), between(), nn.Dense(4, flatten=False))
    net.initialize(mx.init.Normal(1))
    net(normal(8, 7))
    check_equal(to_sparse(hybridize(give_zeros(net), mode)), net, normal(8, 7))


@pytest.mark.parametrize('act', [
    lambda: nn.PReLU(alpha_initializer=mx.init.Uniform(1)), lambda: nn.HybridLambda(lambda F, x: F.softmax(x, axis=1))])
def test_activation_that_was_replaced(mode, act):
    net = nn.HybridSequential()
    net.add(nn.Dense(6, in_units=7), nn.Dense(5, in_units=6))
    net[0].act = act()
    net.initialize(mx.init.Normal(1))
    net(normal(3, 7))
    check_equal(to_sparse(hybridize(net, mode)), net, normal(3, 7))


class Branches(gluon.HybridBlock):
    """A layer whose output has several uses, one of them a layer with flatten=False."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.first = nn.Dense(6, activation='relu', in_units=7)
            self.left = nn.Dense(6, in_units=6)
            self.right = nn.Dense(6, flatten=False, in_units=6)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        return self.left(x) + F.softmax(self.right(x), axis=1) * x


def test_output_with_several_uses(mode):
    net = Branches()
    net.initialize(mx.init.Normal(1))
    check_equal(to_sparse(hybridize(give_zeros(net), mode)), net, normal(5, 7))


def test_gradients_of_input_and_biases(mode):
    dense = perceptron(mode=mode)
    sparse = to_sparse(dense)
    x = normal(3, 7)
    x.attach_grad()
    gradients = []
    for net in (dense, sparse):
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        gradients.append((x.grad.asnumpy(), net[0].bias.grad().asnumpy()))
    for theirs, ours in zip(*gradients):
        assert abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    sparse.collect_params().setattr('grad_req', 'write')
    assert sparse[0].weight.grad_req == 'null' and sparse[0].bias.grad_req == 'write'


def test_conversion(mode):
    dense = perceptron(mode=mode)
    x = normal(3, 7)
    before, expected, params = contents(dense), dense(x).asnumpy(), list(dense.collect_params().values())
    sparse = to_sparse(dense)
    assert type(sparse) is nn.HybridSequential and all(map(is_sparse, sparse))
    assert list(sparse.collect_params()) == list(dense.collect_params())
    assert [layer.prefix for layer in sparse] == [layer.prefix for layer in dense]
    assert [layer._active for layer in sparse] == [mode is not None] * 3
    np.testing.assert_allclose(sparse(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    # The given net is as it was, and stays so when the copy changes.
    for param in sparse.collect_params().values():
        param.set_data(param.data().tostype('default') + 1)
    assert all(type(layer) is nn.Dense for layer in dense) and list(dense.collect_params().values()) == params
    for name, value in contents(dense).items():
        assert (value == before[name]).all(), name
    assert {type(param) for param in params} == {gluon.Parameter} and {param.grad_req for param in params} == {'write'}
    assert (dense(x).asnumpy() == expected).all()
    with autograd.record():
        loss = dense(x).sum()
    loss.backward()
    assert abs(dense[0].weight.grad().asnumpy()).max() > 0


class Nested(gluon.HybridBlock):
    """The same layers as children, under other names, in a list and deeper; and layers that are none of ours."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.deep = nn.HybridSequential()
            self.deep.add(nn.HybridSequential(), nn.BatchNorm())
            self.deep[0].add(nn.Dense(6, activation='relu'))
            self.alias = self.deep[0][0]
            self.layers = [self.alias]
            self.conv = nn.Conv1D(3, 2)
            self.twice = nn.Dense(6, flatten=False)
            self.tied = nn.Dense(6, flatten=False, params=self.twice.params)

    def hybrid_forward(self, F, x):
        x = self.deep(self.conv(x))
        return self.tied(self.twice(x)) + self.alias._units


def test_aliases_and_nested_blocks(mode):
    net = Nested()
    net.initialize(mx.init.Normal(1))
    x = normal(4, 2, 5)
    net(x)
    net = hybridize(give_zeros(net), mode)
    sparse = to_sparse(net)
    layer = sparse.deep[0][0]
    assert is_sparse(layer) and sparse.alias is layer and sparse.layers[0] is layer
    assert is_sparse(sparse.twice) and is_sparse(sparse.tied) and sparse.tied.weight is sparse.twice.weight
    assert sparse.tied.params[sparse.twice.weight.name] is sparse.twice.weight
    assert type(sparse.conv) is nn.Conv1D and type(sparse.deep[1]) is nn.BatchNorm
    check_equal(sparse, net, x)


def test_one_layer_and_children_of_a_plain_block():
    dense = nn.Dense(5, in_units=7)
    dense.initialize(mx.init.Normal(1))
    check_equal(to_sparse(dense), dense, normal(3, 7))
    net = nn.Sequential()
    net.add(dense)
    assert is_sparse(to_sparse(net)[0]) and type(net[0]) is nn.Dense


class MyDense(nn.Dense):
    pass


def test_other_layers_stay():
    net = nn.HybridSequential()
    embedding = nn.Embedding(5, 6)
    net.add(embedding, rnn.LSTM(6, input_size=6, layout='NTC'), MyDense(6, in_units=6, flatten=False),
            BayesDense(6, in_units=6, flatten=False), nn.Dense(6, in_units=6, flatten=False),
            nn.Dense(5, in_units=6, flatten=False, use_bias=False, params=embedding.params))
    net.initialize(mx.init.Normal(0.5))
    sparse = to_sparse(net)
    assert [type(layer) for layer in sparse] == [
        nn.Embedding, rnn.LSTM, MyDense, SparseDense, SparseDense, nn.Dense]
    assert sparse[5].weight is sparse[0].weight and sparse[0].weight.data().stype == 'default'
    check_equal(sparse, net, nd.array([[0, 1, 2], [3, 4, 0]]))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_save_and_load(tmp_path, mode, dtype):
    path = str(tmp_path / 'net.params')
    dense = perceptron(mode=mode, dtype=dtype)
    sparse = to_sparse(dense)
    sparse.save_parameters(path)
    x = normal(3, 7, dtype=dtype)
    for in_units in ((7, 6, 5), (0, 0, 0)):
        for initialize in (False, True):
            other = perceptron(SparseDense, mode, initialize=False, in_units=in_units, dtype=dtype)
            if initialize:
                other.initialize()
            other.load_parameters(path)
            assert all(map(is_sparse, other)) and other[0].weight.shape == (6, 7)
            assert (other(x).asnumpy() == sparse(x).asnumpy()).all()
    # Into a net that ran with other weights, and between sparse and dense in both directions.
    other = to_sparse(perceptron(mode=mode, dtype=dtype))
    other(x)
    other.load_parameters(path)
    assert (other(x).asnumpy() == sparse(x).asnumpy()).all()
    plain = perceptron(mode=mode, dtype=dtype)
    plain.load_parameters(path)
    assert (plain[0].weight.data().asnumpy() == dense[0].weight.data().asnumpy()).all()
    check_equal(plain, sparse, x)
    dense.save_parameters(path)
    other = perceptron(SparseDense, mode, initialize=False, in_units=(0, 0, 0), dtype=dtype)
    other.load_parameters(path)
    assert all(map(is_sparse, other)) and (other(x).asnumpy() == sparse(x).asnumpy()).all()


def test_load_what_does_not_fit(tmp_path):
    path = str(tmp_path / 'net.params')
    to_sparse(perceptron()).save_parameters(path)
    with pytest.raises(AssertionError, match='shape incompatible'):
        perceptron(SparseDense, initialize=False, in_units=(8, 6, 5)).load_parameters(path)
    with pytest.raises(AssertionError, match='dtype incompatible'):
        perceptron(SparseDense, initialize=False, dtype='float64').load_parameters(path)
    other = perceptron(SparseDense, initialize=False, dtype='float64')
    other.load_parameters(path, cast_dtype=True)
    assert other[0].weight.data().dtype == np.float64
    with pytest.raises(AssertionError, match='missing'):
        SparseDense(6, in_units=7).load_parameters(path)


def test_file_of_a_pruned_network_is_small():
    dense = sparse_benchmark.perceptron(1200, 98, seed=0)
    values = np.concatenate([value.ravel() for value in contents(dense).values()])
    assert (values == 0).sum() == values.size * 98 // 100
    sparse = to_sparse(dense)
    assert sparse_benchmark.file_size(dense) >= 15 * sparse_benchmark.file_size(sparse)
    check_equal(sparse, dense, normal(128, 784))


def test_export_and_import(tmp_path):
    x, dense = normal(3, 7), perceptron(mode={})
    dense(x)        # its weights have dense symbols now, which the copy must not take over
    net = to_sparse(dense)
    expected = net(x).asnumpy()
    assert net[0].weight.var().attr('__storage_type__') == mx.sym.var('x', stype='csr').attr('__storage_type__')
    net.export(str(tmp_path / 'net'))
    with pytest.warns(UserWarning, match='Cannot decide type'):     # MXNet's own, of any network
        loaded = gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'],
                                           str(tmp_path / 'net-0000.params'))
    np.testing.assert_allclose(loaded(x).asnumpy(), expected, rtol=1e-6)


def test_cast_and_contexts(mode):
    dense = perceptron(mode=mode)
    sparse = to_sparse(dense)
    x = normal(3, 7)
    sparse(x)
    for net in (dense, sparse):
        net.cast('float64')
    check_equal(sparse, dense, x.astype('float64'), 1e-13)
    sparse.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
    outputs = [sparse(x.astype('float64').as_in_context(ctx)) for ctx in (mx.cpu(0), mx.cpu(1))]
    assert [output.ctx for output in outputs] == [mx.cpu(0), mx.cpu(1)]
    assert (outputs[0].asnumpy() == outputs[1].asnumpy()).all()
    assert [value.stype for value in sparse[0].weight.list_data()] == ['csr', 'csr']


def test_initializers():
    layer = SparseDense(5, in_units=7, weight_initializer=mx.init.Constant(2.))
    layer.initialize()
    assert (layer.weight.data().asnumpy() == 2).all() and is_sparse(layer)
    layer.initialize(mx.init.Zero(), force_reinit=True)     # the layer's own goes first, as in nn.Dense
    assert (layer.weight.data().asnumpy() == 2).all()
    layer = SparseDense(5, in_units=7)
    layer.initialize(mx.init.Zero())
    assert layer.weight.data().data.size == 0


def test_parameters_that_are_shared():
    one = SparseDense(5, in_units=7)
    two = SparseDense(5, in_units=7, params=one.params)
    assert two.weight is one.weight and two.bias is one.bias
    dense = nn.Dense(5, in_units=7)
    with pytest.raises(ValueError, match=r'params must be those of another SparseDense \(saw: Parameter dense'):
        SparseDense(5, in_units=7, params=dense.params)
    dense.initialize()
    assert dense.weight.data().stype == 'default'


def test_unknown_in_units(mode):
    net = nn.HybridSequential()
    net.add(SparseDense(5))
    hybridize(net, mode)
    net.initialize()
    with pytest.raises(ValueError, match=r'in_units of .*sparsedense\d+ must be known .*\(saw: 0\)'):
        net(normal(3, 7))
    values = normal(5, 7)
    net[0].weight.set_data(values)
    x = normal(3, 7)
    np.testing.assert_allclose(net(x).asnumpy(), x.asnumpy() @ values.asnumpy().T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float16', 'int32'])
def test_bad_dtype(dtype):
    message = rf'dtype of a sparse layer must be float32 or float64 \(saw: {dtype}\)'
    with pytest.raises(ValueError, match=message):
        SparseDense(5, dtype=dtype)
    layer = SparseDense(5, in_units=7)
    layer.initialize()
    with pytest.raises(ValueError, match=message):
        layer.cast(dtype)
    assert layer.weight.dtype == 'float32'
    dense = nn.Dense(5, in_units=7, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        to_sparse(dense)


def test_bad_net():
    with pytest.raises(TypeError, match=r'net must be a Gluon block \(saw: 3\)'):
        to_sparse(3)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(3, 2, in_channels=1), SparseDense(5, in_units=2))
    net.initialize()
    with pytest.raises(ValueError, match=r'net must hold at least one Dense layer .*\(saw: HybridSequential'):
        to_sparse(net)
    net = perceptron(initialize=False, in_units=(0, 0, 0))
    with pytest.raises(RuntimeError, match='not been initialized'):
        to_sparse(net)
    net.initialize()
    with pytest.raises(DeferredInitializationError):
        to_sparse(net)
    assert type(net[0]) is nn.Dense


def test_wrong_size_of_the_input(mode):
    net = to_sparse(perceptron(mode=mode))
    with pytest.raises(mx.MXNetError, match='dot shape error'):
        net(normal(3, 6)).wait_to_read()


@pytest.mark.costly
def test_benchmark_prints_every_row():
    done = run(SCRIPT, '--units', '20', '--rounds', '1', '--warmup', '1', limit=100)
    assert '784-20-20-10, float32' in done.stdout.splitlines()[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in done.stdout.splitlines()
            if line.startswith('| ') and 'zeros' not in line]
    sizes, times = [row for row in rows if len(row) == 4], [row for row in rows if len(row) == 7]
    assert [row[0] for row in sizes] == ['90', '95', '98', '99']
    assert [row[:2] for row in times] == [[zeros, batch] for zeros in ('90', '95', '98', '99')
                                          for batch in ('1', '128', '1024')]
    for row in sizes:
        np.testing.assert_allclose(float(row[3]), float(row[1]) / float(row[2]), atol=0.01)


def test_pruned_bayesian_network(mode, tmp_path):
    net = nn.HybridSequential()
    net.add(BayesDense(30, activation='relu'), nn.Dropout(0.5), BayesDense(20, flatten=False), nn.Dense(3))
    net.initialize(mx.init.Normal(0.5))
    hybridize(net, mode)
    x = nd.random.normal(shape=(4, 10))
    net(x)
    prune(net, 0.9)
    expected = net(x).asnumpy()
    sparse = to_sparse(net)
    assert [type(layer) for layer in sparse] == [SparseDense, nn.Dropout, SparseDense, SparseDense]
    kept = sum(int((abs(layer.posterior()['weight'][0]) > 0).sum().asscalar()) for layer in (net[0], net[2]))
    assert sum(sparse[i].weight.data().data.size for i in (0, 2)) == kept < 0.2 * (300 + 600)
    np.testing.assert_allclose(sparse(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    sparse.save_parameters(str(tmp_path / 'sparse.params'))
    new = nn.HybridSequential()
    new.add(SparseDense(30, activation='relu'), nn.Dropout(0.5), SparseDense(20, flatten=False), SparseDense(3))
    new.load_parameters(str(tmp_path / 'sparse.params'))
    np.testing.assert_allclose(new(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(net(x).asnumpy(), expected)
    net[0].weight.set_data(nd.full((30, 10), np.nan))
    with pytest.raises(ValueError, match='mu of Parameter .* must be finite'):
        to_sparse(net)
