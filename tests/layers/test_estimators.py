# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every linear layer with every estimator: moments, correlations and gradients against the analytic ones."""
import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from nets import SumOfSquares

from bbb_layers import (BayesConv1D, BayesConv1DTranspose, BayesConv2D, BayesConv2DTranspose, BayesConv3D,
                        BayesConv3DTranspose, BayesDense, BayesEmbedding, BayesRNNCell, BBBLoss, GaussianPrior,
                        kl_divergence)
from bbb_layers.layers import estimators

# name: (Bayesian layer, Gluon's, arguments, shape of one example)
LAYERS = {
    'dense': (BayesDense, nn.Dense, dict(units=3), (2, 3)),
    'dense by position': (BayesDense, nn.Dense, dict(units=2, flatten=False), (2, 2, 3)),
    'conv1d': (BayesConv1D, nn.Conv1D, dict(channels=2, kernel_size=2, padding=1), (2, 3)),
    'conv2d': (BayesConv2D, nn.Conv2D, dict(channels=2, kernel_size=(2, 1), strides=2, padding=1), (2, 3, 2)),
    'conv2d in groups': (BayesConv2D, nn.Conv2D, dict(channels=4, kernel_size=2, groups=2, use_bias=False), (4, 3, 2)),
    'conv3d': (BayesConv3D, nn.Conv3D, dict(channels=2, kernel_size=(1, 2, 1)), (1, 1, 2, 2)),
    'conv1d transpose': (BayesConv1DTranspose, nn.Conv1DTranspose, dict(channels=2, kernel_size=2, strides=2,
                                                                        padding=1, output_padding=1), (2, 2)),
    'conv2d transpose': (BayesConv2DTranspose, nn.Conv2DTranspose, dict(channels=4, kernel_size=(2, 1), groups=2,
                                                                        in_channels=2), (2, 2, 1)),
    'conv3d transpose': (BayesConv3DTranspose, nn.Conv3DTranspose, dict(channels=1, kernel_size=(1, 2, 1),
                                                                        strides=(1, 2, 1)), (2, 1, 1, 2)),
}
ESTIMATORS = ['sample', 'local', 'flipout']


def make(name, estimator, mode, **kwargs):
    bayes, _, arguments, shape = LAYERS[name]
    layer = bayes(estimator=estimator, prior=GaussianPrior(), initial_sigma=0.4, bias_initializer=mx.init.Normal(0.5),
                  **dict(arguments, **kwargs))
    layer.initialize(mx.init.Normal(0.5))
    hybridize(layer, mode)
    layer(nd.ones((2,) + shape))
    for rho in layer._rhos.values():
        rho.set_data(nd.random.normal(-0.5, 0.7, shape=rho.shape))
    return layer, nd.random.normal(shape=(2,) + shape)


def jacobian(name, layer, x):
    """d output / d weight for every weight, by Gluon's layer with one weight 1 and the others 0: (weights, output)."""
    plain = LAYERS[name][1](**LAYERS[name][2])
    plain.initialize()
    plain(x)
    rows, sigmas = [], []
    for attribute, (mu, sigma) in layer.posterior().items():
        for index in range(mu.size):
            for param in plain.collect_params().values():
                param.set_data(nd.zeros(param.shape))
            unit = np.zeros(mu.size)
            unit[index] = 1
            getattr(plain, attribute).set_data(nd.array(unit).reshape(mu.shape))
            rows.append(plain(x).asnumpy().astype('float64'))
        sigmas.append(sigma.asnumpy().astype('float64').ravel())
    return np.stack(rows), np.concatenate(sigmas)


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_moments(name, estimator, mode):
    layer, x = make(name, estimator, mode)
    mean = layer(x).asnumpy().astype('float64')
    rows, sigma = jacobian(name, layer, x)
    weighted = rows * sigma.reshape((-1,) + (1,) * (rows.ndim - 1))
    variance = (weighted ** 2).sum(axis=0)
    n = 400 if mode is None else 1200       # eager takes ten times as long, and has the same formulae
    with autograd.train_mode():
        outputs = np.stack([layer(x).asnumpy() for _ in range(n)]).astype('float64')
    deviation = outputs - mean
    # 5 standard errors. A product of Gaussians has at most twice the variance of independent ones; of flipout's, which
    # have more kurtosis, at most five times.
    assert (abs(deviation.mean(axis=0)) < 5 * (variance / n) ** 0.5 + 1e-6).all()
    spread = 5 * ((5 if estimator == 'flipout' else 2) / n) ** 0.5
    assert (abs((deviation ** 2).mean(axis=0) - variance) < spread * variance + 1e-9).all()
    # Two examples of one batch: one draw, or uncorrelated ones.
    covariance = (weighted[:, 0] * weighted[:, 1]).sum(axis=0) if estimator == 'sample' else 0 * variance[0]
    scale = (variance[0] * variance[1]) ** 0.5
    assert (abs((deviation[:, 0] * deviation[:, 1]).mean(axis=0) - covariance) < spread * scale + 1e-9).all()
    if estimator == 'sample' and mode is not None:
        assert (abs(covariance) > spread * scale).any()     # else the test could not tell


