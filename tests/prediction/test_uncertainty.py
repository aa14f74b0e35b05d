# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from scipy import special, stats

from bbb_layers.prediction.parts import credible_interval, gaussian_uncertainty, uncertainty

NAN, INF = float('nan'), float('inf')


def draw_probs(*shape):
    return special.softmax(2 * np.random.normal(size=shape), axis=-1)


@pytest.mark.parametrize('shape', [(7, 5, 4), (1, 5, 4), (3, 1, 2), (6, 5, 3, 4)])
def test_classification_against_scipy(shape):
    probs = draw_probs(*shape)
    result = uncertainty(probs)
    np.testing.assert_allclose(result.mean, probs.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.total, stats.entropy(probs.mean(axis=0), axis=-1), rtol=1e-12)
    np.testing.assert_allclose(result.aleatoric, stats.entropy(probs, axis=-1).mean(axis=0), rtol=1e-12)
    # The mutual information, from its other definition
    divergence = stats.entropy(probs, np.broadcast_to(probs.mean(axis=0), shape), axis=-1).mean(axis=0)
    np.testing.assert_allclose(result.epistemic, divergence, rtol=1e-10, atol=1e-14)
    assert result.mean.shape == shape[1:] and result.epistemic.shape == shape[1:-1]


def test_certain_and_uncertain_draws():
    one, other, even = [1., 0.], [0., 1.], [0.5, 0.5]
    result = uncertainty(np.array([[one, one, even], [one, other, even]]))
    np.testing.assert_allclose(result.total, [0, np.log(2), np.log(2)])
    np.testing.assert_allclose(result.aleatoric, [0, 0, np.log(2)])
    np.testing.assert_allclose(result.epistemic, [0, np.log(2), 0])


def test_nothing_is_below_zero():
    """float32 probabilities can be more than 1, and equal draws differ from their mean by rounding."""
    above = np.full((3, 1, 2), [1 + 2e-7, 0.], np.float32)
    assert above[0, 0, 0] > 1 and uncertainty(above).total == 0 and uncertainty(above).aleatoric == 0
    equal = np.repeat(draw_probs(1, 500, 10), 7, axis=0)
    difference = stats.entropy(equal.mean(axis=0), axis=-1) - stats.entropy(equal, axis=-1).mean(axis=0)
    assert difference.min() < 0 <= uncertainty(equal).epistemic.min()


def test_computed_in_float64():
    """In float32 the small difference of two entropies would be rounding."""
    probs = (np.array([0.3, 0.7]) + np.array([1e-4, -1e-4]) * np.array([1, -1]).reshape((2, 1, 1))).astype(np.float32)
    exact = uncertainty(probs.astype(np.float64)).epistemic
    np.testing.assert_allclose(exact, 1e-8 / (2 * 0.3 * 0.7), rtol=1e-3)
    np.testing.assert_allclose(uncertainty(probs).epistemic, exact, rtol=1e-6)


@pytest.mark.parametrize('shape', [(7, 5), (1, 5), (7, 5, 3)])
def test_regression(shape):
    mean, variance = np.random.normal(size=shape), np.random.uniform(0.1, 2., size=shape)
    result = gaussian_uncertainty(mean, variance)
    assert result.mean.shape == shape[1:]
    np.testing.assert_allclose(result.mean, mean.mean(axis=0))
    np.testing.assert_allclose(result.aleatoric, variance.mean(axis=0))
    # The second moment of the mixture of the draws, less the square of its mean
    np.testing.assert_allclose(result.total, (variance + mean ** 2).mean(axis=0) - mean.mean(axis=0) ** 2, rtol=1e-10)
    np.testing.assert_allclose(result.epistemic, result.total - result.aleatoric, atol=1e-12)


