# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import math
import pickle

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from scipy import integrate, special, stats

from bbb_layers import (BayesBlock, BayesDense, BBBLoss, GaussianPrior, LaplacePrior, MixturePrior, Prior,
                        ScaleMixturePrior, StudentTPrior, kl_divergence, set_prior)
from bbb_layers.posterior import gaussian


class CauchyPrior(Prior):
    """A user's prior: log_prob alone."""

    def log_prob(self, w):
        return -(1 + w.square()).log() - math.log(math.pi)


def log_prob_of_mixture(w, weights, sigmas):
    parts = [math.log(weight) + stats.norm.logpdf(w, scale=sigma) for weight, sigma in zip(weights, sigmas)]
    return np.logaddexp.reduce(parts, axis=0)


def mixture_log_prob(w, pi=0.5, sigma1=0.75, sigma2=0.01):
    return log_prob_of_mixture(w, (pi, 1 - pi), (sigma1, sigma2))


CASES = [
    (GaussianPrior(), lambda w: stats.norm.logpdf(w)),
    (GaussianPrior(0.3), lambda w: stats.norm.logpdf(w, scale=0.3)),
    (ScaleMixturePrior(), mixture_log_prob),
    (ScaleMixturePrior(0.25, 1., math.exp(-6)), lambda w: mixture_log_prob(w, 0.25, 1., math.exp(-6))),
    (ScaleMixturePrior(0.9, 0.1, 2.), lambda w: mixture_log_prob(w, 0.9, 0.1, 2.)),
    (ScaleMixturePrior(0.3, 0.5, 0.5), lambda w: stats.norm.logpdf(w, scale=0.5)),
    (CauchyPrior(), stats.cauchy.logpdf),
    (GaussianPrior(0.3, mu=-0.7), lambda w: stats.norm.logpdf(w, -0.7, 0.3)),
    (MixturePrior((1.,), (0.4,)), lambda w: stats.norm.logpdf(w, scale=0.4)),
    (MixturePrior((0.2, 0.5, 0.3), (0.05, 0.002, 1.5)),
     lambda w: log_prob_of_mixture(w, (0.2, 0.5, 0.3), (0.05, 0.002, 1.5))),
    (LaplacePrior(0.4), lambda w: -abs(w) / 0.4 - math.log(0.8)),
    (StudentTPrior(), lambda w: stats.t.logpdf(w, 3)),
    (StudentTPrior(5.5, 0.2), lambda w: stats.t.logpdf(w, 5.5, scale=0.2)),
]
IDS = ['%r-%d' % (prior, i) for i, (prior, _) in enumerate(CASES)]


@pytest.mark.parametrize('prior,exact', CASES, ids=IDS)
@pytest.mark.parametrize('dtype,rtol', [('float32', 3e-5), ('float64', 1e-6)])
def test_log_prob(prior, exact, dtype, rtol):
    w = np.concatenate([np.linspace(-3, 3, 601), [1e-8, 20., -20., 300.]]).astype(dtype)
    np.testing.assert_allclose(prior.log_prob(nd.array(w, dtype=dtype)).asnumpy(), exact(w.astype('float64')),
                               rtol=rtol, atol=rtol)
    symbol = prior.log_prob(mx.sym.var('w'))
    np.testing.assert_allclose(symbol.eval(w=nd.array(w, dtype=dtype))[0].asnumpy(),
                               prior.log_prob(nd.array(w, dtype=dtype)).asnumpy(), rtol=1e-6)


@pytest.mark.parametrize('prior', [ScaleMixturePrior(), ScaleMixturePrior(0.5, 1., 1e-6),
                                   ScaleMixturePrior(1e-6, 1e3, 1e-3), ScaleMixturePrior(0.5, 1e-18, 1e18),
                                   MixturePrior((0.3, 0.3, 0.4), (1e-6, 1., 1e6)), StudentTPrior()], ids=repr)
def test_finite_for_every_weight(prior):
    largest = np.finfo('float32').max
    w = nd.array([0, 1e-45, 1e-30, 1., 20., 1e10, 1e19, 1e30, largest])
    w = nd.concat(w, -w, dim=0)
    w.attach_grad()
    with autograd.record():
        log_prob = prior.log_prob(w)
    log_prob.backward()
    assert np.isfinite(log_prob.asnumpy()).all()
    assert np.isfinite(w.grad.asnumpy()).all()
    sigma = nd.ones_like(w)
    assert np.isfinite(prior.kl(w, sigma, w).asnumpy()).all()


