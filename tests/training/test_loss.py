# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import math

import mxnet as mx
import numpy as np
import pytest
from conftest import MODES, hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from nets import SumOfSquares
from scipy import stats

from bbb_layers import (BayesDense, BBBLoss, CategoricalNLLLoss, GaussianNLLLoss, GaussianPrior, ScaleMixturePrior,
                        kl_divergence)
from bbb_layers.posterior import gaussian


@pytest.fixture
def net(mode):
    net = nn.HybridSequential()
    net.add(BayesDense(4, activation='relu', in_units=3, prior=GaussianPrior()),
            BayesDense(5, in_units=4, prior=GaussianPrior(0.5)))
    net.initialize(mx.init.Normal(0.5))
    return hybridize(net, mode)


X, Y = nd.array(np.random.RandomState(1).normal(size=(6, 3))), nd.array([0, 1, 2, 3, 4, 0])


def train(net, loss_fn, x=X, y=Y, *args):
    with autograd.record():
        output = net(x)
        loss = loss_fn(output, y, *args)
    return output, loss


def test_negative_elbo_per_example(net):
    loss_fn = BBBLoss(net, 123)
    output, loss = train(net, loss_fn)
    nll = gluon.loss.SoftmaxCrossEntropyLoss()(output, Y).asnumpy()
    np.testing.assert_allclose(loss_fn.nll.asnumpy(), nll, rtol=1e-5)
    np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
    np.testing.assert_allclose(loss.asnumpy(), nll + kl_divergence(net).asscalar() / 123, rtol=1e-5)


def test_sum_over_an_epoch_counts_the_kl_once(net):
    kl = kl_divergence(net).asscalar()
    for batch_size in (1, 2, 4, 6):     # 4 leaves a smaller last batch
        loss_fn = BBBLoss(net, 6)
        total = 0.
        for start in range(0, 6, batch_size):
            _, loss = train(net, loss_fn, X[start:start + batch_size], Y[start:start + batch_size])
            total += (loss - loss_fn.nll).sum().asscalar()
        np.testing.assert_allclose(total, kl, rtol=1e-4)


def test_predict_mode_is_the_elbo_at_the_mean(net):
    loss_fn = BBBLoss(net, 10, kl_weight=0.)
    for _ in range(2):
        loss = loss_fn(net(X), Y)
        expected = gluon.loss.SoftmaxCrossEntropyLoss()(net(X), Y) + kl_divergence(net) / 10
        np.testing.assert_allclose(loss.asnumpy(), expected.asnumpy(), rtol=1e-5)
        train(net, loss_fn)     # a training forward's terms are not what validation takes
        with autograd.record():
            net(X)
        np.testing.assert_allclose(loss_fn(net(X), Y).asnumpy(), expected.asnumpy(), rtol=1e-5)


def test_kl_weight_changes_between_steps(net):
    loss_fn = BBBLoss(net, 10, kl_weight=0.)
    kl = kl_divergence(net).asscalar()
    for weight in (0., 0.25, 1, 3.5):
        loss_fn.kl_weight = weight
        assert loss_fn.kl_weight == weight
        _, loss = train(net, loss_fn)
        np.testing.assert_allclose((loss - loss_fn.nll).asnumpy(), weight * kl / 10, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl, rtol=1e-5)
    for value in (-1e-9, math.nan, math.inf):
        with pytest.raises(ValueError, match='kl_weight must be finite and at least 0'):
            loss_fn.kl_weight = value
    assert loss_fn.kl_weight == 3.5