@pytest.mark.parametrize('estimator,correlated', [('sample', True), ('flipout', True), ('local', False)])
@pytest.mark.parametrize('name', ['dense by position', 'conv2d in groups'])
def test_positions_of_one_example(name, estimator, correlated, mode):
    """One weight draw serves all positions, but local reparameterization draws each output for itself."""
    layer, x = make(name, estimator, mode, use_bias=False)
    x = nd.ones_like(x)      # all positions alike
    mean = layer(x).asnumpy()
    with autograd.train_mode():
        deviation = np.stack([layer(x).asnumpy() for _ in range(500)]) - mean
    if name.startswith('dense'):
        pair = np.stack([deviation[:, 0, 0, 0, 0], deviation[:, 0, 1, 1, 0]])       # (draw, example, x1, x2, unit)
    else:
        pair = np.stack([deviation[:, 0, 0, 0, 0], deviation[:, 0, 0, 1, 0]])
    correlation = np.corrcoef(pair)[0, 1]
    assert correlation > 0.999 if correlated else abs(correlation) < 5 / 500 ** 0.5


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_training(name, estimator, dtype, mode):
    layer, x = make(name, estimator, mode)
    layer.cast(dtype)
    x = x.astype(dtype)
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares())
    for _ in range(3):
        with autograd.record():
            output = layer(x)
            loss = loss_fn(output, x)
        loss.backward()
        assert output.dtype == loss.dtype == np.dtype(dtype)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(layer).asscalar(), rtol=1e-5)
        for rho in layer._rhos.values():
            assert abs(rho.grad().asnumpy()).min() > 0 and abs(rho.mu.grad().asnumpy()).min() > 0
    np.testing.assert_array_equal(layer(x).asnumpy(), layer(x).asnumpy())


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_expected_gradient(name, estimator, mode):
    """E[sum(y^2)] = sum(mean^2) + sum(variance), so d/d rho = 2 sigma sigmoid(rho) sum(row^2)."""
    layer, x = make(name, estimator, mode)
    rows, sigma = jacobian(name, layer, x)
    sigmoid = -np.expm1(-sigma)
    expected = 2 * sigma * sigmoid * (rows ** 2).reshape(len(rows), -1).sum(axis=1)
    gradients = []
    for _ in range(250 if mode is None else 500):
        with autograd.record():
            loss = layer(x).square().sum()
        loss.backward()
        gradients.append(np.concatenate([rho.grad().asnumpy().ravel() for rho in layer._rhos.values()]))
    gradients = np.stack(gradients).astype('float64')
    error = gradients.std(axis=0) / len(gradients) ** 0.5
    assert (abs(gradients.mean(axis=0) - expected) < 5 * error + 1e-5).all()


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('name', LAYERS)
def test_no_nan_from_zeros(name, estimator, mode):
    layer, x = make(name, estimator, mode, use_bias=False)
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares())
    x = nd.zeros_like(x)
    x.attach_grad()
    with autograd.record():
        output = layer(x)
        loss = loss_fn(output, x)
    loss.backward()
    for array in (output, loss, x.grad, layer.weight.grad(), layer.weight_rho.grad()):
        assert np.isfinite(array.asnumpy()).all()
    np.testing.assert_allclose(output.asnumpy(), 0, atol=1e-12)


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_activation_comes_after_the_noise(estimator, mode):
    layer = BayesConv2D(3, 2, activation='relu', estimator=estimator, initial_sigma=2.)
    layer.initialize()
    hybridize(layer, mode)
    with autograd.train_mode():
        output = layer(nd.random.normal(shape=(5, 2, 4, 4))).asnumpy()
    assert output.min() == 0 and (output > 0).any()
    assert repr(layer).startswith('BayesConv2D(2 -> 3, kernel_size=(2, 2), stride=(1, 1), Activation(relu), prior=')


@pytest.mark.parametrize('estimator', ['local', 'flipout'])
def test_mixture_prior(estimator, mode):
    layer = BayesDense(3, estimator=estimator)
    layer.initialize(mx.init.Normal(0.5))
    hybridize(layer, mode)
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares())
    x = nd.random.normal(shape=(4, 5))
    seen = []
    for _ in range(300):
        with autograd.record():
            loss_fn(layer(x), x)
        seen.append(loss_fn.kl.asscalar())
    many = [kl_divergence(layer).asscalar() for _ in range(300)]
    error = (np.var(seen) + np.var(many)) ** 0.5 / 300 ** 0.5
    assert np.std(seen) > 0 and abs(np.mean(seen) - np.mean(many)) < 5 * error


