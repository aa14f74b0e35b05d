# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Arrays in shared and in pinned memory, which DataLoaders hand over: all is as with arrays on ``cpu``."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from bbb_layers import BayesDense, BBBLoss, GaussianPrior, MonteCarlo, metrics, predict
from bbb_layers._mxnet.contexts import computed_on, moved_to

MEMORIES = [mx.Context('cpu_shared', 0), mx.cpu_pinned(0)]
MODES = {'eager': None, 'hybrid': {}, 'static': {'static_alloc': True, 'static_shape': True}}
DATA = mx.nd.arange(20).reshape((5, 4)) / 20
LABELS = mx.nd.array([0, 1, 2, 1, 0])


def make_net(mode='eager', contexts=(mx.cpu(),)):
    mx.random.seed(1)
    net = nn.HybridSequential(prefix='net_')
    with net.name_scope():
        net.add(BayesDense(8, in_units=4, activation='relu', prior=GaussianPrior()),
                BayesDense(3, in_units=8, prior=GaussianPrior()))
    net.initialize(mx.init.Normal(0.3), ctx=list(contexts))
    if MODES[mode] is not None:
        net.hybridize(**MODES[mode])
    return net


def step(net, loss_fn, data, labels, seed):
    mx.random.seed(seed)
    with autograd.record():
        loss = loss_fn(net(data), labels)
    loss.backward()
    return [loss.asnumpy()] + [param.grad().asnumpy() for param in net.collect_params().values()]


def test_computed_on():
    for memory in MEMORIES + [mx.cpu_pinned(1), mx.cpu(1)]:
        assert computed_on(memory) == (mx.nd.ones((1,), ctx=memory) * 2).context
    assert computed_on(mx.gpu(3)) == mx.gpu(3)


def test_moved_to():
    array = mx.nd.ones((2,), ctx=mx.cpu_pinned(0))
    moved = moved_to(mx.cpu(0), [array, (DATA, 'text', None)])
    assert moved[0].context == mx.cpu(0) and moved[1][0] is DATA and moved[1][1:] == ('text', None)
    assert moved_to(mx.gpu(0), array) is array      # MXNet then refuses it


@pytest.mark.parametrize('memory', MEMORIES, ids=str)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('which', ['data', 'labels', 'both'])
def test_training_and_validation(which, mode, memory):
    net = make_net(mode)
    loss_fn = BBBLoss(net, num_train=50)
    data = DATA if which == 'labels' else DATA.as_in_context(memory)
    labels = LABELS if which == 'data' else LABELS.as_in_context(memory)
    for seed in (1, 2, 3):
        expected = step(net, loss_fn, DATA, LABELS, seed)
        for value, other in zip(step(net, loss_fn, data, labels, seed), expected):
            assert np.array_equal(value, other)
    assert np.array_equal(loss_fn(net(data), labels).asnumpy(), loss_fn(net(DATA), LABELS).asnumpy())
    weights = mx.nd.array([1, 0, 2, 1, 3])
    weighted = loss_fn(net(DATA), LABELS, weights).asnumpy()
    assert np.array_equal(loss_fn(net(data), labels, weights.as_in_context(memory)).asnumpy(), weighted)


def test_data_loader_with_a_worker():
    """The usual loop over a DataLoader, whose workers hand over arrays in shared memory."""
    net = make_net('hybrid')
    loss_fn = BBBLoss(net, num_train=5)
    nll = metrics.NLL(loss_fn)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(DATA.asnumpy(), LABELS.asnumpy()), batch_size=3,
                                   num_workers=1)
    seen = 0
    for data, labels in loader:
        assert data.context.device_type == 'cpu_shared'
        with autograd.record():
            output = net(data)
            loss = loss_fn(output, labels)
        loss.backward()
        trainer.step(len(data))
        nll.update(labels, output)
        seen += len(data)
    assert seen == 5 and np.isfinite(nll.get()[1])
    assert predict(net, loader, num_samples=2, progress=False).shape == (2, 5, 3)


@pytest.mark.parametrize('memory', MEMORIES, ids=str)
@pytest.mark.parametrize('mode', MODES)
def test_abandoned_forward_leaves_no_terms(mode, memory):
    """The KL terms of a forward whose result was dropped must not be taken for those of the one in predict mode."""
    net = make_net(mode)
    loss_fn = BBBLoss(net, num_train=50)
    for data in (DATA, DATA.as_in_context(memory)):
        with autograd.record():
            net(data)
        output = net(data)
        with autograd.record(), pytest.raises(RuntimeError, match='no KL terms on cpu'):
            loss_fn(output, LABELS)


def test_metrics_of_an_output_in_pinned_memory():
    net = make_net()
    loss_fn = BBBLoss(net, num_train=50)
    output = net(DATA).as_in_context(mx.cpu_pinned(0))
    loss = loss_fn(output, LABELS)
    elbo = metrics.ELBO(loss_fn)
    elbo.update(LABELS, output)
    assert elbo.get()[1] == pytest.approx(-float(loss.mean().asscalar()), rel=1e-5)


def test_each_cpu_has_its_memory():
    """Pinned memory of cpu(1) goes with the Parameters on cpu(1)."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = make_net('hybrid', contexts)
    loss_fn = BBBLoss(net, num_train=50)
    with autograd.record():
        losses = [loss_fn(net(DATA.as_in_context(mx.cpu_pinned(i))), LABELS.as_in_context(mx.cpu_pinned(i)))
                  for i in range(2)]
    autograd.backward(losses)
    assert [loss.context for loss in losses] == contexts
    for param in net.collect_params().values():
        assert all(grad.abs().sum().asscalar() > 0 for grad in param.list_grad())


@pytest.mark.parametrize('memory', MEMORIES, ids=str)
def test_monte_carlo(memory):
    net = make_net('hybrid')
    block = MonteCarlo(net, num_samples=3)
    results = []
    for data in (DATA, DATA.as_in_context(memory)):
        mx.random.seed(5)
        results.append(block(data).asnumpy())
    assert np.array_equal(*results)
