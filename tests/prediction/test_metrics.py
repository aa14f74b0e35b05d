# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon.contrib.estimator import Estimator
from scipy import special

from bbb_layers import BayesDense, BBBLoss
from bbb_layers.metrics import (ELBO, KL, NLL, BrierScore, ExpectedCalibrationError, MonteCarloNLL,
                                OutOfDistributionAUROC)
from bbb_layers.prediction.parts import uncertainty

NAN, INF = float('nan'), float('inf')
CLASS_METRICS = [ExpectedCalibrationError, BrierScore, MonteCarloNLL]
METRICS = CLASS_METRICS + [OutOfDistributionAUROC]
NAMES = {ExpectedCalibrationError: 'ece', BrierScore: 'brier', MonteCarloNLL: 'mc-nll',
         OutOfDistributionAUROC: 'ood-auroc'}


def examples(build, n=60, num_classes=4):
    """Labels and predictions that ``build`` takes."""
    if build is OutOfDistributionAUROC:
        # Rounded, for ties
        return np.random.randint(0, 2, size=n), np.random.normal(size=n).round(1)
    return np.random.randint(0, num_classes, size=n), random_probs(n, num_classes)


def random_probs(*shape):
    return special.softmax(2 * np.random.normal(size=shape), axis=-1)


def value(metric, labels, preds):
    metric.update(labels, preds)
    return metric.get()[1]


def slow_ece(labels, probs, num_bins):
    total = 0.
    for m in range(num_bins):
        confidences, hits = [], []
        for label, p in zip(labels, probs):
            if m / num_bins < max(p) <= (m + 1) / num_bins:
                confidences.append(max(p))
                hits.append(list(p).index(max(p)) == label)
        if hits:
            total += len(hits) / len(labels) * abs(sum(hits) / len(hits) - sum(confidences) / len(hits))
    return total


@pytest.mark.parametrize('num_bins', [1, 7, 15, 100])
@pytest.mark.parametrize('num_classes', [2, 10])
def test_ece_against_a_loop(num_bins, num_classes):
    labels, probs = np.random.randint(0, num_classes, size=300), random_probs(300, num_classes)
    exact = slow_ece(labels, probs, num_bins)
    assert value(ExpectedCalibrationError(num_bins), labels, probs) == pytest.approx(exact, abs=1e-12) and exact > 0.01


@pytest.mark.parametrize('num_bins', [2, 5, 10, 15, 49, 100])
def test_ece_bins_are_closed_on_the_right(num_bins):
    """Each edge is in the bin below it, the next larger number in the bin above; 0.55 * 100 would be above 55."""
    edges = np.arange(1, num_bins + 1) / num_bins
    edges = edges[edges >= 0.5]
    bins = num_bins - len(edges) + np.arange(len(edges))
    for confidence, exact in ((edges, bins), (np.nextafter(edges[:-1], 1), bins[:-1] + 1)):
        metric = ExpectedCalibrationError(num_bins)
        metric.update(np.zeros(len(confidence)), np.stack([confidence, 1 - confidence], axis=-1))
        np.testing.assert_array_equal(metric.reliability().count, np.bincount(exact, minlength=num_bins))


def test_ece_by_hand():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    metric = ExpectedCalibrationError(num_bins=4)
    # (0.5, 0.75]: confidence 0.65, both right; (0.75, 1]: confidence 0.85, one of two
    assert value(metric, np.array([0, 1, 1, 1]), probs) == pytest.approx(0.5 * 0.35 + 0.5 * 0.35)
    confidence, accuracy, count = metric.reliability()
    np.testing.assert_array_equal(count, [0, 0, 2, 2])
    np.testing.assert_allclose(confidence, [NAN, NAN, 0.65, 0.85])
    np.testing.assert_allclose(accuracy, [NAN, NAN, 1, 0.5])


