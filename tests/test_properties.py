# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whatever is done in whatever order: a right result, or an exception that names the argument and changes nothing.

BBB_LAYERS_HUNT=100 tries a hundred times as many examples as by default, new ones each time.
"""
import copy
import hashlib
import io
import json
import math
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (RuleBasedStateMachine, initialize, invariant, precondition, rule,
                                 run_state_machine_as_test)
from mxnet import autograd, gluon, nd
from mxnet.base import MXNetError
from mxnet.gluon import nn
from mxnet.gluon.parameter import DeferredInitializationError

import bbb_layers as bbb
from bbb_layers import checkpoint, schedules
from bbb_layers._mxnet import tree
from bbb_layers.checkpoint.file import MAGIC, read as read_checkpoint
from bbb_layers.posterior import parameters

HUNT = int(os.environ.get('BBB_LAYERS_HUNT', '0'))


def tries(max_examples, **more):
    return settings(max_examples=max_examples * max(HUNT, 1), derandomize=not HUNT, database=None, deadline=None,
                    report_multiple_bugs=False, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck), **more)


# ---- arguments of constructors and functions

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(1e-3, 10), st.integers(-3, 3), st.integers(),
    st.sampled_from([0, 1, -1, 1e-320, 1e-45, 1e39, 1e308, math.nan, math.inf, -math.inf, True, np.float32(0.5),
                     np.float64('nan'), np.int64(2), 10 ** 400]))
JUNK = st.sampled_from([None, 'x', '', b'1', [], [1.], {}, (), 1j, object(), np.array(1.), np.array([1., 2.]), len,
                        mx.nd.array([1.]), mx.nd.array([1., 2.]), bbb.GaussianPrior(), bbb.GaussianPrior])
VALUES = NUMBERS | JUNK
PRIORS = st.sampled_from([bbb.GaussianPrior(), bbb.GaussianPrior(0.3, 0.1), bbb.GaussianPrior(learnable=True),
                          bbb.ScaleMixturePrior(), bbb.MixturePrior([0.2, 0.3, 0.5], [1., 0.1, 0.01]),
                          bbb.LaplacePrior(0.5), bbb.StudentTPrior()])
CHOICES = st.sampled_from(['sample', 'local', 'flipout', 'auto', 'float32', 'float64', 'float16', 'int32', 'softmax',
                           'sigmoid'])


def dense_net(prior=None, in_units=3, **options):
    net = nn.HybridSequential()
    net.add(bbb.BayesDense(4, activation='relu', in_units=in_units, prior=prior, **options),
            bbb.BayesDense(2, in_units=4, prior=prior, **options))
    net.initialize(mx.init.Xavier())
    return net


X = nd.array(np.random.RandomState(0).randn(5, 3))
LABEL = nd.array([0, 1, 1, 0, 1])
NET = dense_net()
PLAIN = bbb.to_deterministic(NET)
NOWHERE = os.path.join(os.devnull, 'x')

# What is called with valid arguments but for one; the names of those that are tried.
CALLS = {
    'BayesDense': (lambda **kw: used(bbb.BayesDense(**dict(dict(units=2, in_units=3), **kw))),
                   ['prior', 'bias_prior', 'initial_sigma', 'estimator', 'kl', 'dtype']),
    'BayesConv1D': (lambda **kw: bbb.BayesConv1D(2, 1, **kw),
                    ['prior', 'bias_prior', 'initial_sigma', 'estimator', 'kl']),
    'BayesLSTM': (lambda **kw: bbb.BayesLSTM(2, **kw), ['prior', 'bias_prior', 'initial_sigma', 'estimator', 'kl']),
    'BayesEmbedding': (lambda **kw: bbb.BayesEmbedding(3, 2, **kw), ['prior', 'initial_sigma', 'estimator', 'kl']),
    'GaussianPrior': (lambda **kw: used(with_prior=bbb.GaussianPrior(**kw)), ['sigma', 'mu']),
    'ScaleMixturePrior': (lambda **kw: used(with_prior=bbb.ScaleMixturePrior(**kw)), ['pi', 'sigma1', 'sigma2']),
    'MixturePrior': (lambda **kw: used(
        with_prior=bbb.MixturePrior(**dict(dict(weights=[.5, .5], sigmas=[1, 2]), **kw))), ['weights', 'sigmas']),
    'LaplacePrior': (lambda **kw: used(with_prior=bbb.LaplacePrior(**kw)), ['scale']),
    'StudentTPrior': (lambda **kw: used(with_prior=bbb.StudentTPrior(**kw)), ['df', 'scale']),
    'BBBLoss': (lambda **kw: lost(bbb.BBBLoss(**dict(dict(net=NET, num_train=10), **kw))),
                ['net', 'num_train', 'likelihood', 'kl_weight', 'weight']),
    'GaussianNLLLoss': (lambda **kw: bbb.GaussianNLLLoss(**kw), ['sigma']),
    'StudentTNLLLoss': (lambda **kw: bbb.StudentTNLLLoss(**kw), ['df', 'scale']),
    'linear': (lambda **kw: schedules.linear(**dict(dict(num_steps=3), **kw))(1), ['num_steps', 'start']),
    'cyclical': (lambda **kw: schedules.cyclical(**dict(dict(cycle=3), **kw))(1), ['cycle', 'ramp']),
    'blundell': (lambda **kw: schedules.blundell(**kw)(1), ['num_batches']),
    'step': (lambda step: schedules.linear(3)(step), ['step']),
    'KLWeightHandler': (lambda **kw: schedules.KLWeightHandler(**dict(dict(schedule=len), **kw)), ['schedule', 'step']),
    'predict': (lambda **kw: bbb.predict(**dict(dict(net=NET, data=X, num_samples=1), **kw)),
                ['net', 'data', 'num_samples', 'batch_size', 'chunk']),
    'MonteCarlo': (lambda **kw: bbb.MonteCarlo(**dict(dict(net=NET, num_samples=1), **kw)),
                   ['net', 'num_samples', 'link']),
    'kl_divergence': (lambda **kw: bbb.kl_divergence(**dict(dict(net=NET), **kw)), ['net', 'num_samples']),
    'prune': (lambda **kw: bbb.prune(**dict(dict(net=copy.deepcopy(NET)), **(kw or dict(fraction=0.5)))),
              ['fraction', 'threshold']),
    'prune net': (lambda net: bbb.prune(net, 0.), ['net']),
    'signal_to_noise': (lambda **kw: bbb.signal_to_noise(**kw), ['net']),
    'to_deterministic': (lambda **kw: bbb.to_deterministic(**kw), ['net']),
    'draw': (lambda **kw: bbb.draw(**kw), ['net']),
    'to_sparse': (lambda **kw: bbb.to_sparse(**kw), ['net']),
    'posterior_as_prior': (lambda **kw: bbb.posterior_as_prior(**kw), ['net']),
    'set_prior': (lambda **kw: bbb.set_prior(**dict(dict(net=dense_net(), prior=bbb.GaussianPrior()), **kw)),
                  ['net', 'prior', 'bias_prior']),
    'to_bayesian': (lambda **kw: bbb.to_bayesian(**dict(dict(net=PLAIN), **kw)),
                    ['net', 'prior', 'bias_prior', 'sigma', 'fraction', 'estimator', 'kl', 'where']),
    'floor': (lambda floor: bbb.to_bayesian(PLAIN, fraction=0.1, floor=floor), ['floor']),
    'uncertainty': (lambda **kw: bbb.uncertainty(**kw), ['probs']),
    'save_checkpoint': (lambda **kw: checkpoint.save_checkpoint(NOWHERE, **dict(dict(net=NET), **kw)),
                        ['net', 'trainer', 'loss', 'fact']),
}


def used(layer=None, with_prior=None):
    """Draw the weights of ``layer``, for a KL divergence that is a number."""
    if layer is None:
        layer = bbb.BayesDense(2, in_units=3, prior=with_prior)
    layer.initialize()
    loss = bbb.BBBLoss(layer, 10)
    with autograd.record():
        value = loss(layer(X.astype(layer.weight.dtype)), LABEL)
    value.backward()
    assert not np.isnan(value.asnumpy()).any() and not np.isnan(layer.weight.grad().asnumpy()).any()


def lost(loss):
    with autograd.record():
        value = loss(NET(X), LABEL)
    assert value.shape == (5,) and not np.isnan(value.asnumpy()).any()


@pytest.mark.parametrize('name', CALLS)
@tries(25)
@given(data=st.data())
def test_an_argument_is_used_or_named(name, data):
    call, names = CALLS[name]
    argument = data.draw(st.sampled_from(names))
    nets = [NET, PLAIN] if argument not in ('likelihood', 'where') else [None]     # which could be called
    value = data.draw(VALUES | PRIORS | CHOICES | st.sampled_from(nets))
    assume(argument != 'dtype' or not hasattr(value, 'dtype'))     # of which numpy takes the dtype, and warns
    assume(argument not in ('where', 'likelihood') or not callable(value))     # which raises what it likes
    if argument in ('num_samples', 'num_steps') and isinstance(value, (int, np.integer)):
        value = min(value, 3)       # more is right, and takes long
    try:
        call(**{argument: value})
    except (TypeError, ValueError) as error:
        # Whether an array fits, only the layer knows that gets the prior.
        allowed = [argument, 'a prior for Parameter'] if name == 'GaussianPrior' else [argument]
        assert any(text in str(error) for text in allowed), (argument, value, error)
    except MXNetError as error:
        assert argument == 'data' and 'Shape' in str(error)     # as every network says it
    except OSError as error:
        assert os.devnull in str(error)


@pytest.mark.parametrize('name, argument, value', [
    ('BayesDense', 'dtype', 0.), ('BayesDense', 'dtype', 'x'), ('BayesDense', 'initial_sigma', 10 ** 400),
    ('BayesDense', 'estimator', np.array([1., 2.])), ('BayesDense', 'kl', X), ('MixturePrior', 'weights', 0.5),
    ('MixturePrior', 'sigmas', np.array(1.)), ('BBBLoss', 'weight', math.nan), ('BBBLoss', 'weight', -10 ** 400),
    ('step', 'step', 'x'), ('step', 'step', math.nan), ('step', 'step', math.inf), ('KLWeightHandler', 'step', NET),
    ('blundell', 'num_batches', 10 ** 400), ('predict', 'chunk', 10 ** 400), ('MonteCarlo', 'link', X),
    ('to_bayesian', 'where', 0.), ('to_bayesian', 'estimator', X)])
def test_arguments_that_once_were_not_named(name, argument, value):
    with pytest.raises((TypeError, ValueError), match=argument):
        CALLS[name][0](**{argument: value})


# ---- networks, in whatever order of calls

def reference(net, x):
    """What a network of BayesDense layers predicts, in numpy's float64."""
    x = x.asnumpy().astype('float64')
    for layer in net:
        if not isinstance(layer, nn.Dropout):
            weight, bias = (param.data().asnumpy().astype('float64') * (rho.data().asnumpy() > -1e29)
                            for param, rho in ((layer.weight, layer.weight_rho), (layer.bias, layer.bias_rho)))
            x = x @ weight.T + bias
            if layer.act is not None:
                x = np.maximum(x, 0)
    return x


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * (1 + abs(np.nan_to_num(other)).max()))