def test_num_train_changes_between_steps(net):
    """Catches a loss that goes on with an old number, such as in the weight that its graph was last given."""
    loss_fn = BBBLoss(net, 10, kl_weight=0.5)
    kl = kl_divergence(net).asscalar()
    for num_train in (10, 5, 200, np.float32(2.5), np.int64(10)):
        loss_fn.num_train = num_train
        assert loss_fn.num_train == num_train and type(loss_fn.num_train) is float
        _, loss = train(net, loss_fn)
        np.testing.assert_allclose((loss - loss_fn.nll).asnumpy(), 0.5 * kl / num_train, rtol=1e-3)
        loss = loss_fn(net(X), Y)       # in predict mode
        np.testing.assert_allclose((loss - loss_fn.nll).asnumpy(), kl / num_train, rtol=1e-3)
    assert repr(loss_fn).startswith('BBBLoss(num_train=10, ')


@pytest.mark.parametrize('value, error', [
    (0, ValueError), (-5, ValueError), (math.nan, ValueError), (math.inf, ValueError), (1e-39, ValueError),
    ('10', TypeError), (None, TypeError), (True, TypeError), (nd.ones((1,)), TypeError)], ids=repr)
def test_a_num_train_that_is_refused_changes_nothing(value, error):
    """Catches a setter without the constructor's check, or one that checks after it has set the value."""
    net = BayesDense(5, in_units=3, prior=GaussianPrior())
    net.initialize()
    loss_fn = BBBLoss(net, 20)
    with pytest.raises(error, match='num_train must be '):
        loss_fn.num_train = value
    assert loss_fn.num_train == 20
    _, loss = train(net, loss_fn)
    np.testing.assert_allclose((loss - loss_fn.nll).asnumpy(), kl_divergence(net).asscalar() / 20, rtol=1e-3)


def test_copies_have_a_num_train_of_their_own(net):
    """Catches copies that share the number, or that were made with it before it was changed."""
    loss_fn = BBBLoss(net, 10)
    train(net, loss_fn)
    loss_fn.num_train = 40
    alone = copy.deepcopy(loss_fn)
    both_net, both = copy.deepcopy((net, loss_fn))
    assert alone.num_train == both.num_train == 40
    alone.num_train, both.num_train = 20, 80
    kl = kl_divergence(net).asscalar()
    for network, loss_of, num_train in (net, loss_fn, 40), (net, alone, 20), (both_net, both, 80):
        assert loss_of.num_train == num_train
        _, loss = train(network, loss_of)
        np.testing.assert_allclose((loss - loss_of.nll).asnumpy(), kl / num_train, rtol=1e-3)


def test_kl_weight_zero_leaves_the_likelihoods_gradient(net):
    loss_fn = BBBLoss(net, 10, kl_weight=0.)
    mx.random.seed(1)
    _, loss = train(net, loss_fn)
    loss.backward()
    gradient = net[0].weight_rho.grad().asnumpy()
    mx.random.seed(1)
    with autograd.record():
        nll = CategoricalNLLLoss()(net(X), Y)
    nll.backward()
    np.testing.assert_allclose(gradient, net[0].weight_rho.grad().asnumpy(), rtol=1e-4, atol=1e-6)


def test_weights_scale_the_likelihood_only(net):
    kl = kl_divergence(net).asscalar() / 10
    per_example = nd.array([0, 1, 2, 0.5, 1, 3])
    for shape in [(6,), (6, 1)]:
        loss_fn = BBBLoss(net, 10, weight=0.5)
        output, loss = train(net, loss_fn, X, Y, per_example.reshape(shape))
        nll = CategoricalNLLLoss()(output, Y) * per_example * 0.5
        np.testing.assert_allclose(loss.asnumpy(), nll.asnumpy() + kl, rtol=1e-4)
        np.testing.assert_allclose(loss_fn.nll.asnumpy(), nll.asnumpy(), rtol=1e-5)


