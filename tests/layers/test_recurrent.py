# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn

from bbb_layers import (BayesBlock, BayesDense, BayesGRU, BayesGRUCell, BayesLSTM, BayesLSTMCell, BayesRNN,
                        BayesRNNCell, BBBLoss, GaussianPrior, kl_divergence)
from bbb_layers.posterior.gaussian import PRUNED_RHO

T, N, C, H = 4, 3, 5, 6
LAYERS = [(BayesRNN, rnn.RNN, dict(activation='tanh')), (BayesLSTM, rnn.LSTM, {}), (BayesGRU, rnn.GRU, {}),
          (BayesLSTM, rnn.LSTM, dict(num_layers=2, bidirectional=True)), (BayesGRU, rnn.GRU, dict(layout='NTC')),
          (BayesLSTM, rnn.LSTM, dict(input_size=C, num_layers=2)), (BayesRNN, rnn.RNN, dict(bidirectional=True))]
CELLS = [(BayesRNNCell, rnn.RNNCell), (BayesLSTMCell, rnn.LSTMCell), (BayesGRUCell, rnn.GRUCell)]


class SumOfSquares(gluon.loss.Loss):
    def __init__(self, batch_axis=0):
        super().__init__(None, batch_axis)

    def hybrid_forward(self, F, output, label):
        return F.sum(F.square(output), axis=self._batch_axis, exclude=True)


def bayesian(build, *args, **kwargs):
    return build(*args, prior=GaussianPrior(), initial_sigma=0.3, **kwargs)


def data(layer=None):
    shape = (N, T, C) if layer is None or layer._layout == 'NTC' else (T, N, C)
    return nd.random.normal(shape=shape)


@pytest.fixture(params=range(len(LAYERS)), ids=[f'{ours.__name__}-{kwargs}' for ours, _, kwargs in LAYERS])
def layers(request, mode):
    ours, theirs, kwargs = LAYERS[request.param]
    layer, plain = bayesian(ours, H, **kwargs), theirs(H, **kwargs)
    layer.initialize(mx.init.Normal(0.5))
    plain.initialize()
    return hybridize(layer, mode), plain, kwargs


def same_means(layer, plain):
    for name in plain._reg_params:
        getattr(plain, name).set_data(getattr(layer, name).data())


def test_posterior_mean_is_the_plain_layer(layers):
    layer, plain, _ = layers
    x = data(layer)
    layer(x), plain(x)
    same_means(layer, plain)
    for _ in range(2):
        np.testing.assert_allclose(layer(x).asnumpy(), plain(x).asnumpy(), rtol=1e-5, atol=1e-6)


def test_given_states(layers):
    layer, plain, _ = layers
    x = data(layer)
    states = [nd.random.normal(shape=state.shape) for state in layer.begin_state(N)]
    layer(x, states), plain(x, states)
    same_means(layer, plain)
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares(batch_axis=layer._layout.find('N')),
                      batch_axis=layer._layout.find('N'))
    for _ in range(2):
        output, last = layer(x, states)
        expected, expected_last = plain(x, states)
        np.testing.assert_allclose(output.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
        assert [state.shape for state in last] == [state.shape for state in expected_last]
        with autograd.record():
            output, last = layer(x, states)
            loss = loss_fn(output, x)
        loss.backward()
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(layer).asscalar(), rtol=1e-5)


def test_training(layers):
    layer, _, _ = layers
    axis = layer._layout.find('N')
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares(batch_axis=axis), batch_axis=axis)
    x = data(layer)
    trainer, outputs = None, []
    for _ in range(4):
        with autograd.record():
            outputs.append(layer(x))
            loss = loss_fn(outputs[-1], x)
        loss.backward()
        assert loss.shape == (N,)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(layer).asscalar(), rtol=1e-5)
        for rho in layer._rhos.values():
            assert abs(rho.grad().asnumpy()).min() > 0 and abs(rho.mu.grad().asnumpy()).max() > 0
        trainer = trainer or gluon.Trainer(layer.collect_params(), 'sgd', {'learning_rate': 1e-3})
        trainer.step(N)
    assert abs(outputs[0] - outputs[1]).max().asscalar() > 1e-3
    assert len(layer._rhos) == len(layer.posterior()) == len(layer.collect_params('.*_rho$').keys())