def test_total_variance_is_that_of_the_target():
    mean, variance = np.array([[-1.], [0.], [4.]]), np.array([[0.5], [2.], [0.]])
    chosen = np.random.randint(0, 3, size=200000)
    y = np.random.normal(mean[chosen], np.sqrt(variance[chosen]))
    np.testing.assert_allclose(gaussian_uncertainty(mean, variance).total, y.var(), rtol=0.02)


def test_known_noise():
    mean = np.random.normal(size=(7, 5, 3))
    for got, exact in zip(gaussian_uncertainty(mean, 0.25), gaussian_uncertainty(mean, np.full((7, 5, 3), 0.25))):
        np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize('shape', [(100, 4), (100,), (1, 3), (11, 2, 3)])
@pytest.mark.parametrize('level', [0.5, 0.95])
def test_interval(shape, level):
    draws = np.random.normal(size=shape)
    lower, upper = credible_interval(draws, level)
    assert lower.shape == shape[1:] == upper.shape
    for end, percent in ((lower, 50 * (1 - level)), (upper, 50 * (1 + level))):
        np.testing.assert_allclose(end, np.percentile(draws, percent, axis=0), rtol=1e-10)


def test_interval_by_hand():
    lower, upper = credible_interval(np.random.permutation(101), level=0.9)
    np.testing.assert_allclose([lower, upper], [5, 95])
    assert credible_interval(np.random.permutation(1001)).upper == pytest.approx(975)


CALLS = [
    lambda array: uncertainty(array(special.softmax(np.arange(24.).reshape((2, 3, 4)), axis=-1))),
    lambda array: gaussian_uncertainty(array(np.arange(6.).reshape((2, 3))), array(np.ones((2, 3)))),
    lambda array: gaussian_uncertainty(array(np.arange(6.).reshape((2, 3))), 2.),
    lambda array: credible_interval(array(np.arange(6.).reshape((2, 3)))),
    lambda array: credible_interval(array(np.arange(6.))),
]


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_kind_of_array_dtype_and_context(call, dtype):
    ctx = mx.cpu(1)
    host = call(lambda values: values.astype(dtype))
    there = call(lambda values: nd.array(values, ctx=ctx, dtype=dtype))
    assert type(host) is type(there)
    for field, on_host, on_device in zip(host._fields, host, there):
        assert type(on_host) is np.ndarray, field
        assert on_host.dtype == np.dtype(dtype) == np.dtype(on_device.dtype), field
        assert type(on_device) is nd.NDArray and on_device.context == ctx, field
        np.testing.assert_array_equal(on_device.asnumpy(), np.atleast_1d(on_host), err_msg=field)


def test_integers_give_float64():
    assert uncertainty(np.array([[[1, 0]], [[0, 1]]])).mean.tolist() == [[0.5, 0.5]]
    lower = credible_interval(nd.array([[1], [2]], dtype='int32'), 0.5).lower
    assert lower.dtype == np.float64 and lower.asscalar() == 1.25


def test_arguments_are_not_changed():
    probs = draw_probs(3, 4, 2)
    before = probs.copy()
    uncertainty(probs)
    gaussian_uncertainty(probs, probs)
    credible_interval(probs)
    np.testing.assert_array_equal(probs, before)


@pytest.mark.parametrize('num_classes', [2, 1000, 100000])
def test_softmax_in_float32_passes(num_classes):
    logits = nd.random.normal(scale=3, shape=(2, 3, num_classes))
    total = uncertainty(nd.softmax(logits)).total.asnumpy()
    exact = uncertainty(special.softmax(logits.asnumpy().astype(np.float64), axis=-1)).total
    np.testing.assert_allclose(total, exact, rtol=1e-4)


GOOD = np.full((2, 3, 4), 0.25)


def changed(value, array=GOOD):
    array = array.copy()
    array.flat[5] = value
    return array