@pytest.mark.parametrize('batch_axis,shape', [(0, (6, 2)), (1, (2, 6))])
def test_positions_are_summed_and_can_be_weighted(batch_axis, shape):
    net = BayesDense(5, in_units=3, flatten=False, prior=GaussianPrior())
    net.initialize(mx.init.Normal(1.))
    loss_fn = BBBLoss(net, 10, batch_axis=batch_axis)
    x, y = nd.random.normal(shape=shape + (3,)), nd.array(np.random.randint(0, 5, shape))
    output, loss = train(net, loss_fn, x, y)
    log_prob = nd.log_softmax(output).asnumpy()
    each = -np.take_along_axis(log_prob, y.asnumpy().astype(int)[..., None], axis=2)[..., 0]
    assert loss.shape == (6,)
    np.testing.assert_allclose(loss_fn.nll.asnumpy(), each.sum(axis=1 - batch_axis), rtol=1e-5)
    mask = nd.array(np.random.randint(0, 2, shape + (1,)))
    log_prob = nd.log_softmax(train(net, loss_fn, x, y, mask)[0]).asnumpy()
    each = -np.take_along_axis(log_prob, y.asnumpy().astype(int)[..., None], axis=2)[..., 0] * mask.asnumpy()[..., 0]
    np.testing.assert_allclose(loss_fn.nll.asnumpy(), each.sum(axis=1 - batch_axis), rtol=1e-5)


def test_parts_are_detached(net):
    loss_fn = BBBLoss(net, 10)
    assert loss_fn.nll is None and loss_fn.kl is None
    _, loss = train(net, loss_fn)
    for part in (loss_fn.nll, loss_fn.kl):
        with pytest.raises(mx.base.MXNetError, match='not in a computational graph'):
            part.backward()
    loss.backward()


def test_likelihood_must_return_one_value_per_example(net):
    class Total(gluon.loss.Loss):
        def hybrid_forward(self, F, output, label):
            return F.sum(output)

    class Positions(gluon.loss.Loss):
        def hybrid_forward(self, F, output, label):
            return F.square(output)

    for bad in (gluon.loss.PoissonNLLLoss(), Total(None, 0), Positions(None, 0)):
        loss_fn = BBBLoss(net, 10, likelihood=bad)
        with pytest.raises(ValueError, match=r'likelihood must return one .* shape \(batch_size,\) = \(6,\)'):
            train(net, loss_fn, X, nd.ones((6, 5)))


def test_any_gluon_loss_as_likelihood(net):
    loss_fn = BBBLoss(net, 10, likelihood=gluon.loss.L2Loss())
    output, loss = train(net, loss_fn, X, nd.ones((6, 5)))
    np.testing.assert_allclose(loss_fn.nll.asnumpy(), gluon.loss.L2Loss()(output, nd.ones((6, 5))).asnumpy(), rtol=1e-5)


def test_hybridized_loss(net):
    loss_fn = BBBLoss(net, 10)
    loss_fn.hybridize(static_alloc=True)
    for _ in range(3):
        output, loss = train(net, loss_fn)
        np.testing.assert_allclose(loss_fn.nll.asnumpy(), CategoricalNLLLoss()(output, Y).asnumpy(), rtol=1e-5)


def test_loss_in_a_hybridized_block_raises(net):
    class Both(gluon.HybridBlock):
        def __init__(self, net, loss_fn):
            super().__init__()
            self.net, self.loss_fn = net, loss_fn

        def hybrid_forward(self, F, x, y):
            return self.loss_fn(self.net(x), y)

    block = Both(net, BBBLoss(net, 10))
    block.hybridize()
    with pytest.raises(TypeError, match='cannot be a part of a hybridized block'):
        block(X, Y)


def test_net_is_not_a_child_of_the_loss(net):
    loss_fn = BBBLoss(net, 10)
    assert list(loss_fn.collect_params()) == []
    loss_fn.initialize(force_reinit=True)
    loss_fn.cast('float64')
    assert net[0].weight.dtype == 'float32'


def test_repr(net):
    assert repr(BBBLoss(net, 60000, kl_weight=0.5)) == (
        'BBBLoss(num_train=60000, likelihood=CategoricalNLLLoss(batch_axis=0, w=None), kl_weight=0.5, batch_axis=0, '
        'w=None)')