def kl_reference(rho):
    """The KL divergence of one Parameter, if its prior is a Gaussian with numbers; None for others."""
    prior = rho.prior
    if type(prior) is not bbb.GaussianPrior or prior.parameters():
        return None
    mu, value = (param.data().asnumpy().astype('float64') for param in (rho.mu, rho))
    mu, sigma = mu[value > -1e29], np.logaddexp(0, value[value > -1e29])
    return (np.log(prior.sigma / sigma) + (sigma ** 2 + (mu - prior.mu) ** 2) / (2 * prior.sigma ** 2) - 0.5).sum()


def state(net):
    """All that must stay as it is where a call raises."""
    params = {}
    for name, param in net._collect_params_with_prefix().items():
        value = None if param._data is None else [array.asnumpy() for array in param._data]
        params[name] = value, np.dtype(param.dtype), param.shape, param.grad_req, bool(param._deferred_init)
    blocks = [(type(block), getattr(block, '_active', None), dict(getattr(block, '_flags', [])))
              for block in tree.walk(net)]
    priors = [rho.prior for rho in parameters.posterior_parameters(net)]
    return params, blocks, priors


def same(one, other):
    (params, *rest), (others, *other_rest) = one, other
    assert params.keys() == others.keys()
    for name in params:
        (values, *facts), (other_values, *other_facts) = params[name], others[name]
        assert facts == other_facts, (name, facts, other_facts)
        assert (values is None) == (other_values is None), name
        for value, other_value in zip(values or [], other_values or []):
            np.testing.assert_array_equal(value, other_value, err_msg=name)
    assert rest == other_rest


