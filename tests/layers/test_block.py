# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the mixin BayesBlock accepts, and which Parameters get a posterior."""
import functools

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import Block, HybridBlock, Parameter, SymbolBlock, nn

from bbb_layers import (BayesBlock, BayesDense, BayesLSTM, BBBLoss, GaussianPrior, kl_divergence, native, prune,
                        to_bayesian, to_deterministic)

MODES = {'eager': None, 'hybrid': {}, 'static': {'static_alloc': True, 'static_shape': True}}


class WithoutNoise(HybridBlock):
    """A block of the kind in which many write a CRF: it reads its Parameter in ``forward``."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.w = self.params.get('w', shape=(3,))

    def forward(self, x):
        return x * self.w.data()


class AlsoWithoutNoise(WithoutNoise):
    """One that has a hybrid_forward which nobody calls."""

    def hybrid_forward(self, F, x, w):
        return F.broadcast_mul(x, w)


class ByCall(HybridBlock):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.w = self.params.get('w', shape=(3,))

    def __call__(self, x):
        return x * self.w.data()

    def hybrid_forward(self, F, x, w):
        return F.broadcast_mul(x, w)


class PlainBlock(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.w = self.params.get('w', shape=(3,))

    def forward(self, x):
        return x * self.w.data()


@pytest.mark.parametrize('plain, message', [
    (WithoutNoise, 'must have a hybrid_forward'), (AlsoWithoutNoise, 'AlsoWithoutNoise.forward|WithoutNoise.forward'),
    (ByCall, r'ByCall.__call__, which never gets there'), (PlainBlock, 'must derive from a HybridBlock'),
    (SymbolBlock, 'SymbolBlock.forward'), (HybridBlock, 'must have a hybrid_forward')],
    ids=lambda value: getattr(value, '__name__', ''))
def test_blocks_that_cannot_be_served(plain, message):
    """No noise would reach their output, while the KL divergence counts and rho gets a gradient."""
    with pytest.raises(TypeError, match=message) as caught:
        type('BayesX', (BayesBlock, plain), {})
    assert 'hybrid_forward' in str(caught.value)
    assert f'class BayesX(BayesBlock, {plain.__name__})' in str(caught.value)


def test_order_of_the_bases():
    """The other way round Gluon's hybrid_forward would run, and nothing be drawn."""
    with pytest.raises(TypeError, match=r'BayesBlock must come before .*class Wrong\(BayesBlock, LayerNorm\)'):
        class Wrong(nn.LayerNorm, BayesBlock):
            pass


def test_forward_of_the_bayesian_class_itself():
    class Scale(HybridBlock):
        def hybrid_forward(self, F, x):
            return x

    with pytest.raises(TypeError, match='BayesScale.forward, which never gets there'):
        class BayesScale(BayesBlock, Scale):
            def forward(self, x):
                return x * self.w.data()


