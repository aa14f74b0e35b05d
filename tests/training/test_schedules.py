# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon.contrib.estimator import Estimator

from bbb_layers import BayesDense, BBBLoss, schedules


@pytest.mark.parametrize('num_batches', [1, 2, 3, 10, 60])
def test_blundell(num_batches):
    weight = schedules.blundell(num_batches)
    weights = [weight(step) for step in range(num_batches)]
    exact = [num_batches * 2. ** (num_batches - i) / (2. ** num_batches - 1) for i in range(1, num_batches + 1)]
    np.testing.assert_allclose(weights, exact, rtol=1e-12)
    assert [weight(step + 3 * num_batches) for step in range(num_batches)] == weights


def test_blundell_does_not_overflow():
    weight = schedules.blundell(10000)
    weights = [weight(step) for step in range(10000)]
    assert all(0 <= value < math.inf for value in weights) and weights[0] == 5000
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-12)


def test_linear():
    weight = schedules.linear(4)
    assert [weight(step) for step in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.linear(1)(0) == 0 and schedules.linear(10, start=0.5)(5) == 0.75


def test_cyclical():
    weight = schedules.cyclical(4, ramp=0.5)
    assert [weight(step) for step in range(9)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0]
    assert [schedules.cyclical(4, ramp=0)(step) for step in range(5)] == [1] * 5
    assert [schedules.cyclical(2, ramp=1)(step) for step in range(5)] == [0, 0.5, 0, 0.5, 0]


@pytest.mark.parametrize('build,message', [
    (lambda: schedules.blundell(0), 'num_batches must be at least 1'), (lambda: schedules.linear(0), 'num_steps'),
    (lambda: schedules.linear(5, start=1.5), 'start'), (lambda: schedules.cyclical(0), 'cycle'),
    (lambda: schedules.cyclical(5, ramp=-1), 'ramp'), (lambda: schedules.linear(5)(-1), 'step must be'),
    (lambda: schedules.blundell(5)(0.5), 'step must be'),
    (lambda: schedules.KLWeightHandler(abs, step=-1), 'step must be'),
])
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def estimator(loss, net):
    result = Estimator(net, loss, train_metrics=[mx.metric.Accuracy()], context=mx.cpu(),
                       trainer=gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.01}))
    result.logger.handlers = []
    return result


def test_handler_in_an_estimator():
    net = BayesDense(3, in_units=2)
    net.initialize()
    loss = BBBLoss(net, 10)
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(nd.ones((10, 2)), nd.zeros(10)), 4)
    seen = []

    def schedule(step):
        seen.append(step)
        return schedules.linear(100)(step)

    handler = schedules.KLWeightHandler(schedule)
    training = estimator(loss, net)
    training.fit(loader, val_data=loader, epochs=2, event_handlers=[handler])
    assert seen == list(range(6)) and loss.kl_weight == 0.05
    training.fit(loader, epochs=1, event_handlers=[handler])
    assert seen == list(range(9))


@pytest.mark.parametrize('given,first', [('argument', 0), ('attribute', 0), ('nothing', 3)])
def test_a_step_of_0_counts_where_it_is_given(tmp_path, given, first):
    """Catches a step of 0 that is taken for none: the schedule would go on from the states that were loaded."""
    net = BayesDense(3, in_units=2)
    net.initialize()
    training, path, seen = estimator(BBBLoss(net, 10), net), str(tmp_path / 'states'), []
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(nd.ones((10, 2)), nd.zeros(10)), 4)
    training.fit(loader, epochs=1, event_handlers=[schedules.KLWeightHandler(schedules.linear(5))])
    training.trainer.save_states(path)

    def schedule(step):
        seen.append(step)
        return 1.

    handler = schedules.KLWeightHandler(schedule, **({'step': 0} if given == 'argument' else {}))
    training.trainer.load_states(path)
    if given == 'attribute':
        handler.step = 0.
    training.fit(loader, epochs=1, event_handlers=[handler])
    assert seen == [first, first + 1, first + 2] and {type(step) for step in seen} == {int}


def test_handler_needs_a_bbb_loss():
    net = gluon.nn.Dense(3, in_units=2)
    net.initialize()
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(nd.ones((4, 2)), nd.zeros(4)), 4)
    with pytest.raises(TypeError, match='must be a BBBLoss'):
        estimator(gluon.loss.SoftmaxCrossEntropyLoss(), net).fit(
            loader, epochs=1, event_handlers=[schedules.KLWeightHandler(schedules.linear(5))])
    with pytest.raises(TypeError, match='schedule must be a callable'):
        schedules.KLWeightHandler(0.5)
