# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import MXNetError, autograd, gluon, nd
from mxnet.gluon import nn
from mxnet.gluon.data import ArrayDataset, DataLoader

from bbb_layers import BayesDense, BayesLSTM, draw, predict, to_deterministic


def linear(**kwargs):
    net = BayesDense(2, in_units=3, bias_initializer='ones', initial_sigma=0.4, **kwargs)
    net.initialize(mx.init.Normal(0.5))
    return net


@pytest.mark.parametrize('name', nets.NETWORKS)
def test_each_draw_is_one_function(name, mode):
    net, x = nets.make(name, initial_sigma=0.3)
    hybridize(net, mode)
    before = nets.values(net)
    mx.random.seed(11)
    draws = predict(net, x, num_samples=3, batch_size=3)
    assert draws.shape == (3,) + net(x).shape and draws.dtype == net(x).dtype
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(draws[one] - draws[other]).max().asscalar() > 1e-3
    # The same functions see the examples in whatever batches, chunks and order.
    backwards = nd.concat(*[x[i:i + 1] for i in (3, 2, 1, 0)], dim=0)
    mx.random.seed(11)
    again = predict(net, backwards, num_samples=3, batch_size=1, chunk=1)
    np.testing.assert_allclose(again.asnumpy()[:, ::-1], draws.asnumpy(), rtol=1e-4, atol=1e-5)
    after = nets.values(net)
    assert all((before[key] == after[key]).all() for key in before)


def test_moments():
    net = linear()
    x = nd.random.normal(shape=(4, 3))
    n = 1000
    draws = predict(net, x, num_samples=n).asnumpy().astype('float64')
    variance = 0.4 ** 2 * (1 + (x.asnumpy() ** 2).sum(axis=1, keepdims=True)) * np.ones((1, 2))
    assert (abs(draws.mean(axis=0) - net(x).asnumpy()) < 5 * (variance / n) ** 0.5).all()
    assert (abs(draws.var(axis=0) - variance) < 5 * variance * (2 / n) ** 0.5).all()
    # Consecutive draws are independent.
    first, second = draws[:-1, 0, 0] - draws[:, 0, 0].mean(), draws[1:, 0, 0] - draws[:, 0, 0].mean()
    assert abs((first * second).mean() / variance[0, 0]) < 5 / n ** 0.5


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('chunk', [1, 2, 8])
def test_loader(shuffle, chunk):
    net, x = linear(), nd.random.normal(shape=(23, 3))
    reads = []

    class Counting(DataLoader):
        def __iter__(self):
            reads.append(1)
            return super().__iter__()

    loader = Counting(ArrayDataset(x, nd.arange(23)), 5, shuffle=shuffle)
    mx.random.seed(3)
    draws, labels = predict(net, loader, num_samples=4, chunk=chunk, with_labels=True, progress=False)
    assert len(reads) == 1 and draws.shape == (4, 23, 2)
    order = labels.asnumpy().astype(int)
    assert sorted(order) == list(range(23)) and (list(order) != sorted(order)) == shuffle
    mx.random.seed(3)
    np.testing.assert_allclose(draws.asnumpy(), predict(net, x[labels], num_samples=4).asnumpy(), rtol=1e-5, atol=1e-6)
    mx.random.seed(3)
    again = predict(net, DataLoader(x, 7), num_samples=4, progress=False)      # batches that are arrays
    np.testing.assert_allclose(again[:, order].asnumpy(), draws.asnumpy(), rtol=1e-5, atol=1e-6)


def test_progress_bar(capsys):
    pytest.importorskip('tqdm')
    loader = DataLoader(nd.ones((6, 3)), 2)
    predict(linear(), loader, num_samples=2)
    seen = capsys.readouterr()
    assert 'predict' in seen.err and '/6' in seen.err and seen.out == ''
    predict(linear(), loader, num_samples=2, progress=False)
    predict(linear(), nd.ones((6, 3)), num_samples=2)
    seen = capsys.readouterr()
    assert seen.err == seen.out == ''


def test_works_without_tqdm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'tqdm', None)
    assert predict(linear(), DataLoader(nd.ones((6, 3)), 2), num_samples=2).shape == (2, 6, 2)


def test_does_not_reset_random_numbers():
    net, x = linear(), nd.ones((4, 3))
    mx.random.seed(1)
    predict(net, x, num_samples=2)
    first = nd.random.normal(shape=(5,)).asnumpy()
    mx.random.seed(2)
    predict(net, x, num_samples=2)
    assert (nd.random.normal(shape=(5,)).asnumpy() != first).all()


