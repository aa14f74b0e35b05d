# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import inspect
import math

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import BayesBlock, BayesDense, BBBLoss, GaussianPrior


def initialized(*args, **kwargs):
    layer = BayesDense(*args, **kwargs)
    layer.initialize(mx.init.Normal(0.5))
    return layer


def test_signature_is_that_of_dense_and_ours():
    theirs = list(inspect.signature(nn.Dense).parameters.items())
    ours = inspect.signature(BayesDense).parameters
    assert list(ours) == [name for name, _ in theirs[:-1]] + [
        'prior', 'bias_prior', 'initial_sigma', 'estimator', 'kl', 'kwargs']
    for name, parameter in theirs:
        assert ours[name].default == parameter.default
    for name in ('prior', 'bias_prior', 'initial_sigma', 'estimator', 'kl'):
        assert ours[name].kind == inspect.Parameter.KEYWORD_ONLY
    assert ours['initial_sigma'].default == 0.05


@pytest.mark.parametrize('kwargs', [
    {}, {'activation': 'relu'}, {'use_bias': False}, {'flatten': False}, {'flatten': False, 'activation': 'tanh'},
    {'dtype': 'float64'}, {'weight_initializer': 'ones', 'bias_initializer': 'ones'}, {'in_units': 12},
], ids=repr)
def test_posterior_mean_is_dense(kwargs, mode):
    shape = (4, 3, 12) if kwargs.get('flatten') is False or 'in_units' not in kwargs else (4, 3, 4)
    x = nd.random.normal(shape=shape).astype(kwargs.get('dtype', 'float32'))
    plain, bayes = nn.Dense(5, **kwargs), BayesDense(5, **kwargs)
    plain.initialize()
    bayes.initialize()
    hybridize(bayes, mode)
    expected, output = plain(x), bayes(x)
    assert bayes.weight.shape == plain.weight.shape
    for name, param in plain._reg_params.items():
        getattr(bayes, name).set_data(param.data())
    expected, output = plain(x), bayes(x)
    assert output.dtype == expected.dtype
    np.testing.assert_allclose(output.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('in_units', [0, 6])
def test_moments_of_the_output(mode, in_units):
    layer = initialized(3, in_units=in_units, bias_initializer=mx.init.Normal(0.5), initial_sigma=0.4)
    hybridize(layer, mode)
    x = nd.random.normal(shape=(2, 6))
    layer(x)
    layer.weight_rho.set_data(nd.random.normal(-1, 1, shape=(3, 6)))
    n = 4000 if mode is not None else 1500
    with autograd.train_mode():
        outputs = np.stack([layer(x).asnumpy() for _ in range(n)]).astype('float64')
    posterior = {name: [value.asnumpy().astype('float64') for value in pair]
                 for name, pair in layer.posterior().items()}
    (weight, weight_sigma), (bias, bias_sigma) = posterior['weight'], posterior['bias']
    inputs = x.asnumpy().astype('float64')
    mean, variance = inputs @ weight.T + bias, inputs ** 2 @ weight_sigma.T ** 2 + bias_sigma ** 2
    # 5 standard errors
    assert (abs(outputs.mean(axis=0) - mean) < 5 * (variance / n) ** 0.5).all()
    assert (abs(outputs.var(axis=0) / variance - 1) < 5 * (2 / n) ** 0.5).all()
    # One draw for the whole batch: its examples vary together.
    covariance = (inputs[0] * inputs[1]) @ weight_sigma.T ** 2 + bias_sigma ** 2
    deviation = outputs - outputs.mean(axis=0)
    error = (variance[0] * variance[1] + covariance ** 2) ** 0.5 / n ** 0.5
    assert (abs((deviation[:, 0] * deviation[:, 1]).mean(axis=0) - covariance) < 5 * error).all()


@pytest.mark.costly
def test_rho_gradient_against_the_analytic_one(mode):
    # E[sum(y^2)] = sum(mean^2) + sum(variance), so d/d rho = 2 sigma x^2 sigmoid(rho).
    layer = initialized(3, in_units=4, use_bias=False, initial_sigma=0.8)
    hybridize(layer, mode)
    x = nd.random.normal(shape=(1, 4))
    gradients = []
    for _ in range(3000 if mode is not None else 1000):
        with autograd.record():
            loss = layer(x).square().sum()
        loss.backward()
        gradients.append(layer.weight_rho.grad().asnumpy())
    gradients = np.stack(gradients).astype('float64')
    expected = 2 * 0.8 * x.asnumpy() ** 2 * -np.expm1(-0.8) * np.ones((3, 1))    # sigmoid(rho) = 1 - exp(-sigma)
    error = gradients.std(axis=0) / len(gradients) ** 0.5
    assert (abs(gradients.mean(axis=0) - expected) < 5 * error).all()


def test_parameters_and_their_names():
    layer = initialized(3, in_units=4, prefix='fc_', initial_sigma=0.3)
    assert sorted(layer.collect_params()) == ['fc_bias', 'fc_bias_rho', 'fc_weight', 'fc_weight_rho']
    assert sorted(layer._collect_params_with_prefix()) == ['bias', 'bias_rho', 'weight', 'weight_rho']
    assert layer.weight_rho.shape == (3, 4)
    for rho in (layer.weight_rho, layer.bias_rho):
        np.testing.assert_allclose(np.log1p(np.exp(rho.data().asnumpy())), 0.3, rtol=1e-6)


def test_posterior():
    layer = initialized(3, in_units=4, initial_sigma=0.3)
    posterior = layer.posterior()
    assert list(posterior) == ['weight', 'bias']
    mu, sigma = posterior['weight']
    np.testing.assert_array_equal(mu.asnumpy(), layer.weight.data().asnumpy())
    np.testing.assert_allclose(sigma.asnumpy(), np.full((3, 4), 0.3), rtol=1e-6)
    mu[:] = 0
    assert abs(layer.weight.data().asnumpy()).max() > 0
    assert list(BayesDense(3, in_units=4, use_bias=False)._rhos) == ['weight']
    with pytest.raises(RuntimeError, match='has not been initialized'):
        BayesDense(3).posterior()


def test_posterior_on_a_context():
    layer = BayesDense(3, in_units=4)
    layer.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    assert layer.posterior()['bias'][0].context == mx.cpu(0)
    assert layer.posterior(mx.cpu(1))['bias'][1].context == mx.cpu(1)


def test_repr():
    layer = BayesDense(3, activation='relu', in_units=4, prior=GaussianPrior(0.5))
    assert repr(layer) == 'BayesDense(4 -> 3, Activation(relu), prior=GaussianPrior(sigma=0.5, mu=0.0))'
    # The default prior is the notebook's.
    assert repr(BayesDense(3)) == (
        'BayesDense(None -> 3, linear, prior=ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01))')

    class BayesPReLU(BayesBlock, nn.PReLU):
        pass

    # Gluon prints a block without children with line breaks between its parentheses.
    assert repr(BayesPReLU(prior=GaussianPrior(0.5))) == 'BayesPReLU(prior=GaussianPrior(sigma=0.5, mu=0.0))'


@pytest.mark.parametrize('initial_sigma', [1e-6, 1e-30])
def test_tiny_initial_sigma_trains(mode, initial_sigma):
    layer = initialized(2, initial_sigma=initial_sigma)
    hybridize(layer, mode)
    loss_fn = BBBLoss(layer, 10, likelihood=gluon.loss.L2Loss())
    x, y = nd.random.normal(shape=(8, 3)), nd.ones((8, 2))
    with autograd.record():
        loss_fn(layer(x), y).backward()
    np.testing.assert_allclose(layer.posterior()['weight'][1].asnumpy(), initial_sigma, rtol=1e-5)
    trainer = gluon.Trainer(layer.collect_params(), 'adam', {'learning_rate': 0.05})
    for _ in range(5):
        with autograd.record():
            loss = loss_fn(layer(x), y)
        loss.backward()
        trainer.step(8)
    assert np.isfinite(loss.asnumpy()).all()
    assert (layer.posterior()['weight'][1].asnumpy() > initial_sigma * 1.05).all()


@pytest.mark.parametrize('kwargs,error,message', [
    ({'initial_sigma': 0}, ValueError, r'initial_sigma must be positive and finite \(saw: 0.0\)'),
    ({'initial_sigma': -0.1}, ValueError, 'initial_sigma'), ({'initial_sigma': math.nan}, ValueError, 'initial_sigma'),
    ({'initial_sigma': math.inf}, ValueError, 'initial_sigma'), ({'initial_sigma': '1'}, TypeError, 'initial_sigma'),
    ({'prior': 'gaussian'}, TypeError, "prior must be an instance of Prior .saw: 'gaussian'"),
    ({'prior': GaussianPrior}, TypeError, 'prior must be an instance'),
    ({'sigma': 1.}, TypeError, 'sigma'), ({'dtype': 'float16'}, ValueError, 'dtype .* float32 or float64'),
])
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        BayesDense(3, **kwargs)


def test_wrong_input_shape_raises(mode):
    layer = initialized(3, in_units=4)
    hybridize(layer, mode)
    with pytest.raises(mx.base.MXNetError):
        layer(nd.ones((2, 5))).wait_to_read()


def test_a_users_layer_is_one_line():
    class BayesPReLU(BayesBlock, nn.PReLU):
        pass

    layer = BayesPReLU(initial_sigma=0.1)
    layer.initialize()
    assert list(layer.posterior()) == ['alpha']
    assert layer(nd.array([[-4.]])).asscalar() == -1.
    with autograd.train_mode():
        assert layer(nd.array([[-4.]])).asscalar() != -1.


def test_cast_to_an_unsupported_dtype():
    layer = initialized(3, in_units=4)
    for dtype in ('float16', 'int32'):
        with pytest.raises(ValueError, match='dtype of a Bayesian layer must be .*float32 or float64'):
            layer.cast(dtype)
    assert layer(nd.ones((2, 4))).dtype == np.float32