@pytest.mark.parametrize('kwargs,error,message', [
    ({'num_train': 0}, ValueError, r'num_train must be positive and finite \(saw: 0.0\)'),
    ({'num_train': -5}, ValueError, 'num_train'), ({'num_train': math.nan}, ValueError, 'num_train'),
    ({'num_train': '10'}, TypeError, 'num_train'), ({'num_train': None}, TypeError, 'num_train'),
    ({'kl_weight': -0.1}, ValueError, r'kl_weight must be finite and at least 0 \(saw: -0.1\)'),
    ({'kl_weight': math.inf}, ValueError, 'kl_weight'), ({'weight': math.nan}, ValueError, 'weight must be finite'),
    ({'weight': 'a'}, TypeError, 'weight must be a number'),
    ({'likelihood': abs}, TypeError, 'likelihood must be a Gluon loss'),
    ({'net': nn.Dense(3)}, ValueError, 'net must hold at least one Bayesian layer'),
    ({'net': None}, TypeError, 'net must be a Gluon block'),
])
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        BBBLoss(**dict({'net': BayesDense(3), 'num_train': 10}, **kwargs))


def test_kl_divergence(net):
    expected = 0.
    for layer in net:
        for mu, sigma in layer.posterior().values():
            mu, sigma, prior = mu.asnumpy(), sigma.asnumpy(), layer.prior.sigma
            expected += (np.log(prior / sigma) + (sigma ** 2 + mu ** 2) / (2 * prior ** 2) - 0.5).sum()
    with autograd.record():
        kl = kl_divergence(net)
    assert kl.shape == (1,)
    np.testing.assert_allclose(kl.asscalar(), expected, rtol=1e-5)
    kl.backward()
    np.testing.assert_allclose(net[0].weight.grad().asnumpy(), net[0].weight.data().asnumpy(), rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(net[0]).asscalar() + kl_divergence(net[1]).asscalar(), expected, rtol=1e-5)


def test_kl_divergence_for_a_loss_of_ones_own(net):
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    losses = []
    for _ in range(30):
        with autograd.record():
            loss = CategoricalNLLLoss()(net(X), Y) + kl_divergence(net) / 1000
        loss.backward()
        trainer.step(6)
        losses.append(loss.mean().asscalar())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_kl_divergence_of_parameters_with_different_dtypes():
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=2), BayesDense(3, in_units=2, dtype='float64'))
    net.initialize()
    assert kl_divergence(net).dtype == np.float64


def test_kl_divergence_errors():
    for value in (0, -1, 1.5, '2', True):
        with pytest.raises((ValueError, TypeError), match='num_samples must be'):
            kl_divergence(BayesDense(3, in_units=2), num_samples=value)
    with pytest.raises(ValueError, match='at least one Bayesian layer'):
        kl_divergence(nn.Dense(3))
    layer = BayesDense(3)
    with pytest.raises(RuntimeError, match='has not been initialized'):
        kl_divergence(layer)
    layer.initialize()
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        kl_divergence(layer)
    layer(nd.ones((1, 2)))
    with pytest.raises(RuntimeError, match='was not initialized on context'):
        kl_divergence(layer, mx.cpu(3))