def test_batchnorm_and_dropout_are_in_predict_mode(mode):
    net = nn.HybridSequential()
    net.add(BayesDense(4, in_units=3, initial_sigma=1e-6), nn.BatchNorm(), nn.Dropout(0.5))
    net.initialize()
    hybridize(net, mode)
    x = nd.random.normal(shape=(5, 3))
    net(x)
    net[1].running_mean.set_data(nd.ones((4,)))
    expected = net(x).asnumpy()
    with autograd.train_mode():     # the caller's mode does not matter
        draws = predict(net, x, num_samples=2).asnumpy()
    np.testing.assert_allclose(draws[0], expected, atol=1e-4)
    np.testing.assert_array_equal(net[1].running_mean.data().asnumpy(), 1)


def test_seeds_differ_between_calls():
    """The seed comes from 2^31 numbers; of 61 numbers, 40 calls would very likely have one twice."""
    net, x = linear(), nd.ones((1, 3))
    values = {float(predict(net, x, num_samples=1, progress=False).sum().asscalar()) for _ in range(40)}
    assert len(values) == 40


def test_default_number_of_draws():
    assert predict(linear(), nd.ones((2, 3)), progress=False).shape == (32, 2, 2)


def test_records_nothing():
    net, x = linear(), nd.ones((2, 3))
    x.attach_grad()
    with autograd.record():
        y = predict(net, x, num_samples=2)
    with pytest.raises(mx.MXNetError, match='computational graph'):
        y.backward()


def test_several_inputs_and_outputs():
    class ExamplesFirst(gluon.Block):
        """An LSTM whose state and sequence both have the examples along axis 0."""
        def __init__(self):
            super().__init__()
            self.lstm = BayesLSTM(4, input_size=3, initial_sigma=0.3, layout='NTC')

        def forward(self, x, state):
            output, states = self.lstm(x, [state.swapaxes(0, 1)] * 2)
            return output, [state.swapaxes(0, 1) for state in states]

    net = ExamplesFirst()
    net.initialize()
    x, state = nd.random.normal(shape=(2, 5, 3)), nd.zeros((2, 1, 4))
    output, states = predict(net, (x, state), num_samples=3, batch_size=1)
    assert output.shape == (3, 2, 5, 4) and [item.shape for item in states] == [(3, 2, 1, 4)] * 2
    np.testing.assert_allclose(output[:, :, -1].asnumpy(), states[0][:, :, 0].asnumpy(), rtol=1e-5)
    batches = [[[x, state], nd.zeros(2)]] * 2
    output, states = predict(net, batches, num_samples=3, progress=False)
    assert output.shape == (3, 4, 5, 4) and states[1].shape == (3, 4, 1, 4)


def test_batch_axis():
    net = BayesLSTM(4, input_size=3, initial_sigma=0.3)     # time first
    net.initialize()
    x = nd.random.normal(shape=(5, 4, 3))
    mx.random.seed(7)
    draws = predict(net, x, num_samples=3, batch_size=2, batch_axis=1, chunk=1)
    mx.random.seed(7)
    np.testing.assert_allclose(draws.asnumpy(), predict(net, x, num_samples=3, batch_axis=1).asnumpy(), rtol=1e-5)
    assert draws.shape == (3, 5, 4, 4)


def test_an_output_without_examples_raises():
    net = nn.Sequential()
    net.add(linear(), nn.Lambda(lambda x: x.sum()))
    with pytest.raises(ValueError, match=r'along batch_axis 0 \(saw: shape \(1,\) for a batch of 4\)'):
        predict(net, nd.ones((4, 3)), num_samples=2)
    with pytest.raises(ValueError, match=r'along batch_axis 1 \(saw: shape \(1,\) for a batch of 3\)'):
        predict(net, nd.ones((4, 3)), num_samples=2, batch_axis=1)


def test_agrees_with_draw_and_to_deterministic():
    net, x = linear(), nd.ones((1, 3))
    n = 200
    ours = predict(net, x, num_samples=n).asnumpy()[:, 0, 0]
    theirs = np.array([draw(net)(x)[0, 0].asscalar() for _ in range(n)])
    error = (ours.var() / n + theirs.var() / n) ** 0.5
    assert abs(ours.mean() - theirs.mean()) < 5 * error
    assert abs(ours.mean() - to_deterministic(net)(x)[0, 0].asscalar()) < 5 * error