class Machine(RuleBasedStateMachine):
    """One network, its loss and Trainer, and a checkpoint of it, under all that can be done with them."""

    @initialize(prior=PRIORS, estimator=st.sampled_from(['sample', 'local', 'flipout']),
                in_units=st.sampled_from([0, 3]), dropout=st.booleans())
    def build(self, prior, estimator, in_units, dropout):
        mx.random.seed(0)
        self.net, self.loss, self.trainer, self.poisoned = nn.HybridSequential(), None, None, None
        self.net.add(bbb.BayesDense(4, activation='relu', in_units=in_units, prior=prior, estimator=estimator),
                     *[nn.Dropout(0.3)] * dropout,
                     bbb.BayesDense(2, in_units=4 if in_units else 0, bias_prior=bbb.GaussianPrior(0.7, 0.2)))
        self.folder = tempfile.TemporaryDirectory()
        self.checkpoint = self.params = None

    def teardown(self):
        self.folder.cleanup()

    # what is known of the network

    def ready(self):
        return all(param._data is not None for param in self.net.collect_params().values())

    def dtype(self):
        return self.net[0].weight.dtype

    def attempt(self, call, error, names):
        """``call()``: returns what it does, or raises an ``error`` with one of ``names`` in it, and changes nothing."""
        before = state(self.net)
        try:
            return call()
        except error as raised:
            assert any(name in str(raised) for name in names), raised
            same(before, state(self.net))
            return None

    def read(self, call):
        """``call()``, which must not change the network; needs initialized, finite Parameters."""
        before = state(self.net)
        if not self.ready():
            with pytest.raises((DeferredInitializationError, RuntimeError), match='initialized'):
                call()
            result = None
        elif self.poisoned:
            with pytest.raises(ValueError, match='Parameters? .*(NaN|finite)'):
                call()
            result = None
        else:
            result = call()
        same(before, state(self.net))
        return result

    @invariant()
    def predicts_the_posterior_mean(self):
        if hasattr(self, 'net') and self.ready() and not self.poisoned:
            before, x = state(self.net), X.astype(self.dtype())
            with autograd.predict_mode():
                output = self.net(x).asnumpy()
            close(output, reference(self.net, x))
            same(before, state(self.net))
            for rho in parameters.posterior_parameters(self.net):
                expected = kl_reference(rho)
                if expected is not None:
                    context = mx.cpu()
                    close(bbb.training.loss._from_parameters(rho, context).asscalar(), expected)

    # the calls

    @rule(init=st.sampled_from([mx.init.Xavier(), mx.init.Normal(0.5)]), force=st.booleans())
    def initialize_parameters(self, init, force):
        if not self.ready() or force:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')     # Gluon's: initialized already
                self.net.initialize(init, force_reinit=force)
            if force:
                self.poisoned = None
                self.net.hybridize(self.net._active, **dict(self.net._flags))    # MXNet's own, see docs/limits.md

    @rule(mode=st.sampled_from([(False, {}), (True, {}), (True, {'static_alloc': True}),
                                (True, {'static_alloc': True, 'static_shape': True})]))
    def hybridize(self, mode):
        self.net.hybridize(mode[0], **mode[1])

    @rule(dtype=st.sampled_from(['float32', 'float64', np.float64, 'int32', 'uint8', 'x', 3]))
    def cast(self, dtype):
        self.attempt(lambda: self.net.cast(dtype), (TypeError, ValueError), ['dtype'])
        self.trainer = None     # whose states are in the old one

    @rule(train=st.booleans(), record=st.booleans(), units=st.sampled_from([3, 3, 3, 2]))
    def forward(self, train, record, units):
        known = self.net[0].weight.shape[1]
        x = nd.ones((5, units), dtype=self.dtype())
        with autograd._RecordingStateScope(record, train):
            if units == 2 or not self.fits(units):
                if known == 3:
                    self.attempt(lambda: self.net(x).asnumpy(), Exception, ['shape', 'Shape', 'initialized'])
                return
            if any(param._data is None and not param._deferred_init for param in self.net.collect_params().values()):
                with pytest.raises(RuntimeError, match='initialized'):
                    self.net(x)
                return
            output = self.net(x)
        assert output.shape == (5, 2) and (self.poisoned or np.isfinite(output.asnumpy()).all())

    def fits(self, units):
        return self.net[0].weight.shape[1] in (0, units)

    @rule(num_train=st.sampled_from([10, 0, 1000, math.nan]), kl_weight=st.sampled_from([1., 0., -1.]))
    def make_loss(self, num_train, kl_weight):
        loss = self.attempt(lambda: bbb.BBBLoss(self.net, num_train, kl_weight=kl_weight), ValueError,
                            ['num_train', 'kl_weight'])
        if num_train > 0 and kl_weight >= 0:
            assert loss is not None
        self.loss = loss or self.loss

    @precondition(lambda self: self.loss is not None)
    @rule()
    def loss_without_a_forward(self):
        output = nd.ones((5, 2), dtype=self.dtype())
        collect_terms = [rho.record.terms for rho in parameters.posterior_parameters(self.net)]
        for latest in collect_terms:
            latest.clear()
        with autograd.record(), pytest.raises(RuntimeError, match='no KL terms'):
            self.loss(output, LABEL)

    @precondition(lambda self: self.loss is not None and self.ready() and self.fits(3) and any(
        param.grad_req != 'null' for param in self.net.collect_params().values()))
    @rule(optimizer=st.sampled_from(['sgd', 'adam', 'fusedadam']), steps=st.integers(1, 3))
    def train(self, optimizer, steps):
        if self.trainer is None:
            self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, {'learning_rate': 0.01})
        x, kl = X.astype(self.dtype()), 0.
        for _ in range(steps):
            with autograd.record():
                loss = self.loss(self.net(x), LABEL)
            loss.backward()
            self.trainer.step(5)
            kl = self.loss.kl.asscalar() * self.loss.kl_weight / self.loss.num_train
        if not self.poisoned:
            close(loss.asnumpy(), self.loss.nll.asnumpy() + kl)
            assert np.isfinite(loss.asnumpy()).all()
        elif not all(np.isfinite(param.data().asnumpy()).all() for param in self.net.collect_params().values()):
            with pytest.raises(FloatingPointError, match='layer '):
                self.loss.check_finite()

    @precondition(lambda self: self.ready() and not self.poisoned)
    @rule(name=st.sampled_from(['weight', 'weight_rho', 'bias', 'bias_rho']), layer=st.sampled_from([0, -1]))
    def poison(self, name, layer):
        param = getattr(self.net[layer], name)
        self.poisoned = param, param.data().copy()
        value = param.data().asnumpy()
        value.flat[0] = np.nan
        param.set_data(nd.array(value, dtype=value.dtype))
        self.loss = None        # else it is told, which is an error here

    @precondition(lambda self: self.poisoned)
    @rule()
    def heal(self):
        param, value = self.poisoned
        if param.dtype == value.dtype:
            param.set_data(value)
            self.poisoned = None
        self.trainer = None

    @rule(fraction=st.one_of(st.floats(0, 1), st.sampled_from([-0.1, 1.5, math.nan, None, 'x', {}])))
    def prune(self, fraction):
        already = self.pruned()

        def call():
            return bbb.prune(self.net, fraction)
        if not self.ready() or self.poisoned or fraction == {}:
            before = state(self.net)
            try:
                call()
            except (DeferredInitializationError, RuntimeError, ValueError, TypeError):
                same(before, state(self.net))
            return
        count = self.attempt(call, (TypeError, ValueError), ['fraction'])
        if count is not None:
            total = sum(rho.data().size for rho in parameters.posterior_parameters(self.net))
            assert count == math.floor(total * fraction + 1e-9) == self.pruned() >= already
        elif isinstance(fraction, float) and 0 <= fraction <= 1:
            assert already > 0

    def pruned(self):
        return sum(int((rho.data() < -1e29).sum().asscalar()) for rho in parameters.posterior_parameters(self.net)
                   if rho._data is not None)

    @rule(prior=PRIORS | st.sampled_from([None, 1., bbb.GaussianPrior(np.ones((4, 3))), bbb.GaussianPrior(np.ones(9))]),
          bias_prior=PRIORS | st.sampled_from([None, 'x', bbb.GaussianPrior(np.ones((2, 2)))]))
    def set_prior(self, prior, bias_prior):
        had_trainer = any(param._trainer is not None for param in self.net.collect_params().values())
        before = state(self.net)
        done = self.attempt(lambda: bbb.set_prior(self.net, prior, bias_prior) or True,
                            (TypeError, ValueError, RuntimeError), ['prior'])
        if done:
            assert not had_trainer
            rhos = parameters.posterior_parameters(self.net)
            assert [rho.prior for rho in rhos] == [bias_prior if rho.is_bias and bias_prior is not None else prior
                                                   for rho in rhos]
            values = state(self.net)[0]
            for rho_name in before[0]:
                if '_prior_' not in rho_name:
                    np.testing.assert_equal(values[rho_name][0], before[0][rho_name][0])

    @rule()
    def deterministic(self):
        plain = self.read(lambda: bbb.to_deterministic(self.net))
        if plain is not None:
            x = X.astype(self.dtype())
            close(plain(x).asnumpy(), self.net(x).asnumpy())
            assert not parameters.posterior_parameters(plain)
            back = bbb.to_bayesian(plain, sigma=0.3)
            close(back(x).asnumpy(), self.net(x).asnumpy())

    @rule(samples=st.integers(1, 3))
    def predict(self, samples):
        x = X.astype(self.dtype())
        draws = self.read(lambda: bbb.predict(self.net, x, samples, batch_size=2))
        if draws is not None:
            assert draws.shape == (samples, 5, 2) and np.isfinite(draws.asnumpy()).all()

    @rule()
    def draw(self):
        drawn = self.read(lambda: bbb.draw(self.net))
        assert drawn is None or np.isfinite(drawn(X.astype(self.dtype())).asnumpy()).all()

    @rule()
    def ratios(self):
        if self.ready() and not self.poisoned:
            ratios = self.read(lambda: bbb.signal_to_noise(self.net))
            assert all((ratio.asnumpy() >= 0).all() for ratio in ratios.values())

    @rule()
    def sparse(self):
        sparse = self.read(lambda: bbb.to_sparse(self.net))
        if sparse is not None:
            x = X.astype(self.dtype())
            close(sparse(x).asnumpy(), self.net(x).asnumpy())

    @rule()
    def posterior_as_prior(self):
        new = self.read(lambda: bbb.posterior_as_prior(self.net))
        if new is not None:
            assert abs(bbb.kl_divergence(new).asscalar()) < 1e-2

    @precondition(lambda self: not self.net._active or self.loss is not None)      # Gluon's own cannot
    @rule()
    def copies(self):
        new = copy.deepcopy(self.net)
        same(state(self.net), state(new))
        if self.ready() and not self.poisoned:
            x = X.astype(self.dtype())
            np.testing.assert_array_equal(new(x).asnumpy(), self.net(x).asnumpy())

    @precondition(lambda self: self.ready() and not self.poisoned)
    @rule()
    def saves(self):
        self.params = os.path.join(self.folder.name, 'net.params'), state(self.net)
        self.net.save_parameters(self.params[0])
        self.checkpoint = os.path.join(self.folder.name, 'net.checkpoint'), state(self.net)
        checkpoint.save_checkpoint(self.checkpoint[0], self.net, fact=1)

    @precondition(lambda self: self.checkpoint is not None)
    @rule(place=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)), bit=st.integers(0, 7), cut=st.booleans())
    def loads_a_checkpoint(self, place, bit, cut):
        path, saved = self.checkpoint
        if place is not None:
            content = bytearray(Path(path).read_bytes())
            index = int(place * len(content))
            content[index] ^= 1 << bit
            path += '.broken'
            Path(path).write_bytes(content[:index] if cut else content)
        done = self.attempt(lambda: checkpoint.load_checkpoint(path, self.net), ValueError, [path])
        if done is None:
            assert place is not None or self.differs(saved)
        else:
            assert place is None and done == {'fact': 1}
            self.poisoned = None
            for name, (values, *_) in state(self.net)[0].items():
                np.testing.assert_equal(values, saved[0][name][0])

    def differs(self, saved):
        """Whether the network has other Parameters or dtypes by now."""
        now = state(self.net)[0]
        return now.keys() != saved[0].keys() or any(now[name][1] != saved[0][name][1] for name in now)

    @precondition(lambda self: self.params is not None)
    @rule(cut=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)))
    def loads_parameters(self, cut):
        path, saved = self.params
        if cut is not None:
            content = Path(path).read_bytes()
            path += '.broken'
            Path(path).write_bytes(content[:int(cut * len(content))])
            self.attempt(lambda: self.net.load_parameters(path), MXNetError, ['NDArray', 'Check failed'])
        elif not self.differs(saved):
            self.net.load_parameters(path)
            self.poisoned = None
            for name, (values, *_) in state(self.net)[0].items():
                np.testing.assert_equal(values, saved[0][name][0])

    @rule(pattern=st.sampled_from(['.*rho$', '.*weight$', '.*']), grad_req=st.sampled_from(['write', 'null']))
    def grad_req(self, pattern, grad_req):
        for param in self.net.collect_params(pattern).values():
            if param._differentiable:
                param.grad_req = grad_req
        self.trainer = None