def test_reliability_is_that_of_get():
    metric = ExpectedCalibrationError(num_bins=3)
    assert metric.reliability().count.tolist() == [0, 0, 0] and np.isnan(metric.reliability().accuracy).all()
    metric.update(*examples(ExpectedCalibrationError))
    assert metric.reliability().count.sum() == 60
    metric.reset_local()
    assert metric.reliability().count.sum() == 0
    metric.update(*examples(ExpectedCalibrationError, n=7))
    metric.reliability().count[:] = 9
    assert metric.reliability().count.sum() == 7


def test_brier_against_sklearn():
    sklearn = pytest.importorskip('sklearn.metrics')
    labels, probs = np.random.randint(0, 2, size=50), random_probs(50, 2)
    exact = sklearn.brier_score_loss(labels, probs[:, 1])
    assert value(BrierScore(), labels, probs) == pytest.approx(2 * exact, rel=1e-12)


def test_brier_multi_class():
    labels, probs = examples(BrierScore)
    exact = sum((p - (k == label)) ** 2 for label, row in zip(labels, probs) for k, p in enumerate(row)) / 60
    assert value(BrierScore(), labels, probs) == pytest.approx(exact, rel=1e-12)
    assert value(BrierScore(), np.array([1, 0]), np.array([[1., 0.], [0., 1.]])) == 2


@pytest.mark.parametrize('num_samples', [None, 1, 5])
def test_nll_against_sklearn(num_samples):
    sklearn = pytest.importorskip('sklearn.metrics')
    labels = np.random.randint(0, 4, size=50)
    logits = np.random.normal(size=(50, 4) if num_samples is None else (num_samples, 50, 4))
    probs = special.softmax(logits, axis=-1)
    exact = sklearn.log_loss(labels, probs if num_samples is None else probs.mean(axis=0), labels=range(4))
    assert value(MonteCarloNLL(), labels, probs) == pytest.approx(exact, rel=1e-10)
    assert value(MonteCarloNLL(logits=True), labels, logits) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize('build', [ExpectedCalibrationError, BrierScore])
def test_mean_of_the_draws_probabilities(build):
    labels, logits = np.random.randint(0, 4, size=50), 3 * np.random.normal(size=(5, 50, 4))
    probs = special.softmax(logits, axis=-1)
    exact = value(build(), labels, probs.mean(axis=0))
    assert value(build(), labels, probs) == pytest.approx(exact, rel=1e-10)
    assert value(build(logits=True), labels, logits) == pytest.approx(exact, rel=1e-10)
    # What a mean of the logits would give
    assert abs(value(build(logits=True), labels, logits.mean(axis=0)) - exact) > 1e-3


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('array', [nd.array, np.array])
def test_extreme_logits(dtype, array):
    labels, logits = array([1, 0, 1], dtype=dtype), array([[1e4, -1e4], [1e4, -1e4], [0., 0.]], dtype=dtype)
    assert value(MonteCarloNLL(logits=True), labels, logits) == pytest.approx((2e4 + np.log(2)) / 3, rel=1e-12)
    assert value(BrierScore(logits=True), labels, logits) == pytest.approx(2.5 / 3)
    # Confidence 1, once right and once wrong; confidence 0.5, wrong (the first of two equal ones is taken)
    assert value(ExpectedCalibrationError(logits=True), labels, logits) == pytest.approx((1 + 0.5) / 3)
    draws = array([[[1e4, -1e4]], [[1e4, 1e4 - 3e3]]], dtype=dtype)
    exact = 3e3 + np.log(2)         # The first draw's 20,000 nats add nothing.
    assert value(MonteCarloNLL(logits=True), array([1], dtype=dtype), draws) == pytest.approx(exact, rel=1e-12)


def test_probability_zero_is_infinite():
    certain = np.array([[1., 0.], [1., 0.]])
    assert value(MonteCarloNLL(), np.array([0, 1]), certain) == INF
    assert value(MonteCarloNLL(logits=True), np.array([0, 1]), np.array([[0., -INF], [0., -INF]])) == INF
    # Not where one draw allows for it
    draws = np.stack([certain, np.array([[1., 0.], [0.5, 0.5]])])
    assert value(MonteCarloNLL(), np.array([0, 1]), draws) == pytest.approx(0.5 * np.log(4))


