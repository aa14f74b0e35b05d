# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from scipy import stats

from bbb_layers import GaussianPrior, Prior, ScaleMixturePrior
from bbb_layers.posterior import gaussian


@pytest.mark.parametrize('dtype,rtol', [('float32', 1e-5), ('float64', 1e-12)])
def test_sigma(dtype, rtol):
    rho = nd.array(np.concatenate([np.linspace(-80, 80, 4001), [0., -1e-9, 1e-9, 500., 1e4]]), dtype=dtype)
    rho.attach_grad()
    with autograd.record():
        sigma = gaussian.sigma_from_rho(nd, rho)
    sigma.backward()
    exact = np.logaddexp(0, rho.asnumpy().astype('float64'))
    np.testing.assert_allclose(sigma.asnumpy(), exact, rtol=rtol)
    np.testing.assert_allclose(rho.grad.asnumpy(), 1 / (1 + np.exp(-rho.asnumpy().astype('float64'))), rtol=rtol)


def test_sigma_has_a_floor():
    sigma = gaussian.sigma_from_rho(nd, nd.array([-90., -120., -1e4, -1e30])).asnumpy()
    assert (sigma > 0).all() and np.isfinite(np.log(sigma)).all()


@pytest.mark.parametrize('sigma', [1e-30, 1e-6, 0.05, 0.6931471805599453, 1., 30., 1000.])
def test_rho_from_sigma_is_the_inverse(sigma):
    rho = gaussian.rho_from_sigma(sigma)
    np.testing.assert_allclose(gaussian.sigma_from_rho(nd, nd.array([rho], dtype='float64')).asscalar(), sigma,
                               rtol=1e-12)


def draws(shape, dtype='float32', mu=0., rho=0.):
    return gaussian.draw(nd, nd.full(shape, mu, dtype=dtype), nd.full(shape, rho, dtype=dtype))[0]


