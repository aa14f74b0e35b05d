# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Priors that have Parameters, that differ between weights and biases, and that are set on whole networks."""
import copy
import gc

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import (BayesDense, BayesLSTM, BBBLoss, GaussianPrior, LaplacePrior, ScaleMixturePrior, kl_divergence,
                        posterior_as_prior, prune, set_prior)
from bbb_layers.posterior.gaussian import PRUNED_RHO

X, Y = nd.array(np.random.RandomState(2).normal(size=(6, 3))), nd.array([0, 1, 2, 3, 0, 1])


def make(mode=None, initialize=True, **kwargs):
    net = nn.HybridSequential()
    net.add(BayesDense(5, activation='tanh', bias_initializer=mx.init.Normal(0.3), **kwargs), nn.Dropout(0.1),
            BayesDense(4, bias_initializer=mx.init.Normal(0.3), **kwargs))
    if initialize:
        net.initialize(mx.init.Normal(0.5))
    return hybridize(net, mode)


def step(net, loss_fn, trainer=None):
    with autograd.record():
        loss = loss_fn(net(X), Y)
    loss.backward()
    if trainer is not None:
        trainer.step(6)
    return loss


def gaussian_kl(net, prior_sigma, prior_mu=0., names=('weight', 'bias')):
    total = 0.
    for layer in (net[0], net[2]):
        for name in names:
            mu, sigma = (value.asnumpy().astype('float64') for value in layer.posterior()[name])
            total += (np.log(prior_sigma / sigma) + (sigma ** 2 + (mu - prior_mu) ** 2) / (2 * prior_sigma ** 2)
                      - 0.5).sum()
    return total


@pytest.mark.parametrize('tapped', [False, True])
def test_learnable_prior(mode, tapped):
    net = make(mode, prior=GaussianPrior(0.5, mu=0.1, learnable=True))
    loss_fn = BBBLoss(net, 10) if tapped else None
    net(X)
    assert sorted(name for name in net[0]._reg_params if 'prior' in name) == [
        'bias_prior_mu', 'bias_prior_rho', 'weight_prior_mu', 'weight_prior_rho']
    loss_fn = loss_fn or BBBLoss(net, 10)
    np.testing.assert_allclose(kl_divergence(net).asscalar(), gaussian_kl(net, 0.5, 0.1), rtol=1e-5)
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.01})
    for _ in range(3):
        expected = kl_divergence(net).asscalar()
        step(net, loss_fn, trainer)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), expected, rtol=1e-5)
        for layer in (net[0], net[2]):
            for name in ('weight_prior_mu', 'weight_prior_rho', 'bias_prior_rho'):
                assert abs(getattr(layer, name).grad().asscalar()) > 0
    assert net[0].weight_prior_mu.data().asscalar() != pytest.approx(0.1, abs=1e-4)


def test_learnable_prior_finds_the_empirical_bayes_optimum():
    net = make(in_units=0, prior=GaussianPrior(2., learnable=True), initial_sigma=0.2)
    net(X)
    params = net.collect_params('.*_prior_.*')
    trainer = gluon.Trainer(params, 'adam', {'learning_rate': 0.05})
    for _ in range(500):
        with autograd.record():
            kl = kl_divergence(net)
        kl.backward()
        trainer.step(1)
    mu, sigma = (value.asnumpy() for value in net[0].posterior()['weight'])
    np.testing.assert_allclose(net[0].weight_prior_mu.data().asscalar(), mu.mean(), atol=1e-3)
    np.testing.assert_allclose(np.log1p(np.exp(net[0].weight_prior_rho.data().asscalar())),
                               (sigma ** 2 + (mu - mu.mean()) ** 2).mean() ** 0.5, rtol=1e-3)


def test_learnable_prior_is_saved_and_shared(tmp_path):
    prior = GaussianPrior(0.5, learnable=True)
    net = make(prior=prior)
    net(X)
    net[0].weight_prior_rho.set_data(nd.array([0.7]))
    net.save_parameters(str(tmp_path / 'net.params'))
    other = make(initialize=False, prior=prior)
    other.load_parameters(str(tmp_path / 'net.params'))
    assert kl_divergence(other).asscalar() == kl_divergence(net).asscalar()
    one = BayesDense(3, in_units=3, prior=prior)
    two = BayesDense(3, in_units=3, params=one.params)
    assert two.weight_prior_rho is one.weight_prior_rho
    lstm = BayesLSTM(4, input_size=3, prior=prior)
    lstm.initialize()
    lstm.save_parameters(str(tmp_path / 'lstm.params'))
    other = BayesLSTM(4, input_size=3, prior=prior)
    other.load_parameters(str(tmp_path / 'lstm.params'))
    assert kl_divergence(other).asscalar() == kl_divergence(lstm).asscalar()