def test_masked_classes():
    logits = np.array([[0., 1., -INF], [2., -INF, 0.]])
    exact = -np.mean([special.log_softmax([0., 1.])[1], special.log_softmax([2., 0.])[1]])
    assert value(MonteCarloNLL(logits=True), np.array([1, 2]), logits) == pytest.approx(exact)
    assert value(BrierScore(logits=True), np.array([1, 2]), logits) == pytest.approx(
        value(BrierScore(), np.array([1, 2]), special.softmax(logits, axis=-1)))


@pytest.mark.parametrize('decimals', [0, 1, 8])
def test_auroc_against_sklearn(decimals):
    sklearn = pytest.importorskip('sklearn.metrics')
    labels = np.random.randint(0, 2, size=200)
    scores = (np.random.normal(size=200) + labels).round(decimals)
    assert (len(np.unique(scores)) < 200) == (decimals < 8)
    exact = sklearn.roc_auc_score(labels, scores)
    assert value(OutOfDistributionAUROC(), labels, scores) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize('labels,scores,exact', [
    ([0, 0, 1, 1], [1, 2, 3, 4], 1), ([0, 0, 1, 1], [3, 4, 1, 2], 0), ([0, 1, 0, 1], [2, 2, 2, 2], 0.5),
    ([0, 1, 1], [1, 1, 2], 0.75), ([0, 0, 1, 1], [-INF, 0, 0, INF], 0.875)])
def test_auroc_by_hand(labels, scores, exact):
    assert value(OutOfDistributionAUROC(), np.array(labels), np.array(scores)) == exact


@pytest.mark.parametrize('label', [0, 1])
def test_auroc_of_one_kind_is_nan(label):
    metric = OutOfDistributionAUROC()
    assert np.isnan(value(metric, np.full(3, label), np.arange(3.)))
    metric.update(np.full(3, 1 - label), np.arange(3.))
    assert metric.get()[1] == 0.5


def test_auroc_of_the_uncertainty():
    """From draws to the metric: the draws disagree on the second half."""
    logits = 5 * np.eye(3)[np.zeros((8, 20), int)]
    logits[:, 10:] = 5 * np.eye(3)[np.random.randint(0, 3, size=(8, 10))]
    result = uncertainty(nd.softmax(nd.array(logits)))
    labels = nd.array([0] * 10 + [1] * 10)
    assert value(OutOfDistributionAUROC(), labels, result.epistemic) > 0.9
    assert value(OutOfDistributionAUROC(), labels, -result.epistemic) < 0.1


@pytest.mark.parametrize('build', METRICS)
@pytest.mark.parametrize('sizes', [[60], [1] * 60, [7, 30, 1, 22], [59, 1]])
def test_batches_do_not_matter(build, sizes):
    labels, preds = examples(build)
    exact = value(build(), labels, preds)
    parts = np.cumsum(sizes)[:-1]
    one_by_one = build()
    for label, pred in zip(np.split(labels, parts), np.split(preds, parts)):
        one_by_one.update(label, pred)
    as_list = value(build(), np.split(labels, parts), np.split(preds, parts))
    np.testing.assert_allclose([one_by_one.get()[1], as_list], exact, rtol=1e-12)


@pytest.mark.parametrize('build', [ExpectedCalibrationError, OutOfDistributionAUROC])
def test_not_a_mean_of_batches(build):
    """The examples above are such that a mean of batches' values would fail."""
    labels, preds = examples(build)
    halves = [value(build(), labels[part], preds[part]) for part in (slice(30), slice(30, 60))]
    assert abs(np.mean(halves) - value(build(), labels, preds)) > 1e-4


@pytest.mark.parametrize('build', METRICS)
def test_kinds_and_shapes_of_arrays(build):
    labels, preds = examples(build)
    preds = preds.astype(np.float32)
    exact = value(build(), labels, preds)
    for label in (nd.array(labels), nd.array(labels, dtype='int32'), labels.astype(np.float32), labels.reshape(60, 1),
                  nd.array(labels).reshape((60, 1)), labels.astype(np.uint8), [nd.array(labels)]):
        for pred in (preds, nd.array(preds), [preds], (nd.array(preds),)):
            assert value(build(), label, pred) == exact
    if build is OutOfDistributionAUROC:
        assert value(build(), labels, preds.reshape((60, 1))) == value(build(), labels.reshape(60, 1), preds) == exact
    else:
        draws = np.stack([preds] * 60)
        # As many draws as examples, and labels that have an axis more
        assert value(build(), labels.reshape((60, 1)), draws) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize('build', CLASS_METRICS)