def test_any_order_of_calls():
    run_state_machine_as_test(Machine, settings=tries(120, stateful_step_count=20))


# ---- files

class Run:
    """What a checkpoint holds, of one step's age."""

    def __init__(self):
        self.net = dense_net(bbb.GaussianPrior(learnable=True))
        self.net.hybridize()
        self.loss = bbb.BBBLoss(self.net, 10, kl_weight=0.5)
        schedule = mx.lr_scheduler.FactorScheduler(2, 0.5)
        self.trainer = gluon.Trainer(self.net.collect_params(), 'adam', {'learning_rate': 0.1,
                                                                         'lr_scheduler': schedule})
        with autograd.record():
            loss = self.loss(self.net(X), LABEL)
        loss.backward()
        self.trainer.step(5)

    def state(self):
        optimizer = self.trainer.optimizer
        states = {index: [array.asnumpy().tolist() for array in arrays]
                  for index, arrays in self.trainer._updaters[0].states.items()}
        return (states, repr(sorted((name, value) for name, value in vars(optimizer).items()
                                    if isinstance(value, (int, float)))),
                dict(optimizer._index_update_count), vars(optimizer.lr_scheduler).copy(), self.loss.kl_weight)

    def load(self, path):
        return checkpoint.load_checkpoint(path, self.net, self.trainer, self.loss)


