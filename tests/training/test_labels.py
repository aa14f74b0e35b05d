# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labels of classes: those that are ignored, those that are no class, and shapes that only look right."""
import re

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd
from mxnet.gluon import nn

from bbb_layers import BayesDense, BBBLoss, CategoricalNLLLoss, GaussianPrior


def make_net(mode, positions=False):
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=4, flatten=not positions, prior=GaussianPrior(), initial_sigma=1e-6))
    net.initialize(mx.init.Normal(1.))
    return hybridize(net, mode)


def loss_and_gradient(net, loss_fn, data, label, *weight):
    with autograd.record():
        loss = loss_fn(net(data), label, *weight)
    loss.backward()
    return loss.asnumpy(), net[0].weight.grad().asnumpy()


@pytest.mark.parametrize('ignored, dtype', [(-1, 'float32'), (-1, 'int32'), (255, 'uint8'), (7, 'float64'),
                                            (1, 'float32'), (0, 'float32')])
def test_ignore_label(ignored, dtype, mode):
    """Ignored positions add nothing to the loss and have no gradient: as if their sample_weight were 0."""
    net = make_net(mode, positions=True)
    data = mx.nd.random.normal(shape=(2, 5, 4))
    classes = np.array([[0, 1, 2, 1, 0], [2, 2, 0, 1, 1]])
    skipped = np.array([[0, 1, 0, 0, 1], [1, 1, 1, 1, 1]], bool) if ignored not in (0, 1) else classes == ignored
    label = mx.nd.array(np.where(skipped, ignored, classes), dtype=dtype)
    loss_fn = BBBLoss(net, num_train=1e9, likelihood=CategoricalNLLLoss(ignore_label=ignored))
    expected_fn = BBBLoss(net, num_train=1e9)
    weight = mx.nd.array(~skipped).expand_dims(axis=-1)
    for _ in range(3):
        expected = loss_and_gradient(net, expected_fn, data, mx.nd.array(classes), weight)
        values = loss_and_gradient(net, loss_fn, data, label)
        for value, other in zip(values, expected):
            assert np.allclose(value, other, rtol=1e-3, atol=1e-4)
    if ignored not in (0, 1):
        assert loss_fn.nll.asnumpy()[1] == 0
    assert np.isfinite(loss_fn(net(data), label).asnumpy()).all()


@pytest.mark.parametrize('wrong', [-1., 3., 1.5, float('nan'), 1e9])
def test_labels_outside_the_classes(wrong, mode):
    """They raise in predict mode; in train mode the example's loss is infinite, its gradient 0, and check_finite
    raises."""
    net = make_net(mode)
    loss_fn = BBBLoss(net, num_train=1e9)
    data, label = mx.nd.random.normal(shape=(3, 4)), mx.nd.array([0, wrong, 2])
    for _ in range(3):
        loss, gradient = loss_and_gradient(net, loss_fn, data, label)
        assert np.isinf(loss[1]) and np.isfinite(loss[[0, 2]]).all()
        expected = loss_and_gradient(net, loss_fn, data, mx.nd.array([0, 1, 2]), mx.nd.array([1, 0, 1]))
        assert np.allclose(loss[[0, 2]], expected[0][[0, 2]], rtol=1e-3)
        assert np.allclose(gradient, expected[1], atol=1e-3)
    loss_fn.check_finite()      # the last call had weight 0 there
    loss_and_gradient(net, loss_fn, data, label)
    with pytest.raises(FloatingPointError, match='NLL.*labels that are no class'):
        loss_fn.check_finite()
    with pytest.warns(RuntimeWarning, match='not finite in call'):
        saw = re.escape(f'(saw: {wrong!r})')
        with pytest.raises(ValueError, match=f'label must be whole numbers from 0 to 2; give ignore_label .*{saw}'):
            loss_fn(net(data), label)
    with pytest.raises(ValueError, match='label must be whole numbers'):
        CategoricalNLLLoss()(net(data), label)
    # With weight 0 a label can be anything, as in a mask.
    for weight in (mx.nd.array([1, 0, 1]), mx.nd.array([[1], [0], [1]])):
        assert np.isfinite(loss_fn(net(data), label, weight).asnumpy()).all()
    loss, gradient = loss_and_gradient(net, loss_fn, data, label, mx.nd.array([1, 0, 1]))
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize('training', [True, False])
def test_shapes_of_labels_and_masks(training, mode):
    """Shapes that users are likely to give raise an error that says which shape is right."""
    net = make_net(mode, positions=True)
    loss_fn = BBBLoss(net, num_train=10)
    data = mx.nd.random.normal(shape=(2, 5, 4))
    label = mx.nd.zeros((2, 5))

    def call(label, *weight):
        if not training:
            return loss_fn(net(data), label, *weight)
        with autograd.record():
            return loss_fn(net(data), label, *weight)

    with pytest.raises(ValueError, match=r'label must be class indices in the shape \(2, 5\).*saw: shape \(2, 5, 3\); '
                                         r'of one-hot labels, take label.argmax\(axis=-1\)'):
        call(label.one_hot(3))
    with pytest.raises(ValueError, match=r'label must be class indices in the shape \(2, 5\).*saw: shape \(5, 2\)\)'):
        call(label.T)
    with pytest.raises(ValueError, match=r'sample_weight must have the shape \(2, 5, 1\).*saw: shape \(2, 5\); take '
                                         r'sample_weight.expand_dims\(axis=-1\)'):
        call(label, mx.nd.ones((2, 5)))
    assert call(label, mx.nd.ones((2, 5, 1))).shape == (2,)
    assert call(label.expand_dims(axis=-1)).shape == (2,)