def test_positions(build):
    labels, probs = np.random.randint(0, 4, size=(6, 5)), random_probs(3, 6, 5, 4)
    exact = value(build(), labels.ravel(), probs.reshape((3, 30, 4)))
    assert value(build(), labels, probs) == exact
    assert value(build(), labels, probs[0]) == value(build(), labels.ravel(), probs[0].reshape((30, 4)))
    assert value(build(), labels[:, :1], probs[0, :, :1]) == value(build(), labels[:, 0], probs[0, :, 0])


@pytest.mark.parametrize('build', CLASS_METRICS)
@pytest.mark.parametrize('logits', [False, True])
def test_computed_in_float64(build, logits):
    """float32 predictions are the same numbers in float64: so is the metric, batch by batch."""
    labels, preds = examples(build, n=3000)
    preds = (np.log(preds) if logits else preds).astype(np.float32)
    exact = value(build(logits=logits), labels, preds.astype(np.float64))
    for array in (np.array, nd.array):
        batches = [array(labels[i:i + 10], dtype='float32') for i in range(0, 3000, 10)], [
            array(preds[i:i + 10], dtype='float32') for i in range(0, 3000, 10)]
        assert value(build(logits=logits), *batches) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize('build', METRICS)
def test_local_and_global(build):
    metric = build()
    first, second = examples(build), examples(build, n=31)
    assert metric.get()[0] == NAMES[build]
    assert np.isnan(metric.get()[1]) and np.isnan(metric.get_global()[1])
    metric.update(*first)
    assert metric.get() == metric.get_global() == (NAMES[build], value(build(), *first))
    assert type(metric.get()[1]) is float
    metric.reset_local()
    assert np.isnan(metric.get()[1]) and metric.get_global()[1] == value(build(), *first)
    metric.update(*second)
    assert metric.get()[1] == value(build(), *second)
    both = value(build(), *zip(first, second))
    assert metric.get_global()[1] == pytest.approx(both, rel=1e-12) != metric.get()[1]
    assert metric.get_name_value() == [metric.get()] and metric.get_global_name_value() == [metric.get_global()]
    metric.reset()
    assert np.isnan(metric.get()[1]) and np.isnan(metric.get_global()[1])
    metric.update(*second)
    assert metric.get()[1] == metric.get_global()[1] == value(build(), *second)


@pytest.mark.parametrize('build', METRICS)
def test_empty_lists(build):
    metric = build()
    for other in (mx.metric.Accuracy(), metric):
        other.update([], [])
        assert other.num_inst == 0 and np.isnan(other.get()[1])
    exact = value(metric, *examples(build))
    metric.update([], [])
    assert metric.get()[1] == exact


@pytest.mark.parametrize('build', METRICS)
def test_create_and_config(build):
    for name in (build.__name__, build.__name__.lower(), NAMES[build]):
        assert type(mx.metric.create(name)) is build
    kwargs = {} if build is OutOfDistributionAUROC else {'logits': True}
    if build is ExpectedCalibrationError:
        kwargs['num_bins'] = 3
    kwargs.update(name='other', output_names=['a'], label_names=['b'])
    config = mx.metric.create(NAMES[build], **kwargs).get_config()
    assert config == dict(kwargs, metric=build.__name__)
    for again in (mx.metric.create(config), mx.metric.create(json.dumps(config))):
        assert again.get_config() == config
        assert all(getattr(again, key) == setting for key, setting in kwargs.items())