@pytest.mark.parametrize('call,message', [
    (lambda: uncertainty(GOOD[0]), r'probs must have the shape \(num_samples, batch_size, ..., classes\).*\(3, 4\)'),
    (lambda: uncertainty(GOOD[:0]), r'probs must .* not be empty \(saw: shape \(0, 3, 4\)\)'),
    (lambda: uncertainty(GOOD[..., :0]), r'probs must .* not be empty'),
    (lambda: uncertainty(changed(NAN)), r'probs must not be NaN \(saw: 1 of 24 values\)'),
    (lambda: uncertainty(nd.array(changed(NAN))), 'probs must not be NaN'),
    (lambda: uncertainty(changed(-0.25)), r'probs must be probabilities, not logits: at least 0 \(saw: -0.25\)'),
    (lambda: uncertainty(changed(0.5)), r'probs must be probabilities, not logits: with sum 1 .*\(saw: 1.25\)'),
    (lambda: uncertainty(changed(0.252)), 'with sum 1'),
    (lambda: uncertainty(changed(INF)), r'with sum 1 .*\(saw: inf\)'),
    (lambda: gaussian_uncertainty(np.ones(3), 1.), r'mean must have the shape \(num_samples, batch_size, ...\)'),
    (lambda: gaussian_uncertainty(GOOD[:, :0], 1.), 'mean must .* not be empty'),
    (lambda: gaussian_uncertainty(changed(NAN), 1.), 'mean must not be NaN'),
    (lambda: gaussian_uncertainty(changed(INF), 1.), r'mean must be finite \(saw: inf\)'),
    (lambda: gaussian_uncertainty(GOOD, 0), r'variance must be positive and finite \(saw: 0'),
    (lambda: gaussian_uncertainty(GOOD, -1.), 'variance must be positive'),
    (lambda: gaussian_uncertainty(GOOD, INF), 'variance must be positive and finite'),
    (lambda: gaussian_uncertainty(GOOD, GOOD[0]), r'variance must be a number or .* \(2, 3, 4\) \(saw: shape \(3, 4\)'),
    (lambda: gaussian_uncertainty(GOOD, changed(-1.)), r'variance must be at least 0 \(saw: -1.0\)'),
    (lambda: gaussian_uncertainty(GOOD, changed(NAN)), 'variance must not be NaN'),
    (lambda: gaussian_uncertainty(GOOD, changed(INF)), 'variance must be finite'),
    (lambda: credible_interval(np.array(1.)), r'draws must have the shape \(num_samples, ...\).*\(saw: shape \(\)\)'),
    (lambda: credible_interval(np.ones((0, 2))), 'draws must .* not be empty'),
    (lambda: credible_interval(changed(NAN)), 'draws must not be NaN'),
    (lambda: credible_interval(changed(-INF)), r'draws must be finite \(saw: -inf\)'),
    (lambda: credible_interval(GOOD, 0), r'level must be between 0 and 1, both excluded \(saw: 0'),
    (lambda: credible_interval(GOOD, 1), 'level must be between'),
    (lambda: credible_interval(GOOD, 95), 'level must be between'),
    (lambda: credible_interval(GOOD, NAN), 'level must be between'),
])
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize('call,message', [
    (lambda: uncertainty([nd.array(GOOD[0]), nd.array(GOOD[1])]), 'probs must be an NDArray or a numpy array.*list'),
    (lambda: uncertainty(GOOD.astype(str)), 'probs must be .* of numbers'),
    (lambda: gaussian_uncertainty(1., 1.), 'mean must be an NDArray'),
    (lambda: gaussian_uncertainty(GOOD, None), r'variance must be a number \(saw: None\)'),
    (lambda: credible_interval(GOOD, '0.9'), 'level must be a number'),
])
def test_bad_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize('classes', [10, 100, 1000])
def test_float16_softmax_is_taken(classes):
    logits = nd.random.normal(shape=(5, 20, classes))
    half = uncertainty(logits.astype('float16').softmax())
    np.testing.assert_allclose(half.total.asnumpy(), uncertainty(logits.softmax()).total.asnumpy(), rtol=2e-2)