def test_axis_of_classes():
    """With the classes on another axis, the shapes and the number of classes follow it."""
    pred = mx.nd.random.normal(shape=(2, 3, 5))
    likelihood = CategoricalNLLLoss(axis=1)
    label = mx.nd.array([[0, 1, 2, 2, 1], [2, 0, 0, 1, 2]])
    expected = CategoricalNLLLoss()(pred.transpose((0, 2, 1)), label)
    assert np.allclose(likelihood(pred, label).asnumpy(), expected.asnumpy(), rtol=1e-5)
    with pytest.raises(ValueError, match='from 0 to 2'):
        likelihood(pred, label + 1)
    with pytest.raises(ValueError, match=r'sample_weight must have the shape \(2, 1, 5\)'):
        likelihood(pred, label, mx.nd.ones((2, 5)))
    with pytest.raises(ValueError, match=r'in the shape \(2, 3\).*saw: shape \(2, 5\); if the classes are at axis 1 of '
                                         r'pred, give axis=1\)'):
        CategoricalNLLLoss()(pred, label)


@pytest.mark.parametrize('value, error', [('a', TypeError), (float('nan'), ValueError), (float('inf'), ValueError),
                                          (True, TypeError)])
def test_ignore_label_must_be_a_number(value, error):
    with pytest.raises(error, match='ignore_label must be'):
        CategoricalNLLLoss(ignore_label=value)


def test_only_predict_mode_looks_at_the_labels():
    """In train mode the label may not be computed yet, recorded or not; in predict mode it is looked at."""
    pred, label = mx.nd.zeros((2, 3)), mx.nd.array([0, 3])
    likelihood = CategoricalNLLLoss()
    for scope in (autograd.train_mode(), autograd.record()):
        with scope:
            assert np.isinf(likelihood(pred, label).asnumpy()[1])
    with autograd.record(train_mode=False), pytest.raises(ValueError, match='label must be whole numbers'):
        likelihood(pred, label)


def test_weights_per_example_on_another_batch_axis():
    net = BayesDense(3, in_units=4, flatten=False, prior=GaussianPrior(), initial_sigma=1e-6)
    net.initialize(mx.init.Normal(1.))
    data, label = mx.nd.random.normal(shape=(5, 2, 4)), mx.nd.zeros((5, 2))
    loss_fn = BBBLoss(net, num_train=1e9, batch_axis=1)
    single = loss_fn(net(data), label).asnumpy()
    weighted = loss_fn(net(data), label, mx.nd.array([2., 0.5])).asnumpy()
    assert np.allclose(weighted, single * [2., 0.5], rtol=1e-4)


def test_negative_weights():
    """Only a weight of 0 takes a position out."""
    pred, label = mx.nd.random.normal(shape=(2, 3)), mx.nd.array([0, 1])
    likelihood = CategoricalNLLLoss()
    expected = likelihood(pred, label).asnumpy() * [-1, 2]
    assert np.allclose(likelihood(pred, label, mx.nd.array([[-1], [2]])).asnumpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_many_classes(dtype):
    """float16 has not all whole numbers beyond 2048, and label 2049 is a class none the less."""
    pred, labels = mx.nd.random.normal(shape=(3, 5000)).astype(dtype), [4099, 2049, 7]
    logits = pred.asnumpy().astype('float64')
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[range(3), labels]
    for scope in (autograd.train_mode(), autograd.predict_mode()):
        with scope:
            nll = CategoricalNLLLoss()(pred, mx.nd.array(labels)).asnumpy()
        # MXNet sums the exponentials of float16 numbers in float16.
        assert np.allclose(nll, expected, rtol=0.05 if dtype == 'float16' else 1e-4)