def test_bias_prior(mode):
    net = make(mode, prior=GaussianPrior(0.5), bias_prior=GaussianPrior(3.))
    loss_fn = BBBLoss(net, 10)
    for _ in range(2):
        step(net, loss_fn)
        expected = gaussian_kl(net, 0.5, names=['weight']) + gaussian_kl(net, 3., names=['bias'])
        np.testing.assert_allclose(loss_fn.kl.asscalar(), expected, rtol=1e-5)
    assert net[0].priors == {'weight': GaussianPrior(0.5), 'bias': GaussianPrior(3.)}
    assert repr(net[2]) == ('BayesDense(5 -> 4, linear, prior=GaussianPrior(sigma=0.5, mu=0.0), '
                            'bias_prior=GaussianPrior(sigma=3.0, mu=0.0))')


@pytest.mark.parametrize('prior', [GaussianPrior(0.5), LaplacePrior(0.5), GaussianPrior(0.5, learnable=True)], ids=repr)
def test_sampled_kl(prior, mode):
    net = make(mode, prior=prior, kl='sample')
    loss_fn = BBBLoss(net, 10)
    step(net, loss_fn)
    exact = make(prior=prior)
    exact(X)
    for name, param in net._collect_params_with_prefix().items():
        exact._collect_params_with_prefix()[name].set_data(param.data())
    seen = []
    for _ in range(100):
        step(net, loss_fn)
        seen.append(loss_fn.kl.asscalar())
    error = np.std(seen) / 100 ** 0.5
    assert error > 0 and abs(np.mean(seen) - kl_divergence(exact).asscalar()) < 5 * error
    assert np.std([kl_divergence(net, num_samples=10).asscalar() for _ in range(10)]) < 0.7 * np.std(seen)


@pytest.mark.parametrize('when', ['before initialize', 'before forward', 'after forward', 'after training'])
@pytest.mark.parametrize('prior', [GaussianPrior(0.3), GaussianPrior(0.3, learnable=True)], ids=repr)
def test_set_prior(when, prior, mode):
    net = make(mode, initialize=False, prior=GaussianPrior(2., learnable=True))
    loss_fn = BBBLoss(net, 10)
    for now in ('before initialize', 'before forward', 'after forward', 'after training'):
        if now == 'before forward':
            net.initialize(mx.init.Normal(0.5))
        if now == 'after forward':
            net(X)
        if now == 'after training':
            step(net, loss_fn)
        if now == when:
            set_prior(net, prior)
    for _ in range(2):
        step(net, loss_fn)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), gaussian_kl(net, 0.3), rtol=1e-5)
    assert len(net.collect_params('.*_prior_.*').keys()) == (8 if prior.learnable else 0)
    gluon.Trainer(net.collect_params(), 'sgd').step(6)


def test_set_prior_on_biases_and_shared_layers():
    net = make()
    set_prior(net, GaussianPrior(), bias_prior=LaplacePrior())
    assert net[0].priors == net[2].priors == {'weight': GaussianPrior(), 'bias': LaplacePrior()}
    one = BayesDense(3, in_units=3)
    net = nn.HybridSequential()
    net.add(one, BayesDense(3, in_units=3, params=one.params))
    set_prior(net, GaussianPrior(learnable=True))
    set_prior(net, GaussianPrior(2., learnable=True))
    net.initialize()
    assert net[0].weight_prior_rho is net[1].weight_prior_rho
    loss_fn = BBBLoss(net, 10)
    with autograd.record():
        loss_fn(net(X), nd.zeros(6)).backward()
    assert net[0].weight_prior_rho.grad().asscalar() != 0


def test_set_prior_after_the_trainer_raises():
    net = make()
    gluon.Trainer(net.collect_params(), 'sgd')
    with pytest.raises(RuntimeError, match='before the Trainer is made'):
        set_prior(net, GaussianPrior())
    assert net[0].prior == ScaleMixturePrior()


@pytest.mark.parametrize('pruned', [0., 0.5])
def test_posterior_as_prior(mode, pruned, tmp_path):
    net = make(mode)
    loss_fn = BBBLoss(net, 10)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    for _ in range(3):
        step(net, loss_fn, trainer)
    prune(net, pruned)
    before = {name: param.data().asnumpy() for name, param in net._collect_params_with_prefix().items()}
    new = hybridize(posterior_as_prior(net), mode)
    np.testing.assert_allclose(kl_divergence(new).asscalar(), 0, atol=1e-4)
    np.testing.assert_allclose(new(X).asnumpy(), net(X).asnumpy(), rtol=1e-5)
    new_loss = BBBLoss(new, 10)
    trainer = gluon.Trainer(new.collect_params(), 'sgd', {'learning_rate': 0.1})
    for _ in range(4):
        expected = kl_divergence(new).asscalar()
        step(new, new_loss, trainer)
        np.testing.assert_allclose(new_loss.kl.asscalar(), expected, rtol=1e-4, atol=1e-4)
    assert kl_divergence(new).asscalar() > 1e-4
    for name, value in before.items():
        np.testing.assert_array_equal(net._collect_params_with_prefix()[name].data().asnumpy(), value)
        if not name.endswith('_rho'):
            mean = np.where(before[name + '_rho'] > PRUNED_RHO / 10, value, 0)
            np.testing.assert_array_equal(new._collect_params_with_prefix()[name + '_prior_mu'].data().asnumpy(), mean)
    # Saved with its prior, and loaded into a network that is built the same way.
    new.save_parameters(str(tmp_path / 'new.params'))
    other = posterior_as_prior(make_like(net))
    other.load_parameters(str(tmp_path / 'new.params'))
    np.testing.assert_allclose(kl_divergence(other).asscalar(), kl_divergence(new).asscalar(), rtol=1e-5)