@pytest.mark.parametrize('shape', [(1,), (2,), (1, 7), (7, 1), (5, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_draw_keeps_shape_and_dtype(shape, dtype):
    weight = draws(shape, dtype)
    assert weight.shape == shape and weight.dtype == np.dtype(dtype)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_moments_and_distribution(dtype):
    sigma = math.log(2)
    noise = (draws((1001, 1000), dtype, mu=1.5).asnumpy().astype('float64') - 1.5) / sigma
    n = noise.size
    # Each within 5 standard errors of the moment's estimate.
    assert abs(noise.mean()) < 5 / n ** 0.5
    assert abs((noise ** 2).mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((noise ** 3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((noise ** 4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert stats.kstest(noise.ravel(), 'norm').pvalue > 1e-4
    for bound in (3, 4):
        expected = 2 * stats.norm.sf(bound) * n
        assert abs((abs(noise) > bound).sum() - expected) < 5 * expected ** 0.5
    # The two halves come from the same uniform numbers, and neighbours from the same generator.
    halves = noise[:500], noise[501:]
    for a, b in [halves, (noise[:, :-1], noise[:, 1:]), (noise[:-1], noise[1:])]:
        assert abs((a * b).mean()) < 5 / a.size ** 0.5
        assert abs((a ** 2 * b ** 2).mean() - 1) < 5 * (8 / a.size) ** 0.5


@pytest.mark.costly
def test_draws_stay_finite():
    # MXNet's uniform float32 numbers are exactly 1 about once in 5e7 times, and can be exactly 0.
    for _ in range(25):
        assert np.isfinite(draws((2000, 2000)).sum().asscalar())


@pytest.mark.parametrize('uniform, mx_seed, generator, place', [(0., 59871, 25, 141), (1., 84, 26, 745)])
def test_uniform_numbers_of_exactly_0_and_1(uniform, mx_seed, generator, place):
    """The radius of Box and Muller's transform is finite for both; log(0) would make it infinite.

    MXNet has 1024 random generators, and each of them fills a piece of the array. With these seeds the number at one
    place of one piece is 0 or 1.
    """
    size = 1024 * (place + 1)
    place += generator * size // 1024
    mx.random.seed(mx_seed)
    assert nd.random.uniform_like(nd.zeros((size,)))[place].asscalar() == uniform
    mx.random.seed(mx_seed)
    noise = gaussian.noise_like(nd, nd.zeros((2 * size,))).asnumpy()    # the two halves share their uniform numbers
    assert np.isfinite(noise).all()
    largest = math.sqrt(-2 * math.log(2 ** -33))
    np.testing.assert_allclose(math.hypot(noise[place], noise[size + place]), largest * (1 - uniform), rtol=1e-5)


def test_seed_reproduces_a_draw():
    mx.random.seed(5)
    first = draws((30, 40)).asnumpy()
    second = draws((30, 40)).asnumpy()
    mx.random.seed(5)
    np.testing.assert_array_equal(first, draws((30, 40)).asnumpy())
    assert abs(first - second).max() > 0


def numeric_gradient(f, value, step=1e-5):
    gradient = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        plus, minus = value.copy(), value.copy()
        plus[index] += step
        minus[index] -= step
        gradient[index] = (f(plus) - f(minus)) / (2 * step)
    return gradient


@pytest.mark.parametrize('prior', [GaussianPrior(0.6), ScaleMixturePrior(0.25, 0.9, 0.1)], ids=repr)
def test_gradients_against_finite_differences(prior, seed):
    mu_value, rho_value = np.random.normal(size=(3, 5)), np.random.normal(-1, 1, size=(3, 5))
    rho_value[0, 0] = 0.
    slope = nd.array(np.random.normal(size=(3, 5)), dtype='float64')

    def objective(mu, rho):
        mx.random.seed(seed % 2 ** 31)      # holds the noise
        weight, kl = gaussian.draw(nd, mu, rho, prior)
        return (weight * slope).sum() + weight.square().sum() + kl

    def value(mu, rho):
        return objective(nd.array(mu, dtype='float64'), nd.array(rho, dtype='float64')).asscalar()

    mu, rho = nd.array(mu_value, dtype='float64'), nd.array(rho_value, dtype='float64')
    mu.attach_grad()
    rho.attach_grad()
    with autograd.record():
        loss = objective(mu, rho)
    loss.backward()
    np.testing.assert_allclose(mu.grad.asnumpy(), numeric_gradient(lambda v: value(v, rho_value), mu_value), rtol=1e-5,
                               atol=1e-7)
    np.testing.assert_allclose(rho.grad.asnumpy(), numeric_gradient(lambda v: value(mu_value, v), rho_value),
                               rtol=1e-5, atol=1e-7)


def test_pruned_weights_are_zero_without_gradient_and_kl():
    mu, rho = nd.array([1., 2., 3.]), nd.array([-1., gaussian.PRUNED_RHO, -1.])
    mu.attach_grad()
    rho.attach_grad()
    with autograd.record():
        weight, kl = gaussian.draw(nd, mu, rho, ScaleMixturePrior())
        loss = weight.sum() + kl
    loss.backward()
    assert weight.asnumpy()[1] == 0 and (weight.asnumpy()[[0, 2]] != 0).all()
    for param in (mu, rho):
        assert param.grad.asnumpy()[1] == 0 and (param.grad.asnumpy()[[0, 2]] != 0).all()
    alone = gaussian.kl_term(nd, GaussianPrior(), mu[:1], gaussian.sigma_from_rho(nd, rho[:1]), None, nd.ones(1))
    with_pruned = gaussian.kl_term(nd, GaussianPrior(), mu[:2], gaussian.sigma_from_rho(nd, rho[:2]), None,
                                    gaussian.kept(rho[:2]))
    np.testing.assert_allclose(alone.asscalar(), with_pruned.asscalar(), rtol=1e-6)


def test_nan_is_not_taken_for_pruned():
    mu, rho = nd.array([1., math.nan]), nd.array([math.nan, -1.])
    assert np.isnan(gaussian.draw(nd, mu, rho)[0].asnumpy()).all()
    mean, sigma = gaussian.moments(mu, rho)
    assert mean.asnumpy()[0] == 1 and np.isnan(mean.asnumpy()[1])
    assert np.isnan(sigma.asnumpy()[0])


@pytest.mark.parametrize('shape', [(1,), (7,), (2, 3, 4, 5), (100000, 10), (2000, 5000)])
@pytest.mark.parametrize('prior', [GaussianPrior(), ScaleMixturePrior()], ids=['closed form', 'sampled'])
def test_sum_of_the_kl_over_many_weights(shape, prior):
    mu, rho = nd.full(shape, 0.1), nd.full(shape, gaussian.rho_from_sigma(0.05))
    weight, kl = gaussian.draw(nd, mu, rho, prior)
    kl = kl.asscalar() / mu.size
    if prior.closed_form:
        np.testing.assert_allclose(kl, -math.log(0.05) + (0.05 ** 2 + 0.1 ** 2) / 2 - 0.5, rtol=3e-5)
    elif mu.size < 10 ** 5:
        values = weight.asnumpy().astype('float64')
        density = (stats.norm.pdf(values, scale=0.75) + stats.norm.pdf(values, scale=0.01)) / 2
        # Of the draw is the prior's part alone; the posterior's is its expectation.
        np.testing.assert_allclose(kl, -stats.norm(0.1, 0.05).entropy() - np.log(density).mean(), rtol=1e-4)
    else:
        sample = nd.random.normal(0.1, 0.05, shape=(10 ** 6,))
        terms = prior.kl(nd.full(sample.shape, 0.1), nd.full(sample.shape, 0.05), sample)
        np.testing.assert_allclose(kl, terms.asnumpy().mean(), rtol=2e-3)


def test_one_diverging_step_does_not_prune():
    rho = nd.array([-1e5, -1e20, gaussian.PRUNED_RHO, gaussian.PRUNED_RHO * 1.01])
    assert gaussian.kept(rho).asnumpy().tolist() == [1, 1, 0, 0]


def test_prior_without_a_finite_density_at_zero():
    class LogUniform(Prior):
        def log_prob(self, w):
            return -w.abs().log()

    mu, rho = nd.array([1., 0., 2.]), nd.array([-1., gaussian.PRUNED_RHO, -1.])
    mu.attach_grad()
    rho.attach_grad()
    with autograd.record():
        weight, kl = gaussian.draw(nd, mu, rho, LogUniform())
    kl.backward()
    for array in (weight, kl, mu.grad, rho.grad):
        assert np.isfinite(array.asnumpy()).all()
    assert mu.grad.asnumpy()[1] == rho.grad.asnumpy()[1] == 0