def test_save_and_load(layers, tmp_path):
    layer, plain, kwargs = layers
    x = data(layer)
    expected = layer(x).asnumpy()
    layer.save_parameters(str(tmp_path / 'layer.params'))
    other = bayesian(type(layer), H, **kwargs)
    other.load_parameters(str(tmp_path / 'layer.params'))
    np.testing.assert_allclose(other(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    plain.load_parameters(str(tmp_path / 'layer.params'), ignore_extra=True)
    np.testing.assert_allclose(plain(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    plain.save_parameters(str(tmp_path / 'plain.params'))
    other = bayesian(type(layer), H, **kwargs)
    other.load_parameters(str(tmp_path / 'plain.params'), allow_missing=True)
    np.testing.assert_allclose(other(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def constant_steps(cell):
    """Makes ``cell`` forget its input and state, so that its output depends on its draw alone."""
    for name in ('i2h_weight', 'h2h_weight'):
        getattr(cell, name).set_data(nd.zeros_like(getattr(cell, name).data()))
        getattr(cell, name + '_rho').set_data(nd.full(getattr(cell, name).shape, PRUNED_RHO))


@pytest.mark.parametrize('how', ['alone', 'with a loss', 'in a block', 'in a block with a loss', 'step by step'])
def test_one_draw_for_all_steps_of_a_cell(how, mode):
    class Net(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.cell = bayesian(BayesRNNCell, H, input_size=C)

        def hybrid_forward(self, F, x):
            if how != 'step by step':
                return self.cell.unroll(T, x, layout='NTC', merge_outputs=True)[0]
            state, outputs = [F.zeros((N, H))], []
            for step in F.split(x, num_outputs=T, axis=1, squeeze_axis=True):
                output, _ = self.cell(step, state)
                outputs.append(output)
            return F.stack(*outputs, axis=1)

    net = Net()
    net.initialize(mx.init.Normal(0.5))
    constant_steps(net.cell)
    whole = how in ('in a block', 'in a block with a loss', 'step by step')
    hybridize(net if whole else net.cell, mode)
    x = data()
    if how in ('with a loss', 'in a block with a loss', 'step by step'):
        loss_fn = BBBLoss(net if whole else net.cell, 10, likelihood=SumOfSquares())
    previous = None
    for _ in range(3):
        with autograd.record():
            output = net(x) if whole else net.cell.unroll(T, x, layout='NTC', merge_outputs=True)[0]
            if 'loss' in how:
                loss = loss_fn(output, x)
        value = output.asnumpy()
        assert value.shape == (N, T, H)
        assert np.ptp(value, axis=(0, 1)).max() < 1e-6      # the same at every step of every sequence
        assert previous is None or abs(value - previous).max() > 1e-3
        previous = value
        if 'loss' in how:
            loss.backward()
            np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
            assert abs(net.cell.i2h_bias_rho.grad().asnumpy()).min() > 0


def test_one_draw_for_all_steps_of_a_fused_layer(mode):
    layer = bayesian(BayesRNN, H, activation='tanh', input_size=C)
    layer.initialize()
    for name in ('l0_i2h_weight', 'l0_h2h_weight'):
        getattr(layer, name).set_data(nd.zeros_like(getattr(layer, name).data()))
        getattr(layer, name + '_rho').set_data(nd.full(getattr(layer, name).shape, PRUNED_RHO))
    hybridize(layer, mode)
    with autograd.train_mode():
        output = layer(data(layer)).asnumpy()
    assert np.ptp(output, axis=(0, 1)).max() < 1e-6 and np.ptp(output) > 1e-3


@pytest.mark.parametrize('ours,theirs', CELLS)
def test_cells(ours, theirs, mode, tmp_path):
    cell, plain = bayesian(ours, H), theirs(H)
    cell.initialize(mx.init.Normal(0.5))
    plain.initialize()
    hybridize(cell, mode)
    x = data()
    states = cell.begin_state(N)
    cell(x[:, 0], states), plain(x[:, 0], states)
    same_means(cell, plain)
    for _ in range(2):
        np.testing.assert_allclose(cell(x[:, 0], states)[0].asnumpy(), plain(x[:, 0], states)[0].asnumpy(), rtol=1e-5,
                                   atol=1e-6)
        np.testing.assert_allclose(cell.unroll(T, x, layout='NTC')[0][-1].asnumpy(),
                                   plain.unroll(T, x, layout='NTC')[0][-1].asnumpy(), rtol=1e-5, atol=1e-6)
    cell.save_parameters(str(tmp_path / 'cell.params'))
    other = bayesian(ours, H)
    other.load_parameters(str(tmp_path / 'cell.params'))
    np.testing.assert_allclose(other(x[:, 0], states)[0].asnumpy(), plain(x[:, 0], states)[0].asnumpy(), rtol=1e-5,
                               atol=1e-6)


@pytest.mark.parametrize('build', [
    lambda: rnn.BidirectionalCell(bayesian(BayesLSTMCell, H), bayesian(BayesLSTMCell, H)),
    lambda: rnn.ResidualCell(bayesian(BayesRNNCell, C)), lambda: rnn.ZoneoutCell(bayesian(BayesRNNCell, C), 0.3, 0.3),
], ids=['bidirectional', 'residual', 'zoneout'])
def test_cells_in_gluons_cells(build):
    cell = build()
    cell.initialize(mx.init.Normal(0.5))
    loss_fn = BBBLoss(cell, 10, likelihood=SumOfSquares())
    x = data()
    for _ in range(3):
        with autograd.record():
            output = cell.unroll(T, x, layout='NTC', merge_outputs=True)[0]
            loss = loss_fn(output, x)
        loss.backward()
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(cell).asscalar(), rtol=1e-5)
    for name, param in cell.collect_params().items():
        assert abs(param.grad().asnumpy()).max() > 0, name


def test_language_model_shaped_network(mode):
    net = nn.HybridSequential()
    net.add(nn.Embedding(11, C), bayesian(BayesLSTM, H, layout='NTC'), bayesian(BayesDense, 11, flatten=False))
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, 10)
    x = nd.array(np.random.randint(0, 11, (N, T)))
    for _ in range(3):
        with autograd.record():
            loss = loss_fn(net(x), x)
        loss.backward()
        assert loss.shape == (N,)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_no_other_estimator():
    with pytest.raises(ValueError, match="estimator of BayesLSTM must be one of 'sample'"):
        BayesLSTM(H, estimator='flipout')
    assert issubclass(BayesLSTM, BayesBlock)


@pytest.mark.parametrize('cls', [BayesRNN, BayesLSTM, BayesGRU])
def test_float64_in_several_layers_raises(cls):
    """MXNet's operator has wrong gradients there; this fails once it has not."""
    for build in (lambda: cls(3, num_layers=2, dtype='float64'), lambda: cls(3, num_layers=2).cast('float64')):
        with pytest.raises(ValueError, match='num_layers > 1 must be float32'):
            build()
    cls(3, dtype='float64').cast('float64')
    plain = getattr(rnn, cls.__name__[5:])
    gradients = []
    for dtype in ('float32', 'float64'):
        mx.random.seed(3)
        layer = plain(3, num_layers=2, input_size=4, prefix='a_')
        layer.initialize(mx.init.Constant(0.3))
        layer.cast(dtype)
        with autograd.record():
            loss = layer(nd.ones((5, 2, 4), dtype=dtype)).square().sum()
        loss.backward()
        gradients.append(layer.l0_i2h_weight.grad().asnumpy())
    # NaN counts as wrong too
    assert not abs(gradients[0] - gradients[1]).max() <= 0.01 * abs(gradients[0]).max()


def test_unrolled_cell_with_a_learnable_prior_and_no_loss(mode):
    class Unrolled(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.cell = BayesLSTMCell(3, prior=GaussianPrior(learnable=True))

        def hybrid_forward(self, F, x):
            return self.cell.unroll(5, x, merge_outputs=True)[0]

    net = Unrolled()
    net.initialize()
    hybridize(net, mode)
    assert net(nd.ones((2, 5, 4))).shape == (2, 5, 3)
    with autograd.record():
        loss = net(nd.ones((2, 5, 4))).sum() + kl_divergence(net)
    loss.backward()
    assert abs(net.cell.h2h_weight_prior_rho.grad()).min().asscalar() > 0