def make_like(net):
    other = make()
    other(X)
    return other


@pytest.mark.parametrize('build,error,message', [
    (lambda: BayesDense(3, bias_prior=1), TypeError, 'bias_prior must be an instance of Prior'),
    (lambda: BayesDense(3, kl='closed'), ValueError, "kl must be 'auto' or 'sample' .saw: 'closed'"),
    (lambda: set_prior(make(), None), TypeError, 'prior must be an instance of Prior'),
    (lambda: set_prior(make(), 'gaussian'), TypeError, 'prior must be an instance of Prior'),
    (lambda: set_prior(nn.Dense(3), GaussianPrior()), ValueError, 'at least one Bayesian layer'),
    (lambda: posterior_as_prior(nn.Dense(3)), ValueError, 'at least one Bayesian layer'),
    (lambda: posterior_as_prior(BayesDense(3)), RuntimeError, 'has not been initialized'),
    (lambda: GaussianPrior(np.array([1., -1.])), ValueError, r'sigma must be positive and finite \(saw: -1.0\)'),
    (lambda: GaussianPrior(np.ones(2), mu=np.array([0., np.nan])), ValueError, 'mu must be finite'),
    (lambda: GaussianPrior(np.ones(2), learnable=True), ValueError, 'learnable takes numbers'),
    (lambda: BayesDense(3, in_units=2, prior=GaussianPrior(np.ones((3, 4)))), ValueError, 'have its shape'),
])
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_priors_with_arrays():
    sigma, mu = np.array([[0.5, 1., 2.]]), np.array([[0.1, 0., -1.]])
    prior = GaussianPrior(sigma, mu)
    assert prior == GaussianPrior(sigma, mu) != GaussianPrior(sigma) and hash(prior) == hash(GaussianPrior())
    assert repr(prior) == 'GaussianPrior(sigma=array(1, 3), mu=array(1, 3))'
    w = nd.array([[0.3, -0.2, 0.7]], dtype='float64')
    exact = -0.5 * ((w.asnumpy() - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(prior.log_prob(w).asnumpy(), exact, rtol=1e-12)


def test_a_prior_that_does_not_fit_changes_nothing():
    net = nn.HybridSequential()
    net.add(*[BayesDense(3, in_units=3, prior=GaussianPrior(learnable=True)) for _ in range(2)])
    net.initialize()
    before = list(net.collect_params())
    with pytest.raises(ValueError, match='bias must be a number or have its shape'):
        set_prior(net, GaussianPrior(np.ones((3, 3))))      # the biases have another shape
    assert list(net.collect_params()) == before
    loss_fn = BBBLoss(net, 10)
    with autograd.record():
        loss_fn(net(nd.ones((2, 3))), nd.zeros(2))
    assert net[1].priors == {'weight': GaussianPrior(learnable=True), 'bias': GaussianPrior(learnable=True)}


def test_layers_outside_that_share_parameters_raise():
    one = BayesDense(3, in_units=4)
    two = BayesDense(3, in_units=4, params=one.params)
    for net in (one, two):
        with pytest.raises(ValueError, match='net must hold all layers that share Parameter .*_weight'):
            set_prior(net, GaussianPrior(0.1))
        assert one.prior == two.prior == ScaleMixturePrior()
    both = nn.HybridSequential()
    both.add(one, two)
    copies = copy.deepcopy(both), copy.deepcopy(both)
    set_prior(both, GaussianPrior(0.1, learnable=True))     # copies are layers of their own
    assert one.prior == two.prior == GaussianPrior(0.1, learnable=True)
    assert one.weight_prior_mu is two.weight_prior_mu
    with pytest.raises(ValueError, match='net must hold all layers'):
        set_prior(copies[0][0], GaussianPrior(0.2))
    set_prior(copies[0], GaussianPrior(0.2))
    del one, two, both, copies


def test_a_layer_that_is_gone_does_not_count():
    one = BayesDense(3, in_units=4)
    BayesDense(3, in_units=4, params=one.params)
    gc.collect()
    set_prior(one, GaussianPrior(0.1))
    assert one.prior == GaussianPrior(0.1)
