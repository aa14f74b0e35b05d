# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training that leaves the finite numbers is told, with the layer, and costs nothing as long as it does not."""
import copy
import linecache
import re
import threading
import warnings

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import BayesDense, BBBLoss, GaussianPrior, PoissonNLLLoss
from bbb_layers.training import finite


class Run:
    def __init__(self, mode=None, optimizer='sgd', learning_rate=0.01, ctx=None, **options):
        mx.random.seed(3)
        self.ctx = ctx or mx.cpu()
        self.net = hybridize(nn.HybridSequential(prefix='net_'), mode)
        with self.net.name_scope():
            self.net.add(BayesDense(8, in_units=4, activation='relu', prefix='first_', prior=GaussianPrior()),
                         nn.BatchNorm(prefix='norm_'), BayesDense(3, in_units=8, prefix='last_', **options))
        self.net.initialize(mx.init.Xavier(), ctx=self.ctx)
        self.loss = BBBLoss(self.net, 100)
        self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, {'learning_rate': learning_rate or 0.})
        self.frozen = learning_rate is None
        first = self.ctx[0] if isinstance(self.ctx, list) else self.ctx
        self.x, self.label = nd.random.normal(shape=(6, 4), ctx=first), nd.array([0, 1, 2] * 2, ctx=first)

    def step(self, steps=1):
        for _ in range(steps):
            with autograd.record():
                loss = self.loss(self.net(self.x), self.label)
            loss.backward()
            if not self.frozen:     # 0 times a gradient that is NaN is NaN
                self.trainer.step(len(self.x))


@pytest.mark.parametrize('optimizer, learning_rate', [('sgd', 1e3), ('fusedadam', 1e20)])
def test_a_learning_rate_that_is_too_high(mode, optimizer, learning_rate):
    run = Run(mode, optimizer, learning_rate)
    with pytest.warns(RuntimeWarning, match=r'net: first not finite in call \d+ of the loss in train mode: .*'
                                            r'layer net_(first|last) \(weight\)') as caught:
        run.step(2 * finite.EVERY)
    assert len(caught) == 1
    first = int(re.search(r'call (\d+)', str(caught[0].message)).group(1))
    assert caught[0].filename == __file__
    # The line of the user's code that called the loss; one level more would be the line that calls step.
    assert 'self.loss(self.net(self.x), self.label)' in linecache.getline(__file__, caught[0].lineno)
    with pytest.raises(FloatingPointError, match='in call %d of' % first):
        run.loss.check_finite()
    # What it was in truth, step by step.
    again, losses = Run(mode, optimizer, learning_rate), []
    for _ in range(first):
        again.step()
        losses.append(float((again.loss.nll.mean() + again.loss.kl).asscalar()))
    assert np.isfinite(losses).tolist() == [True] * (first - 1) + [False]


@pytest.mark.parametrize('name', ['weight', 'weight_rho', 'bias', 'bias_rho'])
def test_the_one_layer_is_named_and_the_step(mode, name):
    run = Run(mode, learning_rate=None)
    run.step(3)
    param = getattr(run.net[2], name)
    param.set_data(param.data() * np.nan)
    with pytest.warns(RuntimeWarning) as caught:
        run.step(2 * finite.EVERY)
    message = str(caught[0].message)
    assert 'first not finite in call 4 of the loss' in message
    attribute = name.replace('_rho', '')
    assert re.search(rf'KL divergence of layer net_last \({attribute}\) \((nan|inf)\)', message)
    assert 'KL divergence of layer net_first' not in message
    assert re.search(rf'not finite now: layer net_last \({name}\) \(\d+ values\)\. Is', message)
    assert len(caught) == 1


def test_an_infinite_mean_is_named(mode):
    run = Run(mode, learning_rate=None)
    run.net[2].weight.set_data(nd.full((3, 8), np.inf))
    # Far out the default prior's density is constant, so that its KL divergence stays finite.
    with pytest.warns(RuntimeWarning, match=r'in call 1 .*: NLL; .*not finite now: layer net_last \(weight\) \(24'):
        run.step(2 * finite.EVERY)


def test_a_parameter_without_posterior_is_named(mode):
    run = Run(mode, learning_rate=None)
    run.net[1].gamma.set_data(nd.array([np.nan] * 8))
    with pytest.warns(RuntimeWarning, match=r': NLL; largest .*; not finite now: layer net_norm \(gamma\) \(8 values'):
        run.step(2 * finite.EVERY)


def test_data_that_are_not_finite(mode):
    run = Run(mode, learning_rate=None)
    run.x[0, 0] = np.inf
    with pytest.warns(RuntimeWarning, match='in call 1 of the loss in train mode: NLL; .*data that are not finite'):
        run.step(finite.EVERY)


def test_before_the_first_validation(mode):
    run = Run(mode, learning_rate=1e3)
    run.step(12)    # fewer than it takes by itself
    with pytest.warns(RuntimeWarning, match='first not finite in call'):
        run.loss(run.net(run.x), run.label)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run.loss(run.net(run.x), run.label)     # said once


def test_check_finite_waits(mode):
    run = Run(mode)
    run.loss.check_finite()     # before the first step
    run.step(2)
    run.loss.check_finite()
    run.net[0].bias.set_data(nd.array([np.nan] * 8))
    with pytest.raises(FloatingPointError, match=r'net: not finite now: layer net_first \(bias\) \(8 values\)'):
        run.loss.check_finite()
    run.step()
    with pytest.raises(FloatingPointError, match=r'in call 3 .* KL divergence of layer net_first \(bias\)'):
        run.loss.check_finite()


