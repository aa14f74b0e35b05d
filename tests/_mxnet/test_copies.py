# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Copies of networks whose attributes refer to a block before Gluon knows it as a child."""
import copy

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import Block, HybridBlock, nn

from bbb_layers import (BayesDense, BBBLoss, draw, posterior_as_prior, predict, prune, pruning_curve, to_bayesian,
                        to_deterministic)


class Configured(HybridBlock):
    """A block that notes its arguments before ``Block.__init__`` has run, as a validating decorator does."""

    def __init__(self, body):
        self.config = {'body': body}
        super().__init__()
        with self.name_scope():
            self.body = body
            self.head = BayesDense(3, in_units=5)

    def hybrid_forward(self, F, x):
        return self.head(self.body(x))


def make_net(layer, tapped):
    body = nn.HybridSequential()
    body.add(layer(6, in_units=4, activation='relu'), layer(5, in_units=6))
    net = Configured(body)
    net.initialize()
    net.hybridize()
    if tapped:
        BBBLoss(net, num_train=10)
    net(mx.nd.ones((2, 4)))
    return net


DATA = mx.nd.arange(8).reshape((2, 4)) / 8


# Gluon's own copy.deepcopy, which serves networks without a loss, fails once a network has run hybridized.
@pytest.mark.parametrize('make_copy, tapped', [(copy.deepcopy, True)] + [
    (function, tapped) for function in (to_deterministic, draw, posterior_as_prior) for tapped in (False, True)],
    ids=lambda value: getattr(value, '__name__', str(value)))
def test_copies_keep_their_name_scopes(make_copy, tapped):
    """A copy of the body alone must not take the name scope from the network around it."""
    net = make_net(BayesDense, tapped)
    new = make_copy(net)
    assert new.config['body'] is new.body
    for old, copied in ((net, new), (net.body, new.body), (net.head, new.head), (net.body[1], new.body[1])):
        assert copied._scope is not old._scope
        assert copied._scope._block is copied
        assert copied._scope._counter == old._scope._counter
    if make_copy is not draw:
        assert np.array_equal(new(DATA).asnumpy(), net(DATA).asnumpy())
    counts = dict(net._scope._counter)
    with new.name_scope():      # a child that comes later has a name that follows the copy's
        later = nn.Dense(2)
    assert later.prefix.startswith(net.prefix)
    assert net._scope._counter == counts != new._scope._counter


@pytest.mark.parametrize('tapped', [False, True])
def test_functions_that_copy(tapped):
    net = make_net(BayesDense, tapped)
    assert predict(net, DATA, num_samples=3).shape == (3, 2, 3)
    assert pruning_curve(net, [0.5, 1.], lambda pruned: float(pruned(DATA).abs().sum().asscalar()))[1] == 0
    bayesian = to_bayesian(make_net(nn.Dense, tapped), where=lambda name, layer: name != 'head')
    assert type(bayesian.body[0]) is BayesDense and bayesian.config['body'] is bayesian.body


def test_copy_of_a_part_leaves_the_rest_behind():
    """The body's name scope refers to that of the network around it, once that has run hybridized."""
    net = make_net(BayesDense, tapped=True)
    part = copy.deepcopy(net.body)
    assert part._scope._old_scope is None and part._scope._block is part
    assert np.array_equal(part(DATA).asnumpy(), net.body(DATA).asnumpy())
    # The network itself is as it was: it trains, and its copy trains by itself.
    new = copy.deepcopy(net)
    before = [param.data().asnumpy() for param in net.collect_params().values()]
    loss_fn = BBBLoss(new, num_train=10)
    trainer = mx.gluon.Trainer(new.collect_params(), 'sgd', {'learning_rate': 0.1})
    for _ in range(3):
        with autograd.record():
            loss = loss_fn(new(DATA), mx.nd.array([0, 2]))
        loss.backward()
        trainer.step(2)
    prune(new, 0.5)
    assert all(np.array_equal(param.data().asnumpy(), values)
               for param, values in zip(net.collect_params().values(), before))
    assert not np.array_equal(new.body[0].weight.data().asnumpy(), net.body[0].weight.data().asnumpy())


def test_copy_that_is_made_inside_the_name_scope():
    """Nobody has entered the name scope of the copy, although the original's is entered at this moment."""
    net = make_net(BayesDense, tapped=True)
    with net.name_scope():
        assert net._scope._name_scope is not None
        new = copy.deepcopy(net)
        assert new._scope._name_scope is None
        with new.name_scope():
            assert new._scope._name_scope is not None
            inner = nn.Dense(2)
        assert new._scope._name_scope is None and net._scope._name_scope is not None
        outer = nn.Dense(2)     # the scope of the original is in force again
    assert inner.prefix.startswith(net.prefix) and inner.prefix == outer.prefix
    assert nn.Dense(2).prefix.startswith('dense')


def test_block_that_is_reached_before_the_part_that_holds_it():
    """Each name scope is copied once, also where a part of the network is copied for itself in between."""
    class Referring(HybridBlock):
        def __init__(self, part):
            super().__init__()
            self.early = part[0]
            self.part = part

        def hybrid_forward(self, F, x):
            return self.part(x)

    part = nn.HybridSequential()
    part.add(nn.Dense(3, in_units=4), BayesDense(2, in_units=3))
    net = Referring(part)
    net.initialize()
    BBBLoss(part, num_train=10)
    early = to_deterministic(net).early
    assert early._scope._block is early
    with early.name_scope():
        assert nn.Dense(2).prefix.startswith(early.prefix)


class Listed(Block):
    """A block whose Parameters stand in a list, and are no attributes."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.scales = [self.params.get('scale%d' % i, shape=(4,), init='ones') for i in range(2)]
            self.dense = BayesDense(3, in_units=4)

    def forward(self, x):
        for scale in self.scales:
            x = x * scale.data(x.context)
        return self.dense(x)


@pytest.mark.parametrize('context', [mx.cpu(0), mx.cpu(1)], ids=str)
@pytest.mark.parametrize('make_copy', [copy.deepcopy, posterior_as_prior, lambda net: net],
                         ids=['deepcopy', 'posterior_as_prior', 'itself'])
def test_parameters_that_are_no_attributes(make_copy, context):
    """They stay on their contexts, and get gradients."""
    net = Listed()
    net.initialize(ctx=context)
    BBBLoss(net, num_train=10)
    new = make_copy(net)
    loss_fn = BBBLoss(new, num_train=10)
    with autograd.record():
        loss = loss_fn(new(DATA.as_in_context(context)), mx.nd.array([0, 2], ctx=context))
    loss.backward()
    for scale in new.scales:
        assert scale.list_ctx() == [context] and scale.grad().asnumpy().any()