@pytest.mark.parametrize('prior', [GaussianPrior(0.8), ScaleMixturePrior(0.5, 0.8, 0.2)], ids=repr)
def test_gradient_of_the_whole_loss_against_finite_differences(prior, seed, mode):
    net = nn.HybridSequential()
    net.add(BayesDense(3, activation='tanh', in_units=2, dtype='float64', prior=prior, initial_sigma=0.4),
            BayesDense(4, in_units=3, dtype='float64', prior=prior, initial_sigma=0.4))
    net.initialize(mx.init.Normal(0.7))
    hybridize(net, mode)
    loss_fn = BBBLoss(net, 20)
    x, y = nd.random.normal(shape=(5, 2)).astype('float64'), nd.array([0, 1, 2, 3, 1])

    def total():
        mx.random.seed(seed % 2 ** 31)      # holds the noise
        return train(net, loss_fn, x, y)[1]

    total()     # the first call traces the graph, and may use the generator in another order
    total().backward()
    gradients = {name: param.grad().asnumpy() for name, param in net.collect_params().items()}
    step = 1e-5
    for name, param in net.collect_params().items():
        value = param.data().asnumpy()
        index = tuple(np.random.randint(0, size) for size in value.shape)
        sides = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] += sign * step
            param.set_data(nd.array(moved, dtype='float64'))
            sides.append(total().sum().asscalar())
        param.set_data(nd.array(value, dtype='float64'))
        np.testing.assert_allclose(gradients[name][index], (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('mode', MODES[1:], ids=['hybrid', 'static'])       # eager takes minutes
def test_conjugate_linear_regression(mode):
    """The best factorized Gaussian has the exact posterior's mean, and the precisions on its diagonal."""
    noise, prior, n = 0.5, 0.8, 40
    x = np.random.normal(size=(n, 3))
    y = x @ [[0.7], [-0.4], [0.2]] + 0.3 + noise * np.random.normal(size=(n, 1))
    design = np.hstack([x, np.ones((n, 1))])
    precision = design.T @ design / noise ** 2 + np.eye(4) / prior ** 2
    mean = np.linalg.solve(precision, design.T @ y / noise ** 2).ravel()
    layer = BayesDense(1, in_units=3, prior=GaussianPrior(prior), initial_sigma=0.1)
    layer.initialize()
    hybridize(layer, mode)
    loss_fn = BBBLoss(layer, n, likelihood=GaussianNLLLoss(noise))
    trainer = gluon.Trainer(layer.collect_params(), 'adam', {'learning_rate': 0.02})
    x, y = nd.array(x), nd.array(y)
    averages = []
    for step in range(2000):
        with autograd.record():
            loss = loss_fn(layer(x), y)
        loss.backward()
        trainer.set_learning_rate(0.02 / (1 + step / 300))
        trainer.step(n)
        if step >= 1000 and step % 4 == 0:
            averages.append([np.concatenate([value.asnumpy().ravel() for value in pair])
                             for pair in zip(*layer.posterior().values())])
    mu, sigma = np.mean(averages, axis=0)
    # The iterates still wander, but their average is within a tenth of a standard deviation.
    exact_sigma = np.diag(precision) ** -0.5
    np.testing.assert_allclose(mu, mean, atol=0.1 * exact_sigma.max())
    np.testing.assert_allclose(sigma, exact_sigma, rtol=0.1)


def test_pruned_posterior_has_no_kl(net):
    net[0].weight_rho.set_data(nd.full((4, 3), gaussian.PRUNED_RHO))
    loss_fn = BBBLoss(net, 10)
    expected = kl_divergence(net).asscalar()
    rest = sum(net[layer].prior.kl(*net[layer].posterior()[name], None).sum().asscalar()
               for layer, name in [(0, 'bias'), (1, 'weight'), (1, 'bias')])
    np.testing.assert_allclose(expected, rest, rtol=1e-5)
    for _ in range(2):
        train(net, loss_fn)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), rest, rtol=1e-5)