@pytest.mark.parametrize('prior,exact', CASES, ids=IDS)
def test_log_prob_gradient(prior, exact):
    w = nd.array([-2., -0.3, -0.011, 0.004, 0.05, 1.7], dtype='float64')
    w.attach_grad()
    with autograd.record():
        log_prob = prior.log_prob(w)
    log_prob.backward()
    step = 1e-6
    numeric = (exact(w.asnumpy() + step) - exact(w.asnumpy() - step)) / (2 * step)
    np.testing.assert_allclose(w.grad.asnumpy(), numeric, rtol=1e-5, atol=1e-5)


MU, SIGMA = np.array([-0.8, 0.02, 0.3]), np.array([0.2, 0.05, 0.7])


def quadrature(exact):
    def kl(mu, sigma):
        q = stats.norm(mu, sigma)
        value, _ = integrate.quad(lambda w: q.pdf(w) * (q.logpdf(w) - exact(w)), mu - 12 * sigma, mu + 12 * sigma,
                                  points=[0., mu], limit=400)
        return value
    return sum(kl(mu, sigma) for mu, sigma in zip(MU, SIGMA))


@pytest.mark.parametrize('prior,exact', CASES, ids=IDS)
def test_kl_against_quadrature(prior, exact):
    shape = (3, 100000)
    mu, sigma = (nd.broadcast_to(nd.array(values).reshape((-1, 1)), shape) for values in (MU, SIGMA))
    weight = mu + sigma * nd.random.normal(shape=shape)
    terms = prior.kl(mu, sigma, weight).asnumpy().astype('float64')
    estimate, error = terms.mean(axis=1).sum(), (terms.var(axis=1).sum() / shape[1]) ** 0.5
    expected = quadrature(exact)
    if prior.closed_form:
        np.testing.assert_allclose(estimate, expected, rtol=1e-5)
    else:
        assert error < 0.02 * abs(expected)
        assert abs(estimate - expected) < 5 * error + 1e-4 * abs(expected)


def test_closed_form_against_monte_carlo():
    prior, sampled = GaussianPrior(0.4), Prior.kl
    shape = (3, 200000)
    mu, sigma = (nd.broadcast_to(nd.array(values).reshape((-1, 1)), shape) for values in (MU, SIGMA))
    terms = sampled(prior, mu, sigma, mu + sigma * nd.random.normal(shape=shape)).asnumpy().astype('float64')
    error = (terms.var(axis=1).sum() / shape[1]) ** 0.5
    assert abs(terms.mean(axis=1).sum() - prior.kl(mu, sigma, None).asnumpy().mean(axis=1).sum()) < 5 * error


@pytest.mark.costly
@pytest.mark.parametrize('prior,exact', CASES, ids=IDS)
def test_kl_divergence_of_a_layer(prior, exact):
    layer = BayesDense(3, in_units=1, use_bias=False, prior=prior)
    layer.initialize()
    layer.weight.set_data(nd.array(MU).reshape((-1, 1)))
    layer.weight_rho.set_data(nd.array([gaussian.rho_from_sigma(sigma) for sigma in SIGMA]).reshape((-1, 1)))
    one = [kl_divergence(layer).asscalar() for _ in range(400)]
    many = [kl_divergence(layer, num_samples=20).asscalar() for _ in range(20)]
    expected = quadrature(exact)
    for estimates in (one, many):
        error = np.std(estimates) / len(estimates) ** 0.5
        assert abs(np.mean(estimates) - expected) < 5 * error + 1e-4 * abs(expected)
    assert (np.std(one) < 1e-6) == prior.closed_form
    if not prior.closed_form:
        assert np.std(many) < 0.6 * np.std(one)


def test_prior_of_ones_own_trains(mode):
    from conftest import hybridize
    layer = BayesDense(2, prior=CauchyPrior())
    layer.initialize()
    hybridize(layer, mode)
    loss_fn = BBBLoss(layer, 10, likelihood=gluon.loss.L2Loss())
    for _ in range(3):
        with autograd.record():
            loss = loss_fn(layer(nd.ones((4, 3))), nd.ones((4, 2)))
        loss.backward()
        assert np.isfinite(loss.asnumpy()).all()
        assert abs(layer.weight_rho.grad().asnumpy()).min() > 0


