# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import logging

import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from mxnet.gluon.contrib.estimator import Estimator
from mxnet.gluon.data import ArrayDataset, DataLoader

from bbb_layers import BayesDense, BBBLoss, MonteCarlo, predict, to_deterministic


def make(sigma, mode=None):
    net = nn.HybridSequential()
    net.add(BayesDense(4, in_units=3, activation='tanh', initial_sigma=sigma), nn.BatchNorm(in_channels=4),
            nn.Dropout(0.5), BayesDense(3, in_units=4, initial_sigma=sigma))
    net.initialize(mx.init.Normal(1.))
    return hybridize(net, mode)


LINKS = {'softmax': (lambda out: out.softmax(), lambda p: p.softmax()),
         'sigmoid': (lambda out: out.sigmoid(), lambda p: p.sigmoid()), None: (lambda out: out, lambda p: p)}


@pytest.mark.parametrize('link', LINKS)
def test_mean_over_draws(link, mode):
    net, x = make(0.5, mode), nd.random.normal(shape=(4, 3))
    n = 150
    draws = LINKS[link][0](predict(net, x, num_samples=n)).asnumpy()
    mean = LINKS[link][1](MonteCarlo(net, n, link)(x)).asnumpy()
    error = draws.std(axis=0) * (2 / n) ** 0.5
    assert (abs(mean - draws.mean(axis=0)) < 5 * error).all() and error.max() > 1e-3


@pytest.mark.parametrize('link', LINKS)
def test_without_noise_it_is_the_network(link):
    net, x = make(1e-7), nd.random.normal(shape=(4, 3))
    out = MonteCarlo(net, 2, link)(x)
    expected = net(x).log_softmax() if link == 'softmax' else net(x)
    np.testing.assert_allclose(out.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4)


def test_extreme_logits_stay_finite():
    net = BayesDense(2, in_units=1, use_bias=False, initial_sigma=1e-6)
    net.initialize()
    net.weight.set_data(nd.array([[500.], [-500.]]))
    x = nd.ones((1, 1))
    np.testing.assert_allclose(MonteCarlo(net, 3)(x).asnumpy(), [[0, -1000]], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(MonteCarlo(net, 3, 'sigmoid')(x).asnumpy(), [[500, -500]], rtol=1e-4)


def test_axis_of_classes():
    net, _ = nets.make('conv2d', initial_sigma=0.3)
    out = MonteCarlo(net, 4, axis=1)(nd.random.normal(shape=(4, 2, 4, 5)))
    np.testing.assert_allclose(out.exp().sum(axis=1).asnumpy(), 1, rtol=1e-5)
    last = MonteCarlo(net, 4)(nd.random.normal(shape=(4, 2, 4, 5)))
    np.testing.assert_allclose(last.exp().sum(axis=-1).asnumpy(), 1, rtol=1e-5)


def test_follows_training(mode):
    net, x = make(1e-6, mode), nd.random.normal(shape=(4, 3))
    monte_carlo = MonteCarlo(net, 2, None)
    loss_fn = BBBLoss(net, 10)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.5})
    for _ in range(3):
        before = nets.values(net)
        np.testing.assert_allclose(monte_carlo(x).asnumpy(), net(x).asnumpy(), rtol=1e-3, atol=1e-3)
        assert all((value == before[name]).all() for name, value in nets.values(net).items())
        with autograd.record():
            loss = loss_fn(net(x), nd.array([0, 1, 2, 0]))
        loss.backward()
        trainer.step(4)     # BatchNorm's running means change too
    net.collect_params().reset_ctx(mx.cpu(1))
    assert monte_carlo(x.as_in_context(mx.cpu(1))).context == mx.cpu(1)
    net.cast('float64')
    assert monte_carlo(x.as_in_context(mx.cpu(1)).astype('float64')).dtype == np.float64
    net.add(BayesDense(7, in_units=3, dtype='float64'))
    net[4].initialize(ctx=mx.cpu(1))
    assert monte_carlo(x.as_in_context(mx.cpu(1)).astype('float64')).shape == (4, 7)