def test_said_again_after_it_was_mended():
    run = Run(learning_rate=None)
    good = run.net[0].bias.data().copy()
    for _ in range(2):
        run.net[0].bias.set_data(good * np.nan)
        with pytest.warns(RuntimeWarning) as caught:
            run.step(2 * finite.EVERY)
        assert len(caught) == 1
        run.net[0].bias.set_data(good)
        run.step(2 * finite.EVERY)
        run.loss.check_finite()


def test_nothing_is_read_that_is_not_done(monkeypatch, mode):
    # Steps must not wait: what is read is at least eight calls old, and each call is read once.
    run, read = Run(mode), []
    monkeypatch.setattr(finite, '_all_finite',
                        lambda calls: read.append(([call.number for call in calls], run.loss._watch._count)) or True)
    run.step(4 * finite.EVERY)
    assert [count for _, count in read] == [finite.EVERY * number for number in range(1, 5)]
    assert sum([numbers for numbers, _ in read], []) == list(range(1, 4 * finite.EVERY - finite.LAG + 1))
    assert all(max(numbers) == count - finite.LAG for numbers, count in read)


def test_nothing_is_kept_alive(mode):
    run = Run(mode)
    run.step(2 * (finite.EVERY + finite.LAG))
    assert len(run.loss._watch._calls) == finite.EVERY + finite.LAG
    for call in run.loss._watch._calls:
        arrays = [call.nll] + [array for _, array in call.groups]
        assert all(array.size <= 6 for array in arrays)
        for array in arrays:    # no history of the tape
            with pytest.raises(mx.MXNetError):
                array.backward()


def test_kl_terms_are_those_of_their_step(mode):
    run = Run(mode, prior=GaussianPrior(0.5))
    with autograd.record():
        run.loss(run.net(run.x), run.label)
    expected = run.loss.kl.asscalar()
    run.step(5)
    kl = run.loss._watch._calls[0].kl()
    assert len(kl) == 4 and abs(sum(kl.values()) - expected) < 1e-4 * expected


def test_a_copy_has_a_watch_of_its_own():
    run = Run()
    run.step(3)
    other = copy.deepcopy(run.loss)
    assert len(run.loss._watch._calls) == 3 and not other._watch._calls


def test_two_networks_in_turn_and_in_two_threads_tell_only_their_own():
    contexts = [mx.cpu(0), mx.cpu(1)]
    runs, messages = [Run(learning_rate=None, ctx=ctx) for ctx in contexts], []
    for run in runs:
        # The first forward infers shapes. MXNet catches warnings while it does so, and Python catches those of all
        # threads: if two threads infer shapes at once, all later warnings can be lost.
        run.net(run.x)
    runs[1].net[2].weight.set_data(runs[1].net[2].weight.data() * np.nan)

    def train(run):
        run.step(2 * finite.EVERY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        threads = [threading.Thread(target=train, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]
    assert len(messages) == 1 and 'layer net_last (weight)' in messages[0]
    runs[0].loss.check_finite()
    with pytest.raises(FloatingPointError):
        runs[1].loss.check_finite()


@pytest.mark.parametrize('place', [0, 1])
def test_each_context_is_looked_at(mode, place):
    run = Run(mode, ctx=[mx.cpu(0), mx.cpu(1)])
    run.net[2].bias.data(run.ctx[place])[1] = np.nan
    with pytest.warns(RuntimeWarning, match='first not finite in call %d of the loss in train mode: NLL' % (place + 1)):
        for _ in range(finite.EVERY):
            for ctx in run.ctx:
                with autograd.record():
                    run.loss(run.net(nd.ones((3, 4), ctx=ctx)), nd.array([0, 1, 2], ctx=ctx))
    with pytest.raises(FloatingPointError):
        run.loss.check_finite()


def infect(run):
    """One call that is not finite, of Parameters that are finite again after it."""
    good = run.net[0].bias.data().copy()
    run.net[0].bias.set_data(good * np.nan)
    run.step()
    run.net[0].bias.set_data(good)


def test_what_comes_after_a_recovery_is_named_for_itself(mode):
    run, told = Run(mode, learning_rate=None), []
    for number in range(1, 9):
        infect(run) if number in (3, 5) else run.step()     # one finite call is a recovery
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            run.loss(run.net(run.x), run.label)     # validation
        told += [(number, re.search(r'call (\d+)', str(warning.message)).group(1)) for warning in caught
                 if warning.category is RuntimeWarning]
    assert told == [(3, '3'), (5, '5')]
    run.step(15)
    infect(run)
    with pytest.raises(FloatingPointError, match='first not finite in call 24 of'):
        run.loss.check_finite()


def test_a_call_is_told_once():
    run = Run(learning_rate=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for number in range(1, 61):
            infect(run) if number == 26 else run.step()
            if number in (28, 31):
                run.loss(run.net(run.x), run.label)
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1


def test_a_parameter_is_looked_at_on_each_context():
    run = Run(ctx=[mx.cpu(0), mx.cpu(1)])
    run.loss.check_finite()
    run.net[0].weight.data(mx.cpu(1))[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r'not finite now: layer net_first \(weight\) \(1 values\)'):
        run.loss.check_finite()


def test_what_is_finite_again_is_told_too(mode):
    """A label that the likelihood has no gradient for: the Parameters stay finite, and so do the next losses."""
    net = BayesDense(1, in_units=2)
    net.initialize()
    loss_fn = BBBLoss(hybridize(net, mode), 10, PoissonNLLLoss())
    with pytest.warns(RuntimeWarning, match='first not finite in call 5 of the loss in train mode: NLL') as caught:
        for step in range(1, 3 * finite.EVERY):
            with autograd.record():
                loss = loss_fn(net(nd.ones((1, 2))), nd.array([-5 if step == 5 else 1]))
            loss.backward()
            assert np.isfinite(net.weight.grad().asnumpy()).all()
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1
    loss_fn.check_finite()