@pytest.mark.parametrize('build', METRICS)
def test_update_dict(build):
    labels, preds = examples(build)
    metric = build(output_names=['out'], label_names=['y'])
    metric.update_dict({'x': None, 'y': nd.array(labels)}, {'hidden': None, 'out': nd.array(preds)})
    assert metric.get()[1] == value(build(), nd.array(labels), nd.array(preds))


@pytest.mark.parametrize('build', METRICS)
def test_deepcopy_is_independent(build):
    metric = build()
    exact = value(metric, *examples(build))
    other = copy.deepcopy(metric)
    assert other.get() == metric.get()
    other.update(*examples(build, n=9))
    assert metric.get()[1] == metric.get_global()[1] == exact != other.get()[1]


@pytest.mark.parametrize('build', [NLL, KL, ELBO])
@pytest.mark.parametrize('copy_first', [False, True])
def test_deepcopy_of_a_metric_of_the_loss_is_independent(build, copy_first):
    """Catches a copy that shares with its original which calls of the loss were seen: the second update would raise."""
    net = BayesDense(3, in_units=2)
    net.initialize()
    loss, data, label = BBBLoss(net, 10), nd.ones((4, 2)), nd.zeros(4)
    metric = build(loss)
    loss(net(data), label)
    metric.update(label, net(data))
    twin = copy.deepcopy(metric)
    both = [twin, metric] if copy_first else [metric, twin]
    for count in (8, 12):
        loss(net(data), label)
        for each in both:
            each.update(label, net(data))
            assert each.num_inst == count
            with pytest.raises(RuntimeError, match='no new call'):
                each.update(label, net(data))
    assert twin.get() == metric.get()


def test_composite():
    labels, probs = examples(BrierScore)
    labels, probs = [nd.array(labels)], [nd.array(probs)]
    composite = mx.metric.CompositeEvalMetric(['acc', 'ece', BrierScore(), MonteCarloNLL()])
    composite.update(labels, probs)
    names, values = composite.get()
    assert names == ['accuracy', 'ece', 'brier', 'mc-nll']
    assert values == [value(build(), labels, probs) for build in [mx.metric.Accuracy] + CLASS_METRICS]
    composite.reset_local()
    assert np.isnan(composite.get()[1]).all() and composite.get_global() == (names, values)
    composite.reset()
    assert np.isnan(composite.get_global()[1]).all()


def test_estimator():
    net = BayesDense(3, in_units=2)
    net.initialize()
    data, label = nd.random.normal(shape=(10, 2)), nd.array(np.random.randint(0, 3, size=10))
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(data, label), 4)
    metrics = [build(logits=True) for build in CLASS_METRICS]
    estimator = Estimator(net, BBBLoss(net, 10), train_metrics=metrics, context=mx.cpu(),
                          trainer=gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.01}))
    estimator.logger.handlers = []
    for _ in range(2):
        estimator.evaluate(loader)
        for metric, build in zip(estimator.val_metrics, CLASS_METRICS):
            exact = value(build(logits=True), label, net(data))
            assert metric.get() == ('validation ' + NAMES[build], pytest.approx(exact, rel=1e-5))
        assert all(np.isnan(metric.get()[1]) for metric in metrics)
    estimator.fit(loader, epochs=1)
    assert all(metric.num_inst == 10 and np.isfinite(metric.get()[1]) for metric in metrics)


LABELS, PROBS = np.array([0, 1, 2]), np.full((3, 4), 0.25)


def changed(array, new):
    array = array.astype(np.float64)
    array.flat[1] = new
    return array