@pytest.mark.filterwarnings('ignore')      # the Estimator's own advice
def test_estimator_validates_with_it():
    net = make(0.3)
    loader = DataLoader(ArrayDataset(nd.random.normal(shape=(20, 3)), nd.random.randint(0, 3, shape=(20,))), 5)
    accuracy = mx.metric.Accuracy()
    estimator = Estimator(net, BBBLoss(net, 20), train_metrics=mx.metric.Accuracy(), val_metrics=accuracy,
                          trainer=gluon.Trainer(net.collect_params(), 'adam'), val_net=MonteCarlo(net, 4),
                          val_loss=gluon.loss.SoftmaxCrossEntropyLoss())
    estimator.logger.setLevel(logging.ERROR)
    estimator.fit(loader, loader, epochs=2)
    assert accuracy.num_inst == 20 or estimator.val_metrics[0].num_inst == 20


def test_copy():
    net, x = make(0.3), nd.ones((2, 3))
    monte_carlo = MonteCarlo(net, 2)
    monte_carlo(x)
    new = copy.deepcopy(monte_carlo)
    new.net[0].weight.set_data(nd.zeros((4, 3)))
    assert new(x).shape == (2, 3) and abs(net[0].weight.data()).sum().asscalar() > 0
    assert new.net is not net


def test_bad_use():
    net, x = make(0.3), nd.ones((2, 3))
    with pytest.raises(ValueError, match="link must be 'softmax', 'sigmoid' or None .saw: 'relu'"):
        MonteCarlo(net, 2, 'relu')
    with pytest.raises(ValueError, match='num_samples must be at least 1'):
        MonteCarlo(net, 0)
    with pytest.raises(ValueError, match='at least one Bayesian layer'):
        MonteCarlo(nn.Dense(3))
    with pytest.raises(RuntimeError, match='no gradient'):
        with autograd.record():
            MonteCarlo(net, 2)(x)


def test_masked_logits():
    class Masked(gluon.Block):
        def __init__(self):
            super().__init__()
            self.dense = BayesDense(3, in_units=1, initial_sigma=0.3)

        def forward(self, x):
            return self.dense(x) + nd.array([[0, 0, -np.inf]])

    net = Masked()
    net.initialize()
    out = MonteCarlo(net, 3)(nd.ones((2, 1))).asnumpy()
    assert (out[:, 2] == -np.inf).all() and np.isfinite(out[:, :2]).all()
    np.testing.assert_allclose(np.exp(out).sum(axis=1), 1, rtol=1e-5)


def test_each_context_has_its_own_running_means():
    net = make(1e-7)
    contexts = [mx.cpu(0), mx.cpu(1)]
    net.collect_params().reset_ctx(contexts)
    for index, context in enumerate(contexts):
        net[1].running_mean.data(context)[:] = index
    for context in contexts:
        x = nd.ones((2, 3), ctx=context)
        np.testing.assert_allclose(MonteCarlo(net, 2, None)(x).asnumpy(), net(x).asnumpy(), atol=1e-4)


def test_follows_changes_that_are_not_parameters():
    net, x = make(1e-7), nd.random.normal(shape=(4, 3))
    monte_carlo = MonteCarlo(net, 2, None)
    monte_carlo(x)
    net.add(nn.Activation('relu'))
    np.testing.assert_allclose(monte_carlo(x).asnumpy(), net(x).asnumpy(), atol=1e-4)
    assert monte_carlo(x).min().asscalar() == 0


def test_what_is_no_single_network():
    class Two(gluon.Block):
        def __init__(self):
            super().__init__()
            self.dense = BayesDense(3, in_units=3)

        def forward(self, x):
            return self.dense(x), x

    net = Two()
    net.initialize()
    with pytest.raises(TypeError, match='must have one output .saw: tuple'):
        MonteCarlo(net, 2)(nd.ones((2, 3)))
    for function in (to_deterministic, lambda net: predict(net, nd.ones((2, 3)))):
        with pytest.raises(TypeError, match='net must be the network itself .saw: MonteCarlo, which draws by itself'):
            function(MonteCarlo(net))


class Counts(nn.Dense):
    calls = 0

    def hybrid_forward(self, F, x, weight, bias=None):
        Counts.calls += 1
        return super().hybrid_forward(F, x, weight, bias)


def test_default_number_of_draws():
    net = nn.HybridSequential()
    net.add(BayesDense(4, in_units=3), Counts(2, in_units=4))
    net.initialize()
    MonteCarlo(net)(nd.ones((2, 3)))
    assert Counts.calls == 32
