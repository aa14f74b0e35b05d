# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from scipy import special, stats

from bbb_layers import (BayesDense, BBBLoss, BernoulliNLLLoss, CategoricalNLLLoss, GaussianNLLLoss,
                        HeteroscedasticGaussianNLLLoss, PoissonNLLLoss, StudentTNLLLoss)


@pytest.mark.parametrize('shape,axis,batch_axis', [
    ((5, 4), -1, 0), ((5, 3, 4), -1, 0), ((3, 5, 4), -1, 1), ((5, 4, 3, 2), 1, 0)])
@pytest.mark.parametrize('keepdims', [False, True])
def test_categorical(shape, axis, batch_axis, keepdims, mode):
    logits = np.random.normal(size=shape)
    label = np.random.randint(0, 4, size=np.delete(shape, axis))
    exact = -np.take_along_axis(special.log_softmax(logits, axis=axis), np.expand_dims(label, axis), axis)
    exact = exact.sum(axis=tuple(i for i in range(len(shape)) if i != batch_axis))
    loss = hybridize(CategoricalNLLLoss(axis=axis, batch_axis=batch_axis), mode)
    label = nd.array(np.expand_dims(label, axis) if keepdims else label)
    for _ in range(2):
        np.testing.assert_allclose(loss(nd.array(logits), label).asnumpy(), exact, rtol=1e-5)


def test_categorical_equals_gluons_for_one_position():
    logits, label = nd.random.normal(shape=(6, 4)), nd.array([0, 1, 2, 3, 0, 1])
    weights = nd.random.uniform(shape=(6, 1))
    ours, gluons = CategoricalNLLLoss(weight=0.3), gluon.loss.SoftmaxCrossEntropyLoss(weight=0.3)
    np.testing.assert_allclose(ours(logits, label).asnumpy(), gluons(logits, label).asnumpy(), rtol=1e-5)
    np.testing.assert_allclose(ours(logits, label, weights).asnumpy(), gluons(logits, label, weights).asnumpy(),
                               rtol=1e-5)


def test_categorical_is_finite_for_extreme_logits():
    nll = CategoricalNLLLoss()(nd.array([[1e4, -1e4], [0., 80.]]), nd.array([1, 0])).asnumpy()
    np.testing.assert_allclose(nll, [2e4, 80.], rtol=1e-6)


REGRESSION = [
    (GaussianNLLLoss, {}, lambda y, m: stats.norm.logpdf(y, m)),
    (GaussianNLLLoss, {'sigma': 0.3}, lambda y, m: stats.norm.logpdf(y, m, 0.3)),
    (GaussianNLLLoss, {'sigma': 0.3, 'learnable': True}, lambda y, m: stats.norm.logpdf(y, m, 0.3)),
    (StudentTNLLLoss, {}, lambda y, m: stats.t.logpdf(y, 3, m)),
    (StudentTNLLLoss, {'df': 7.5, 'scale': 2.}, lambda y, m: stats.t.logpdf(y, 7.5, m, 2.)),
    (StudentTNLLLoss, {'df': 1, 'scale': 0.1, 'learnable': True}, lambda y, m: stats.cauchy.logpdf(y, m, 0.1)),
    (BernoulliNLLLoss, {}, lambda y, z: stats.bernoulli.logpmf(y > 0, special.expit(z))),
    (PoissonNLLLoss, {}, lambda y, z: stats.poisson.logpmf(np.round(abs(3 * y)), np.exp(z))),
]
IDS = [f'{loss.__name__}-{kwargs}' for loss, kwargs, _ in REGRESSION]
TARGETS = {BernoulliNLLLoss: lambda y: y > 0, PoissonNLLLoss: lambda y: np.round(abs(3 * y))}


@pytest.mark.parametrize('build,kwargs,log_prob', REGRESSION, ids=IDS)
@pytest.mark.parametrize('shape,batch_axis', [((6,), 0), ((6, 3), 0), ((2, 6, 3), 1)])
def test_against_scipy(build, kwargs, log_prob, shape, batch_axis, mode):
    y, pred = np.random.normal(size=shape), np.random.normal(size=shape)
    loss = hybridize(build(batch_axis=batch_axis, **kwargs), mode)
    loss.initialize()
    exact = -log_prob(y, pred)
    label = nd.array(TARGETS.get(build, lambda y: y)(y))
    axes = tuple(axis for axis in range(len(shape)) if axis != batch_axis)
    for _ in range(2):
        np.testing.assert_allclose(loss(nd.array(pred), label).asnumpy(), exact.sum(axis=axes), rtol=2e-5)
        flat = loss(nd.array(pred), label.reshape((-1,)))
        np.testing.assert_allclose(flat.asnumpy(), exact.sum(axis=axes), rtol=2e-5)
    weights = np.random.uniform(size=shape)
    loss = build(batch_axis=batch_axis, **kwargs)
    loss.initialize()
    np.testing.assert_allclose(loss(nd.array(pred), label, nd.array(weights)).asnumpy(),
                               (exact * weights).sum(axis=axes), rtol=2e-5)


