# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import numpy as np
import pytest
from conftest import hybridize
from mxnet import gluon, nd
from scipy import special

from bbb_layers import CategoricalNLLLoss


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