def parts_of(value, path=()):
    """The paths of all values in nested dicts and lists."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from parts_of(child, path + (key,))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A run and its checkpoint's path, meta data and arrays."""
    run, path = Run(), str(tmp_path_factory.mktemp('files') / 'run.checkpoint')
    checkpoint.save_checkpoint(path, run.net, run.trainer, run.loss, fact=1)
    return (run, path) + read_checkpoint(path)


def write_sealed(path, meta, arrays):
    """A checkpoint with a right checksum."""
    stream = io.BytesIO()
    np.savez(stream, **dict(arrays, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)))
    payload = stream.getvalue()
    checkpoint.write_atomically(path, MAGIC[2] + hashlib.sha256(payload).digest() + payload)


def refused_or_right(run, path):
    before, others = state(run.net), run.state()
    try:
        run.load(path)
    except ValueError as error:
        assert path in str(error)
        same(before, state(run.net))
        assert run.state() == others


JSON = st.sampled_from([None, True, -1, 10 ** 400, 1e999, 0.5, math.nan, '', 'params/0.weight', 'states/0', 'nothing',
                        [], [[]], {}, {'a': 1}, ['0.weight'], [None]])


@tries(120)
@given(data=st.data())
def test_a_checkpoint_that_says_something_else(written, data):
    # With a right checksum: as another version or another program might have written it.
    run, path, meta, arrays = written
    meta, arrays = copy.deepcopy(meta), dict(arrays)
    if data.draw(st.booleans()):
        *where, last = data.draw(st.sampled_from([place for place in parts_of(meta) if place]))
        parent = meta
        for key in where:
            parent = parent[key]
        if data.draw(st.booleans()):
            del parent[last]
        else:
            parent[last] = data.draw(JSON)
    else:
        name = data.draw(st.sampled_from(sorted(arrays)))
        array = arrays.pop(name)
        new = data.draw(st.sampled_from([None, array[:1], array.astype('int64'), array.astype('float64'), np.zeros(()),
                                         array.reshape(-1, 1), np.array(['x'])]))
        if new is not None:
            arrays[name] = new
    write_sealed(path + '.other', meta, arrays)
    refused_or_right(run, path + '.other')