@pytest.mark.parametrize('estimator', ['local', 'flipout'])
def test_a_layer_used_twice_needs_one_draw_of_its_weights(estimator, mode):
    class Twice(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.layer = BayesDense(3, in_units=3, estimator=estimator)

        def hybrid_forward(self, F, x):
            return self.layer(self.layer(x))

    net = Twice()
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, 10)
    with pytest.raises(RuntimeError, match="estimator='sample'"):
        with autograd.record():
            loss_fn(net(nd.ones((2, 3))), nd.zeros(2))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('hybridized', [False, True])
def test_signs_of_flipout_are_fair(hybridized, dtype):
    """Catches signs of which one is likelier; the mean of a million fair ones has a standard error of 0.001."""
    class Signs(gluon.HybridBlock):
        def hybrid_forward(self, F, like):
            return estimators._signs(F, like)

    block = Signs()
    if hybridized:
        block.hybridize()
    signs = block(nd.zeros((1000, 1000), dtype=dtype))
    assert signs.shape == (1000, 1000) and signs.dtype == np.dtype(dtype)
    signs = signs.asnumpy().astype('float64')
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 0.005
    # The same for the products of neighbours along each axis, which are signs too if the draws are independent.
    assert abs((signs[1:] * signs[:-1]).mean()) < 0.005 and abs((signs[:, 1:] * signs[:, :-1]).mean()) < 0.005


@pytest.mark.parametrize('build,message', [
    (lambda: BayesDense(3, estimator='flip'), "estimator of BayesDense must be one of 'sample', 'local', 'flipout' "),
    (lambda: BayesConv2D(3, 3, estimator=None), 'estimator of BayesConv2D'),
    (lambda: BayesEmbedding(5, 3, estimator='local'), "estimator of BayesEmbedding must be one of 'sample' "),
    (lambda: BayesEmbedding(5, 3, sparse_grad=True), 'dense gradients'),
])
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_embedding(mode):
    layer = BayesEmbedding(7, 3, prior=GaussianPrior(), initial_sigma=0.3)
    layer.initialize(mx.init.Normal(1.))
    hybridize(layer, mode)
    loss_fn = BBBLoss(layer, 10, likelihood=SumOfSquares())
    x = nd.array([[0, 3], [3, 6]])
    plain = nn.Embedding(7, 3)
    plain.initialize()
    plain.weight.set_data(layer.weight.data())
    for _ in range(2):
        np.testing.assert_array_equal(layer(x).asnumpy(), plain(x).asnumpy())
        with autograd.record():
            output = layer(x)
            loss = loss_fn(output, x)
        loss.backward()
        np.testing.assert_array_equal(output.asnumpy()[0, 1], output.asnumpy()[1, 0])   # one draw for the batch
        assert abs(output - plain(x)).max().asscalar() > 1e-3
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(layer).asscalar(), rtol=1e-5)
        assert abs(layer.weight_rho.grad().asnumpy()).min() > 0


FROZEN = {'mu': ('weight',), 'rho': ('weight_rho',), 'weight': ('weight', 'weight_rho'), 'all mu': ('weight', 'bias')}


@pytest.mark.parametrize('deferred', [False, True], ids=['known', 'deferred'])
@pytest.mark.parametrize('estimator', estimators.ESTIMATORS)
@pytest.mark.parametrize('frozen', FROZEN)
def test_bias_of_a_frozen_weight(frozen, estimator, deferred, mode):
    """MXNet computes the gradient of a bias only beside that of its weight; the layer has it none the less."""
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=0 if deferred else 4, estimator=estimator, prior=GaussianPrior(),
                       initial_sigma=1e-6))
    net.initialize(mx.init.Normal(0.5))
    loss_fn = BBBLoss(net, num_train=1e9)
    hybridize(net, mode)
    for name in FROZEN[frozen]:
        getattr(net[0], name).grad_req = 'null'
    data, labels = nd.random.normal(shape=(6, 4)), [0, 1, 2, 0, 0, 0]
    for train in (True, True, False):
        with autograd.record(train_mode=train):
            loss = loss_fn(net(data), nd.array(labels))
        loss.backward()
        expected = net(data).softmax().asnumpy()
        expected[range(6), labels] -= 1
        if 'bias' in FROZEN[frozen]:
            assert abs(net[0].bias_rho.grad()).max().asscalar() < 1e-4     # not what happened to stand there
        else:
            np.testing.assert_allclose(net[0].bias.grad().asnumpy(), expected.sum(axis=0), rtol=1e-3, atol=1e-4)


def test_cell_with_a_frozen_weight():
    cell = BayesRNNCell(3, input_size=4, prior=GaussianPrior(), initial_sigma=1e-6)
    cell.initialize(mx.init.Normal(0.5))
    gradients = []
    for grad_req in ('write', 'null'):
        cell.i2h_weight.grad_req = cell.i2h_weight_rho.grad_req = grad_req
        with autograd.record():
            output = cell.unroll(2, nd.ones((1, 2, 4)), merge_outputs=True)[0]
        output.backward()
        gradients.append(cell.i2h_bias.grad().asnumpy())
    np.testing.assert_allclose(*gradients, rtol=1e-3)