def test_closed_form_of_laplace_is_finite_at_extremes():
    mu, sigma = nd.array([0., 1e-30, 3., -1e10, 1e30, 1e-3]), nd.array([1e-38, 1e-20, 1e-35, 1e-30, 1., 1e20])
    mu.attach_grad()
    sigma.attach_grad()
    with autograd.record():
        kl = LaplacePrior().kl(mu, sigma, None)
    kl.backward()
    for array in (kl, mu.grad):
        assert np.isfinite(array.asnumpy()).all()


def test_prior_without_log_prob():
    with pytest.raises(NotImplementedError, match='Empty must define log_prob'):
        type('Empty', (Prior,), {})().kl(nd.ones(1), nd.ones(1), nd.ones(1))


def test_equality():
    assert GaussianPrior(1) == GaussianPrior(1.) != GaussianPrior(2.)
    assert hash(GaussianPrior(1)) == hash(GaussianPrior(1.))
    assert ScaleMixturePrior() == ScaleMixturePrior(0.5, 0.75, 0.01) != ScaleMixturePrior(0.25)
    assert GaussianPrior() != ScaleMixturePrior()


@pytest.mark.parametrize('build,message', [
    (lambda: GaussianPrior(0), r'sigma must be positive and finite \(saw: 0.0\)'),
    (lambda: GaussianPrior(-1.), 'sigma'), (lambda: GaussianPrior(math.nan), 'sigma'),
    (lambda: GaussianPrior(math.inf), 'sigma'),
    (lambda: ScaleMixturePrior(pi=0), r'pi must be between 0 and 1, both excluded \(saw: 0.0\)'),
    (lambda: ScaleMixturePrior(pi=1), 'pi'), (lambda: ScaleMixturePrior(pi=math.nan), 'pi'),
    (lambda: GaussianPrior(1., mu=math.inf), 'mu must be finite'), (lambda: LaplacePrior(0), 'scale must be positive'),
    (lambda: StudentTPrior(df=-1), 'df must be positive'), (lambda: StudentTPrior(scale=0), 'scale must be positive'),
    (lambda: MixturePrior((), ()), 'of one length'), (lambda: MixturePrior((1.,), (1., 2.)), 'of one length'),
    (lambda: MixturePrior((0.5, 0.6), (1., 2.)), 'sum 1'), (lambda: MixturePrior((1.5, -0.5), (1., 2.)), 'weights'),
    (lambda: ScaleMixturePrior(0.5, 0., 1.), 'sigma1'), (lambda: ScaleMixturePrior(0.5, 1., -1.), 'sigma2'),
])
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('value', ['1', None, True, [1.]])
def test_bad_types(value):
    with pytest.raises(TypeError, match='sigma must be a number'):
        GaussianPrior(value)


def test_attributes_cannot_change():
    prior = GaussianPrior(1.)
    with pytest.raises(AttributeError, match='sigma of a GaussianPrior cannot be changed'):
        prior.sigma = 2.
    layer = BayesDense(3, prior=prior)
    with pytest.raises(AttributeError, match='cannot be changed'):
        del prior.sigma
    with pytest.raises(AttributeError):
        layer.prior = GaussianPrior(2.)
    assert copy.deepcopy(prior) == prior == pickle.loads(pickle.dumps(prior))


def test_log_prob_must_keep_the_shape():
    class Summed(Prior):
        def log_prob(self, w):
            return (-0.5 * w.square()).sum()

    layer = BayesDense(3, in_units=2, prior=Summed())
    layer.initialize()
    with pytest.raises(ValueError, match=r'log_prob of Summed must keep the shape of the weights, \(3, 2\)'):
        kl_divergence(layer)


@pytest.mark.parametrize('build', [lambda: GaussianPrior(1e-40), lambda: GaussianPrior(1e39),
                                   lambda: BayesDense(3, initial_sigma=1e300)])
def test_numbers_that_float32_cannot_hold(build):
    with pytest.raises(ValueError, match='must be positive and finite'):
        build()


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('prior', [GaussianPrior(), ScaleMixturePrior(), LaplacePrior(), StudentTPrior()], ids=repr)
@pytest.mark.parametrize('sigma', [1e-37, 1e-25, 1e-12, 1e12, 1e17])
def test_kl_and_gradients_are_finite(prior, sigma, dtype):
    for mu in (0., 1e-30, -0.3, 1e9):
        layer = BayesDense(2, in_units=2, prior=prior, initial_sigma=sigma, dtype=dtype)
        layer.initialize(mx.init.Constant(mu))
        with autograd.record():
            kl = kl_divergence(layer)
        kl.backward()
        for array in (kl, layer.weight.grad(), layer.weight_rho.grad()):
            assert np.isfinite(array.asnumpy()).all(), mu