@pytest.mark.parametrize('estimator', ['sample', 'local', 'flipout'])
def test_elbo_at_the_exact_posterior_is_the_log_evidence(estimator, mode):
    """With orthogonal inputs the exact posterior is factorized, and the bound is tight."""
    noise, prior_sigma, n = 0.5, 0.8, 8
    x = np.tile(np.array([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]]), (n // 4, 1))
    y = x @ [[0.6], [-0.3]] + noise * np.random.normal(size=(n, 1))
    precision = n / noise ** 2 + 1 / prior_sigma ** 2
    covariance = noise ** 2 * np.eye(n) + prior_sigma ** 2 * x @ x.T
    evidence = stats.multivariate_normal(np.zeros(n), covariance).logpdf(y.ravel())
    layer = BayesDense(1, in_units=2, use_bias=False, prior=GaussianPrior(prior_sigma), estimator=estimator)
    layer.initialize()
    hybridize(layer, mode)
    layer.weight.set_data(nd.array((x.T @ y).T / noise ** 2 / precision))
    layer.weight_rho.set_data(nd.full((1, 2), gaussian.rho_from_sigma(precision ** -0.5)))
    loss_fn = BBBLoss(layer, n, likelihood=GaussianNLLLoss(noise))
    elbos = []
    for _ in range(600):
        with autograd.record():
            elbos.append(-loss_fn(layer(nd.array(x)), nd.array(y)).sum().asscalar())
    error = np.std(elbos) / len(elbos) ** 0.5
    assert error < 0.1 and abs(np.mean(elbos) - evidence) < 5 * error


@pytest.mark.parametrize('kl', ['auto', 'sample'])
@pytest.mark.parametrize('mode', MODES[1:], ids=['hybrid', 'static'])
def test_a_hybridized_block_that_is_added_after_the_loss(kl, mode):
    """Catches a block that keeps its KL terms to itself for ever, as it is not prepared to hand them out.

    The loss then computes them from the Parameters, also after the first forward. The closed form is right at every
    forward. A sampled KL term is that of the draw that made the output, from the second forward on.
    """
    net, late = nn.HybridSequential(), nn.HybridSequential()
    # Its draw is 1 within some 1e-6, so that the output is the draw of the other layer.
    net.add(BayesDense(1, in_units=1, use_bias=False, prior=GaussianPrior(0.7), weight_initializer='ones',
                       initial_sigma=1e-6))
    loss_fn = BBBLoss(net, 10, likelihood=SumOfSquares())
    late.add(BayesDense(1, in_units=1, use_bias=False, prior=GaussianPrior(0.3), weight_initializer='ones', kl=kl))
    net.add(late)
    net.initialize()
    hybridize(late, mode)
    x, seen = nd.ones((4, 1)), set()
    for forward in range(4):
        output, loss = train(net, loss_fn, x, x)
        loss.backward()
        assert abs(late[0].weight_rho.grad().asscalar()) > 0
        weight = output[0].asscalar()
        if kl == 'auto':
            expected = kl_divergence(net).asscalar()
        else:
            expected = (kl_divergence(net[0]).asscalar() - stats.norm(1, 0.05).entropy()
                        - stats.norm.logpdf(weight, scale=0.3))
        if kl == 'auto' or forward > 0:
            np.testing.assert_allclose(loss_fn.kl.asscalar(), expected, rtol=1e-4)
        seen.add(weight)
    assert len(seen) == 4


@pytest.mark.parametrize('shape', [(4,), (1, 6), (6, 4), (6, 5), (7,), (3, 1)])
def test_sample_weight_of_another_shape_raises(net, shape):
    """Multiplied by broadcasting and summed, it would count the likelihood several times."""
    loss_fn = BBBLoss(net, 10)
    with pytest.raises(ValueError, match=r'sample_weight must have the shape \(6, 1\), or 1 in place'):
        train(net, loss_fn, X, Y, nd.ones(shape))


def test_copy_of_the_loss_alone_is_a_loss_of_the_same_network(net):
    loss_fn = BBBLoss(net, 10)
    train(net, loss_fn)
    other = copy.deepcopy(loss_fn)
    net[0].weight.set_data(net[0].weight.data() * 5)
    other(net(X), Y)
    np.testing.assert_allclose(other.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-6)
    train(net, other)


def test_a_copy_has_a_likelihood_of_its_own(mode):
    """Also where the original has made a graph of its likelihood already."""
    net = hybridize(BayesDense(1, in_units=3, prior=GaussianPrior()), mode)      # its KL divergence is no sample
    net.initialize()
    loss_fn = hybridize(BBBLoss(net, 10, likelihood=GaussianNLLLoss(sigma=1., learnable=True)), mode)
    loss_fn.initialize()
    label = nd.ones(6)
    train(net, loss_fn, y=label)
    other = copy.deepcopy(loss_fn)
    with autograd.predict_mode():
        output = net(X)
    before = loss_fn(output, label).asnumpy()
    for param in other.likelihood.collect_params().values():
        param.set_data(param.data() + 1)
    assert (other(output, label).asnumpy() != before).all()
    np.testing.assert_array_equal(loss_fn(output, label).asnumpy(), before)


def test_copy_of_a_loss_on_another_context(mode):
    net = hybridize(BayesDense(5, in_units=3), mode)
    net.initialize(ctx=mx.cpu(1))
    loss_fn = BBBLoss(net, 10)
    x, y = X.as_in_context(mx.cpu(1)), Y.as_in_context(mx.cpu(1))
    train(net, loss_fn, x, y)
    assert train(net, copy.deepcopy(loss_fn), x, y)[1].context == mx.cpu(1)


def test_another_likelihood_afterwards(mode):
    net = hybridize(BayesDense(1, in_units=3), mode)
    net.initialize()
    loss_fn = BBBLoss(net, 10, likelihood=GaussianNLLLoss(sigma=1.))
    train(net, loss_fn, y=nd.ones(6))
    loss_fn.likelihood = GaussianNLLLoss(sigma=0.1)
    output, _ = train(net, loss_fn, y=nd.ones(6))
    expected = GaussianNLLLoss(sigma=0.1)(output, nd.ones(6))
    np.testing.assert_allclose(loss_fn.nll.asnumpy(), expected.asnumpy(), rtol=1e-5)


@pytest.mark.parametrize('likelihood, error, message', [
    (None, ValueError, r'label must be class indices in the shape \(4,\)'),
    (gluon.loss.SoftmaxCrossEntropyLoss(), mx.MXNetError, 'Shape inconsistent')], ids=['ours', "Gluon's"])
def test_a_loss_that_fails_has_not_used_the_kl_terms(likelihood, error, message, mode):
    net = hybridize(BayesDense(3, in_units=2), mode)
    net.initialize()
    loss_fn = BBBLoss(net, num_train=10, likelihood=likelihood)
    with autograd.record():
        output = net(nd.ones((4, 2)))
        with pytest.raises(error, match=message):
            loss_fn(output, nd.zeros((5, 7))).wait_to_read()
        loss_fn(output, nd.zeros(4)).backward()
        with pytest.raises(RuntimeError, match='already used'):
            loss_fn(output, nd.zeros(4))
    assert abs(net.weight.grad().asnumpy()).sum() > 0


def test_weights_too_small_for_mxnet_to_read_count_as_0(mode):
    net = hybridize(BayesDense(2, in_units=3, prior=GaussianPrior()), mode)
    net.initialize()
    x, label = nd.ones((4, 3)), nd.array([0, 1, 0, 1])
    for loss_fn in (BBBLoss(net, 10, kl_weight=1e-310), BBBLoss(net, 1e30, kl_weight=1e-300)):
        with autograd.record():
            loss = loss_fn(net(x), label)
        assert (loss == loss_fn.nll).asnumpy().all()
    loss = BBBLoss(net, 1, weight=1e-310)(net(x), label)
    assert (loss == kl_divergence(net).asscalar()).asnumpy().all()


def test_losses_whose_backward_is_one_by_one(mode):
    """As a loop over the parts of a big batch has it: the losses of all parts, and then the gradient of each."""
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=4, prior=GaussianPrior()))
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, 10)
    net.collect_params().setattr('grad_req', 'add')
    parts = nd.random.normal(shape=(3, 2, 4))
    gradients = []
    for backward in (autograd.backward, lambda losses: [loss.backward() for loss in losses]):
        net.collect_params().zero_grad()
        mx.random.seed(1)
        losses = []
        for part in parts:
            with autograd.record():
                losses.append(loss_fn(net(part), nd.array([0, 2])))
        backward(losses)
        gradients.append([param.grad().asnumpy() for param in net.collect_params().values()])
    for one, other in zip(*gradients):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