@pytest.mark.parametrize('place, value', [
    (['facts'], 'states/0'), (['params'], None), (['params', 0], []), (['kl_weight'], -1), (['kl_weight'], 'x'),
    (['trainer'], None), (['trainer', 'counts'], []), (['trainer', 'counts', 'params/0.bias'], 0.5),
    (['trainer', 'optimizer', 'attributes', 'lr'], 'x'), (['trainer', 'optimizer', 'attributes', 'lr'], 10 ** 400),
    (['trainer', 'states', 'params/0.bias'], None), (['trainer', 'states', 'params/0.bias'], ['states/16']),
    (['trainer', 'states', 'params/0.bias', 0], 'nothing')])
def test_checkpoints_that_once_were_half_loaded(written, place, value):
    run, path, meta, arrays = written
    meta = parent = copy.deepcopy(meta)
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    write_sealed(path + '.other', meta, arrays)
    before, others = state(run.net), run.state()
    with pytest.raises(ValueError, match='run.checkpoint.other'):
        run.load(path + '.other')
    same(before, state(run.net))
    assert run.state() == others


@tries(120)
@given(content=st.binary(max_size=300), whole=st.booleans(), place=st.floats(0, 1))
def test_a_checkpoint_with_foreign_bytes_in_it(written, content, whole, place):
    run, path = written[:2]
    right = Path(path).read_bytes()
    place = int(place * len(right))
    broken = content if whole else right[:place] + content + right[place + len(content) // 2:]
    path += '.other'
    checkpoint.write_atomically(path, broken)
    before = state(run.net)
    if broken != right:
        with pytest.raises(ValueError, match='must be a checkpoint|damaged or cut off'):
            run.load(path)
    same(before, state(run.net))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ('unpickled',)


@pytest.mark.parametrize('name', ['run.checkpoint', 'net.params'])
def test_nothing_is_unpickled(written, tmp_path, monkeypatch, name):
    run = written[0]
    monkeypatch.chdir(tmp_path)
    before = state(run.net)
    contents = [pickle.dumps(Bomb(), protocol) for protocol in range(3)]
    for kind in (np.save, np.savez):
        stream = io.BytesIO()
        kind(stream, np.array([Bomb()], dtype=object))
        contents.append(stream.getvalue())
    for content in contents:
        Path(name).write_bytes(content)
        with pytest.raises((ValueError, MXNetError)):
            (run.load if name == 'run.checkpoint' else run.net.load_parameters)(name)
    same(before, state(run.net))
    assert os.listdir('.') == [name]


def test_a_checkpoint_with_nan_is_loaded_and_what_uses_it_says_so(written, tmp_path):
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    run.net[0].weight.set_data(nd.full((4, 3), math.nan))
    checkpoint.save_checkpoint(path, run.net, run.trainer, run.loss)
    other = Run()
    other.load(path)
    for call in (bbb.to_deterministic, bbb.draw, bbb.signal_to_noise, bbb.to_sparse, bbb.posterior_as_prior,
                 lambda net: bbb.prune(net, 0.5), lambda net: bbb.predict(net, X, 2)):
        before = state(other.net)
        with pytest.raises(ValueError, match=rf'Parameters? {other.net[0].weight.name}'):
            call(other.net)
        same(before, state(other.net))
    with pytest.raises(FloatingPointError, match=rf'layer {other.net[0].name} \(weight\)'):
        other.loss.check_finite()


@tries(30)
@given(data=st.data())
def test_a_sparse_file_whose_indices_are_wrong(data):
    mx.random.seed(0)
    net = dense_net()
    bbb.prune(net, 0.5)
    sparse = bbb.to_sparse(net)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'sparse.params')
        sparse.save_parameters(path)
        arrays = nd.load(path)
        right = arrays['0.weight']
        parts = {name: getattr(right, name).asnumpy() for name in ('data', 'indices', 'indptr')}
        which = data.draw(st.sampled_from(['indices', 'indptr']))
        place = data.draw(st.integers(0, len(parts[which]) - 1))
        parts[which][place] = data.draw(st.sampled_from([-1, 3, 4, 1000, 2 ** 40, -2 ** 40]) if which == 'indices' else
                                        st.sampled_from([-1, 100, 2 ** 40, -2 ** 40]))
        arrays['0.weight'] = mx.nd.sparse.csr_matrix((parts['data'], parts['indices'], parts['indptr']),
                                                     shape=right.shape)
        nd.save(path, arrays)
        before = sparse(X).asnumpy()
        with pytest.raises(ValueError, match=f'Parameter {sparse[0].weight.name} must be a valid CSR matrix'):
            sparse.load_parameters(path)
        np.testing.assert_array_equal(before, sparse(X).asnumpy())