def test_laplace_gradient_at_all_ratios():
    mu, sigma = (nd.array(values.ravel(), dtype='float64') for values in np.meshgrid(
        [-1e3, -2., -0.1, -1e-9, 0., 1e-4, 0.7, 30.], [1e-12, 1e-5, 0.01, 0.3, 5., 1e4]))
    ratio = mu.asnumpy() / sigma.asnumpy()
    mu.attach_grad()
    sigma.attach_grad()
    with autograd.record():
        kl = LaplacePrior(0.5).kl(mu, sigma, None)
    kl.backward()
    # d E|w| / d mu = erf(r / sqrt 2), d E|w| / d sigma = sqrt(2 / pi) exp(-r^2 / 2)
    np.testing.assert_allclose(mu.grad.asnumpy(), 2 * special.erf(ratio / 2 ** 0.5), rtol=1e-6, atol=1e-9)
    expected = 2 * np.sqrt(2 / np.pi) * np.exp(-ratio ** 2 / 2) - 1 / sigma.asnumpy()
    np.testing.assert_allclose(sigma.grad.asnumpy(), expected, rtol=1e-6)


@pytest.mark.parametrize('df', [1e-3, 1., 3., 1e3, 9.99e5, 1.01e6, 1e10, 1e16, 1e30])
def test_student_t_constant(df):
    exact = stats.t.logpdf(0.5, df) if df < 1e6 else stats.norm.logpdf(0.5)
    ours = StudentTPrior(df).log_prob(nd.array([0.5], dtype='float64')).asscalar()
    np.testing.assert_allclose(ours, exact, rtol=1e-6)


@pytest.mark.parametrize('kwargs,message', [
    (dict(sigma=np.array([1., 1e39])), 'sigma must be positive and finite .saw: 1e.39'),
    (dict(sigma=np.array([1e-42, 1.])), 'sigma must be positive and finite .saw: 1e-42'),
    (dict(sigma=np.array([np.nan, 1.])), 'sigma must be positive and finite .saw: nan'),
    (dict(sigma=np.array([0., 1.])), 'sigma must be positive and finite .saw: 0.0'),
    (dict(mu=np.array([np.inf, 1.])), 'mu must be finite .saw: inf'),
    (dict(mu=np.array([np.nan, 1.])), 'mu must be finite .saw: nan'),
])
def test_bad_arrays(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GaussianPrior(**kwargs)


def test_learnable_prior_starts_with_the_file_of_a_plain_network(tmp_path):
    plain = gluon.nn.Dense(3, in_units=4)
    plain.initialize()
    plain.save_parameters(str(tmp_path / 'plain.params'))
    layer = BayesDense(3, prior=GaussianPrior(0.5, learnable=True))
    layer.load_parameters(str(tmp_path / 'plain.params'), allow_missing=True)
    with autograd.record():
        kl = kl_divergence(layer)
    kl.backward()
    np.testing.assert_allclose(layer(nd.ones((2, 4))).asnumpy(), plain(nd.ones((2, 4))).asnumpy(), rtol=1e-6)
    assert abs(layer.bias_prior_rho.grad()).min().asscalar() > 0


def test_a_bias_is_told_by_its_attribute():
    class Odd(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.shift = self.params.get('bias', shape=(2,))
                self.out_bias = self.params.get('offset', shape=(2,))

        def hybrid_forward(self, F, x, shift, out_bias):
            return F.broadcast_add(x, F.expand_dims(shift + out_bias, axis=0))

    class BayesOdd(BayesBlock, Odd):
        pass

    expected = {'shift': GaussianPrior(0.1), 'out_bias': GaussianPrior(9.)}
    layer = BayesOdd(prior=GaussianPrior(0.1), bias_prior=GaussianPrior(9.))
    assert layer.priors == expected
    other = BayesOdd()
    set_prior(other, GaussianPrior(0.1), bias_prior=GaussianPrior(9.))
    assert other.priors == expected


def test_shared_parameters_have_one_kind_of_kl():
    one = BayesDense(3, in_units=2, prior=GaussianPrior())
    with pytest.raises(ValueError, match="kl must be that of the layer which shares Parameter .*_weight, 'auto'"):
        BayesDense(3, in_units=2, kl='sample', params=one.params)
    assert BayesDense(3, in_units=2, params=one.params).weight_rho is one.weight_rho