def test_forward_behind_a_decorator():
    """What decorates it says nothing of where the block computes its output."""
    def logged(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)
        return wrapper

    class Scale(HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.w = self.params.get('w', shape=(3,), init='ones')

        @logged
        def forward(self, x):
            return super().forward(x)

        def hybrid_forward(self, F, x, w):
            return F.broadcast_mul(x, w)

    layer = type('BayesScale', (BayesBlock, Scale), {})()
    layer.initialize()
    assert (layer(mx.nd.ones((2, 3))) == 1).asnumpy().all()
    with pytest.raises(TypeError, match='Logged.forward, which never gets there'):
        type('BayesX', (BayesBlock, type('Logged', (AlsoWithoutNoise,), {'forward': logged(WithoutNoise.forward)})), {})


def test_blocks_whose_forward_goes_on():
    """A forward or __call__ that prepares the inputs, or now and then skips the block, stays allowed."""

    class Scale(HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.w = self.params.get('w', shape=(3,), init='ones')

        def __call__(self, x, factor=2.):
            return super().__call__(x, mx.nd.array([factor]))

        def forward(self, x, factor):
            inner = [lambda: super(Scale, self).forward(x, factor)]
            return inner[0]()

        def hybrid_forward(self, F, x, factor, w):
            return F.broadcast_mul(F.broadcast_mul(x, w), factor)

    class BayesScale(BayesBlock, Scale):
        pass

    layer = BayesScale(initial_sigma=0.5)
    layer.initialize()
    x = mx.nd.ones((2, 3))
    assert np.array_equal(layer(x).asnumpy(), np.full((2, 3), 2.))
    with autograd.train_mode():
        assert (layer(x) != 2).sum().asscalar() == 6
    assert type(to_deterministic(layer)) is Scale


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('plain, fixed', [
    (lambda **kw: nn.LayerNorm(scale=False, in_channels=4, **kw), 'gamma'),
    (lambda **kw: nn.LayerNorm(center=False, in_channels=4, **kw), 'beta'),
    (lambda **kw: nn.InstanceNorm(in_channels=4, **kw), 'gamma')], ids=['scale', 'center', 'instance'])
def test_constants_have_no_posterior(plain, fixed, mode):
    """What does not learn has none: neither noise nor a KL term."""
    kind = type(plain())
    cls = type('Bayes' + kind.__name__, (BayesBlock, kind), {})
    layer = cls(prior=GaussianPrior(), initial_sigma=0.1, in_channels=4,
                **({'center': False} if fixed == 'beta' else {'scale': False}))
    layer.initialize()
    if MODES[mode] is not None:
        layer.hybridize(**MODES[mode])
    learns = 'beta' if fixed == 'gamma' else 'gamma'
    assert set(layer.posterior()) == {learns}
    assert fixed + '_rho' not in layer._reg_params
    loss_fn = BBBLoss(layer, num_train=1, likelihood=mx.gluon.loss.L2Loss())
    x = mx.nd.random.normal(shape=(5, 4, 6) if kind is nn.InstanceNorm else (5, 4))
    for _ in range(3):
        with autograd.record():
            output = layer(x)
            loss_fn(output, x)
        one = {'gamma': 1., 'beta': 0.}[learns]
        sigma, mu = 0.1, one
        expected = 4 * (0.5 * (sigma ** 2 + mu ** 2 - 1) - np.log(sigma))
        assert loss_fn.kl.asscalar() == pytest.approx(expected, rel=1e-4)
    plain_output = to_deterministic(layer)(x).asnumpy()
    assert np.allclose(layer(x).asnumpy(), plain_output, atol=1e-6)
    # The noise is that of the Parameter which learns: of one number for each channel, for all examples alike.
    difference = output.asnumpy() - plain_output
    if learns == 'beta':
        assert np.allclose(difference, difference[:1].mean(axis=tuple(range(2, difference.ndim)), keepdims=True),
                           atol=1e-4)
    assert abs(difference).max() > 1e-3


def test_mean_that_is_frozen_later_keeps_its_posterior():
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=4), nn.Dense(2, in_units=3))
    net.initialize()
    net[0].collect_params().setattr('grad_req', 'null')
    bayesian = to_bayesian(net)
    assert set(bayesian[0].posterior()) == {'weight', 'bias'}
    layer = BayesDense(3, in_units=4)
    layer.weight.grad_req = 'null'
    layer.initialize()
    assert set(layer.posterior()) == {'weight', 'bias'}
    assert set(BayesDense(3, in_units=4, params=layer.params).posterior()) == {'weight', 'bias'}


class Doubled(Parameter):
    """A Parameter that hands out twice its values, as weight dropout hands out those that it keeps.

    It shares the arrays of the Parameter that it is made from, as gluonnlp's WeightDropParameter does.
    """

    def __init__(self, param):
        super().__init__(param.name, shape=param.shape, dtype=param.dtype, init=param.init,
                         allow_deferred_init=param._allow_deferred_init)
        for name in ('_data', '_grad', '_ctx_list', '_ctx_map', '_deferred_init', '_trainer'):
            setattr(self, name, getattr(param, name))

    def data(self, ctx=None):
        return super().data(ctx) * 2