def test_heteroscedastic(mode):
    y, mean, log_variance = (np.random.normal(size=(6, 2)) for _ in range(3))
    loss = hybridize(HeteroscedasticGaussianNLLLoss(), mode)
    exact = -stats.norm.logpdf(y, mean, np.exp(0.5 * log_variance)).sum(axis=1)
    for _ in range(2):
        output = loss([nd.array(mean), nd.array(log_variance)], nd.array(y))
        np.testing.assert_allclose(output.asnumpy(), exact, rtol=1e-5)


def test_gluons_own_losses_are_means():
    """Why there are others: with several outputs, Gluon's are not log likelihoods."""
    pred, label = nd.random.normal(shape=(4, 5)), nd.ones((4, 5))
    np.testing.assert_allclose(BernoulliNLLLoss()(pred, label).asnumpy(),
                               5 * gluon.loss.SigmoidBCELoss()(pred, label).asnumpy(), rtol=1e-5)
    assert gluon.loss.PoissonNLLLoss()(pred, label).shape == (1,)
    difference = GaussianNLLLoss()(pred, label) - 5 * gluon.loss.L2Loss()(pred, label)
    np.testing.assert_allclose(difference.asnumpy(), 2.5 * np.log(2 * np.pi), rtol=1e-5)


@pytest.mark.parametrize('build', [GaussianNLLLoss, StudentTNLLLoss])
def test_learnable_scale_belongs_to_the_loss(build, mode):
    net = hybridize(BayesDense(1, in_units=2, initial_sigma=0.01), mode)
    net.initialize()
    loss_fn = BBBLoss(net, 500, likelihood=hybridize(build(learnable=True), mode))
    assert [param is loss_fn.likelihood.rho for param in loss_fn.collect_params().values()] == [True]
    assert not set(net.collect_params()) & set(loss_fn.collect_params())
    loss_fn.initialize()
    params = net.collect_params()
    params.update(loss_fn.collect_params())
    trainer = gluon.Trainer(params, 'adam', {'learning_rate': 0.05})
    x = nd.random.normal(shape=(500, 2))
    y = nd.dot(x, nd.array([[1.], [-1.]])) + 0.2 * nd.random.normal(shape=(500, 1))
    for _ in range(300):
        with autograd.record():
            loss = loss_fn(net(x), y)
        loss.backward()
        trainer.step(500)
    sigma = np.log1p(np.exp(loss_fn.likelihood.rho.data().asscalar()))
    # The t distribution with 3 degrees of freedom fits a Gaussian with a scale of about 0.82 sigma.
    np.testing.assert_allclose(sigma, 0.2 * (1 if build is GaussianNLLLoss else 0.82), rtol=0.15)


@pytest.mark.parametrize('build', [lambda: GaussianNLLLoss(sigma=0), lambda: GaussianNLLLoss(sigma=-1., learnable=True),
                                   lambda: StudentTNLLLoss(df=0), lambda: StudentTNLLLoss(scale=float('nan'))])
def test_bad_values(build):
    with pytest.raises(ValueError, match='must be positive and finite'):
        build()


@pytest.mark.parametrize('log_variance', [-159., -90., 0., 90., 159.])
@pytest.mark.parametrize('error', [0., 1e-15, 1., 1e15])
def test_heteroscedastic_is_finite(log_variance, error):
    pred = [nd.zeros((1, 1)), nd.full((1, 1), log_variance)]
    for array in pred:
        array.attach_grad()
    with autograd.record():
        loss = HeteroscedasticGaussianNLLLoss()(pred, nd.full((1, 1), error))
    loss.backward()
    exact = -stats.norm.logpdf(error, 0, np.exp(np.float64(log_variance) / 2))
    if exact < 1e30:
        np.testing.assert_allclose(loss.asnumpy(), exact, rtol=1e-4)
    assert all(np.isfinite(array.grad.asnumpy()).all() for array in pred) and np.isfinite(loss.asnumpy()).all()


def test_student_t_is_finite_far_out():
    pred = nd.zeros((1, 1))
    pred.attach_grad()
    for error in (1e15, 1e20, 1e30):
        with autograd.record():
            loss = StudentTNLLLoss(df=3.)(pred, nd.full((1, 1), error))
        loss.backward()
        assert np.isfinite(loss.asnumpy()).all() and np.isfinite(pred.grad.asnumpy()).all()
    np.testing.assert_allclose(StudentTNLLLoss(df=1e16)(pred, nd.ones((1, 1))).asnumpy(), -stats.norm.logpdf(1.),
                               rtol=1e-6)