@pytest.mark.parametrize('kwargs,error,message', [
    (dict(num_samples=0), ValueError, 'num_samples must be at least 1'),
    (dict(num_samples=2.5), TypeError, 'num_samples must be an integer'),
    (dict(batch_size=0), ValueError, 'batch_size must be at least 1'),
    (dict(chunk=0), ValueError, 'chunk must be at least 1'),
    (dict(data=[]), ValueError, 'data must have at least one batch'),
    (dict(data=3), TypeError, 'data must be an NDArray, or an iterable of batches'),
    (dict(data=np.ones((2, 3))), TypeError, 'data must be an NDArray, or an iterable of batches'),
    (dict(data=[np.ones((2, 3))]), TypeError, 'data must be an NDArray, or an iterable of batches'),
    (dict(data=[[]]), TypeError, 'data must be an NDArray, or an iterable of batches'),
    (dict(data=[nd.ones((2, 3))], with_labels=True), ValueError, 'with_labels needs batches whose second item'),
    (dict(with_labels=True), ValueError, 'with_labels needs data that has labels'),
    (dict(net=nn.Dense(3)), ValueError, 'at least one Bayesian layer'),
    (dict(net=BayesDense(3)), RuntimeError, 'initialize'),
])
def test_bad_arguments(kwargs, error, message):
    arguments = dict(dict(net=linear(), data=nd.ones((2, 3)), progress=False), **kwargs)
    with pytest.raises(error, match=message):
        predict(**arguments)


def test_labels_along_the_batch_axis():
    net = BayesLSTM(4, input_size=3)        # time first
    net.initialize()
    loader = [[nd.ones((5, 2, 3)) * i, nd.ones((5, 2)) * i] for i in range(3)]
    draws, labels = predict(net, loader, num_samples=2, batch_axis=1, with_labels=True, progress=False)
    assert draws.shape == (2, 5, 6, 4)
    np.testing.assert_array_equal(labels.asnumpy(), np.repeat([[0, 0, 1, 1, 2, 2]], 5, axis=0))
    loader = [[data, label[0]] for data, label in loader]       # one label for each sequence
    draws, labels = predict(net, loader, num_samples=2, batch_axis=1, with_labels=True, progress=False)
    assert labels.asnumpy().tolist() == [0, 0, 1, 1, 2, 2]


def test_given_states_and_missing_outputs():
    net = BayesLSTM(4, input_size=3)
    net.initialize()
    x, states = nd.random.normal(shape=(5, 6, 3)), [nd.random.normal(shape=(1, 6, 4)) for _ in range(2)]
    mx.random.seed(1)
    output, last = predict(net, (x, states), num_samples=2, batch_axis=1, batch_size=4)
    mx.random.seed(1)
    again, _ = predict(net, [[[x, states]]], num_samples=2, batch_axis=1, progress=False)
    assert output.shape == (2, 5, 6, 4) and [state.shape for state in last] == [(2, 1, 6, 4)] * 2
    np.testing.assert_allclose(again.asnumpy(), output.asnumpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='as many examples in each input along batch_axis 1 .saw: 6 and 5'):
        predict(net, (x, [state[:, :5] for state in states]), batch_axis=1)

    class WithNone(gluon.Block):
        def __init__(self):
            super().__init__()
            self.dense = linear()

        def forward(self, x):
            return self.dense(x), None

    output, nothing = predict(WithNone(), nd.ones((3, 3)), num_samples=2, batch_size=2)
    assert output.shape == (2, 3, 2) and nothing is None


def test_several_inputs_as_a_list():
    """A list is read as batches. Where the network takes several inputs, the error must say that they are a tuple."""
    class Sum(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.dense = linear()

        def hybrid_forward(self, F, a, b, c):
            return self.dense(a + b) + c

    net = Sum()
    arrays = [nd.ones((4, 3)), nd.zeros((4, 3)), nd.ones((4, 2))]
    for _ in range(2):
        with pytest.raises(ValueError, match=r'data must be a tuple .*predict\(net, \(a, b\)\).*list of 3 arrays.*'
                                             'missing'):
            predict(net, arrays, num_samples=2, progress=False)
        net.hybridize()
    assert predict(net, tuple(arrays), num_samples=2).shape == (2, 4, 2)
    # Of another shape than the network's input, but not missing.
    with pytest.raises(ValueError, match='data must be a tuple .*list of 2 arrays'):
        predict(linear(), [nd.ones((4, 3)), nd.ones((4, 5))], num_samples=2, progress=False)
    assert predict(linear(), [nd.ones((4, 3)), nd.ones((2, 3))], num_samples=2, progress=False).shape == (2, 6, 2)
    # A network can also check its inputs by assert, as some of Gluon's cells do.
    class Checks(Sum):
        def forward(self, a, b=None, c=None):
            assert b is not None
            return super().forward(a, b, c)

    with pytest.raises(ValueError, match='data must be a tuple'):
        predict(Checks(), arrays, num_samples=2, progress=False)
    # What fails otherwise says what it always did.
    with pytest.raises(MXNetError):
        predict(linear(), [[nd.ones((4, 5)), nd.ones((4,))]], num_samples=2, progress=False)
    with pytest.raises(MXNetError):
        predict(linear(), nd.ones((4, 5)), num_samples=2)