def double(layer, name):
    layer._reg_params[name] = layer.params._params[layer._reg_params[name].name] = Doubled(layer._reg_params[name])


@pytest.mark.parametrize('natively', [True, False], ids=['native', 'operators'])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('estimator', ['sample', 'local', 'flipout'])
@pytest.mark.parametrize('when', ['before', 'after'])
def test_weight_dropout(when, estimator, mode, natively, monkeypatch):
    """The KL term is that of the stored means, and the gradient of what is handed out reaches them once."""
    if not natively:
        monkeypatch.setattr(native._State, 'available', False)
    if when == 'before':    # the plain layer has it, and becomes Bayesian
        plain = nn.Dense(3, in_units=4, use_bias=False)
        plain.initialize(mx.init.Normal(1.))
        double(plain, 'weight')
        layer = to_bayesian(plain, prior=GaussianPrior(), sigma=1e-4, estimator=estimator)
    else:
        layer = BayesDense(3, in_units=4, use_bias=False, prior=GaussianPrior(), initial_sigma=1e-4,
                           estimator=estimator)
        double(layer, 'weight')
        layer.initialize(mx.init.Normal(1.))
    if MODES[mode] is not None:
        layer.hybridize(**MODES[mode])
    loss_fn = BBBLoss(layer, num_train=1e9, likelihood=mx.gluon.loss.L2Loss())
    x = mx.nd.random.normal(shape=(5, 4))
    mu = Parameter.data(layer._reg_params['weight']).asnumpy()
    expected = (0.5 * (1e-8 + mu ** 2 - 1) - np.log(1e-4)).sum()
    assert kl_divergence(layer).asscalar() == pytest.approx(expected, rel=1e-5)
    for _ in range(3):
        with autograd.record():
            output = layer(x)
            loss = loss_fn(output, mx.nd.zeros((5, 3)))
        loss.backward()
        assert loss_fn.kl.asscalar() == pytest.approx(expected, rel=1e-5)
        assert np.allclose(output.asnumpy(), x.asnumpy() @ (2 * mu).T, atol=5e-3)
        gradient = 2 * (output.asnumpy() / 3).T @ x.asnumpy()
        assert np.allclose(layer._reg_params['weight'].grad().asnumpy(), gradient, atol=1e-2)
    assert np.allclose(layer(x).asnumpy(), x.asnumpy() @ (2 * mu).T, atol=1e-5)
    for scope in (autograd.train_mode(), autograd.predict_mode()):
        with scope:
            assert kl_divergence(layer).asscalar() == pytest.approx(expected, rel=1e-5)


def test_weight_dropout_keeps_pruned_weights_out():
    """What is handed out of a pruned weight's mean, which training can move, reaches no draw and no prediction."""
    layer = BayesDense(3, in_units=4, use_bias=False)
    layer.initialize(mx.init.Normal(1.))
    double(layer, 'weight')
    prune(layer, 1.)
    layer.weight.set_data(mx.nd.ones((3, 4)))
    x = mx.nd.ones((2, 4))
    for scope in (autograd.train_mode(), autograd.predict_mode()):
        with scope:
            assert (layer(x).asnumpy() == 0).all()


def test_parameters_follow_the_one_that_is_put_in_their_place():
    """Of a learnable prior too; and a layer that shares the new Parameter shares its rho."""
    layer = BayesDense(3, in_units=4, prior=GaussianPrior(learnable=True))
    double(layer, 'weight')
    layer.initialize()
    rho = layer.weight_rho
    assert np.isfinite(kl_divergence(layer).asscalar())
    assert rho.mu is layer._reg_params['weight'] and type(rho.mu) is Doubled
    assert all(param.mu is rho.mu for param in rho.prior_parameters.values())
    assert BayesDense(3, in_units=4, params=layer.params).weight_rho is rho


def test_names_in_files_after_weight_dropout_before_anything_ran():
    layer = BayesLSTM(3, input_size=4)
    layer.initialize()
    names = list(layer._collect_params_with_prefix())
    double(layer, 'l0_i2h_weight')
    assert list(layer._collect_params_with_prefix()) == names and len(names) == 8