BAD_LABELS = [
    (changed(LABELS, -1), r'labels must be whole numbers from 0 to \d \(saw: -1.0\)'),
    (changed(LABELS, 4), r'labels must be whole numbers from 0 to \d \(saw: 4.0\)'),
    (changed(LABELS, 0.5), r'labels must be whole numbers from 0 to \d \(saw: 0.5\)'),
    (changed(LABELS, INF), r'labels must be whole numbers from 0 to \d \(saw: inf\)'),
    (changed(LABELS, NAN), 'labels must not be NaN'),
    (LABELS[:2], r'preds must .*\(2,\).*\(saw: shape \(3'), (LABELS[:0], 'labels must .* not be empty'),
    (LABELS[:1], r'preds must .*\(1,\).*\(saw: shape \(3'),
    ([LABELS, LABELS], r'preds must be as many arrays as labels, 2 \(saw: 1\)'),
    ([], r'preds must be as many arrays as labels, 0 \(saw: 1\)'),
]
BAD_PROBS = [
    (changed(PROBS, NAN), 'preds must not be NaN'), (changed(PROBS, INF), 'preds must be probabilities'),
    (changed(PROBS, -0.25), 'preds must be probabilities, not logits'),
    (changed(PROBS, 0.5), r'preds must be probabilities, not logits: with sum 1 .*\(saw: 1.25\)'),
    (PROBS[0], r'preds must have the shape \(..., batch_size, classes\)'), (PROBS[:0], 'preds must .* not be empty'),
    (PROBS[:2], r'preds must have the shape of labels, \(3,\).*\(saw: shape \(2, 4\)\)'),
    (np.stack([PROBS[:2]] * 3), r'preds must have the shape of labels.*\(saw: shape \(3, 2, 4\)\)'),
    (np.stack([[PROBS] * 2] * 2), r'preds must have the shape of labels.*\(saw: shape \(2, 2, 3, 4\)\)'),
    ([PROBS, PROBS], r'preds must be as many arrays as labels, 1 \(saw: 2\)'),
]
BAD_LOGITS = [
    (changed(PROBS, NAN), 'preds must not be NaN'), (changed(PROBS, INF), r'preds must be logits .*\(saw: inf\)'),
    (np.full((3, 4), -INF), r'preds must be logits .*\(saw: -inf\)'),
]
BAD_SCORES = [
    (changed(np.ones(3), NAN), 'preds must not be NaN'), (np.ones(2), 'preds must be one score for each of labels'),
    (np.ones((3, 2)), r'preds must be one score for each of labels, shape \(3,\) \(saw: shape \(3, 2\)\)'),
]
BAD = ([(build, {'logits': logits}, labels, PROBS, message)
        for build in CLASS_METRICS for logits in (False, True) for labels, message in BAD_LABELS]
       + [(build, {}, LABELS, probs, message) for build in CLASS_METRICS for probs, message in BAD_PROBS]
       + [(build, {'logits': True}, LABELS, logits, message)
          for build in CLASS_METRICS for logits, message in BAD_LOGITS]
       + [(OutOfDistributionAUROC, {}, labels, np.ones(3), message) for labels, message in BAD_LABELS]
       + [(OutOfDistributionAUROC, {}, LABELS, np.ones(3), r'labels must be whole numbers from 0 to 1 \(saw: 2.0\)')]
       + [(OutOfDistributionAUROC, {}, LABELS % 2, scores, message) for scores, message in BAD_SCORES])


@pytest.mark.parametrize('build,kwargs,labels,preds,message', BAD)
def test_bad_values_change_nothing(build, kwargs, labels, preds, message):
    metric = build(**kwargs)
    good = examples(build)
    metric.update(*good)
    before = copy.deepcopy(vars(metric))
    with pytest.raises(ValueError, match=message):
        metric.update(labels, preds)
    if not isinstance(labels, list) and not isinstance(preds, list):
        # Nor does the good pair before a bad one
        with pytest.raises(ValueError, match=message):
            metric.update([good[0], labels], [good[1], preds])
    np.testing.assert_equal(vars(metric), before)


@pytest.mark.parametrize('build', METRICS)
def test_bad_types(build):
    labels, preds = examples(build)
    with pytest.raises(TypeError, match=r'labels must be an NDArray or a numpy array of numbers \(saw: int\)'):
        build().update([0, 1], [preds, preds])
    with pytest.raises(TypeError, match='preds must be an NDArray'):
        build().update([labels], [None])


def test_bad_number_of_bins():
    with pytest.raises(ValueError, match=r'num_bins must be at least 1 \(saw: 0\)'):
        ExpectedCalibrationError(num_bins=0)
    with pytest.raises(TypeError, match='num_bins must be an integer'):
        ExpectedCalibrationError(num_bins=10.)
