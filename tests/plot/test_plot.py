# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math

import matplotlib
import mxnet as mx
import numpy as np
import pytest

matplotlib.use('Agg')
from matplotlib import pyplot

from bbb_layers import BayesDense, prune, signal_to_noise
from bbb_layers.plot import (plot_accuracy, plot_entropy, plot_images, plot_posterior, plot_pruning_curve,
                             plot_regression, plot_reliability, plot_signal_to_noise, plot_training)

ONE, NAN, INF = [0.5], math.nan, math.inf
GREY = np.arange(32.).reshape(2, 4, 4)
#: Every picture with arrays as arguments; all numbers are exact in float32.
PICTURES = {
    'training': (plot_training, {'series': {'loss': np.array([3., 2., 1.5]), 'NLL': np.array([1., 0.5])}}),
    'accuracy': (plot_accuracy, {'train': np.array([0.5, 0.75]), 'test': np.array([0.5, 0.625])}),
    'posterior': (plot_posterior, {'mu': np.array([0., 0.5]), 'sigma': np.array([1., 0.25])}),
    'pruning': (plot_pruning_curve, {'fractions': np.array([0.5, 0.75]), 'values': np.array([98., 90.]),
                                     'baseline': np.array(98.)}),
    'reliability': (plot_reliability, {'confidence': np.array([0.25, 0.5]), 'accuracy': np.array([0.375, 0.75]),
                                       'count': np.array([3, 5])}),
    'entropy': (plot_entropy, {'in_distribution': np.array([0., 0., 0.5]), 'out_of_distribution': np.array([1., 2.])}),
    'regression': (plot_regression, {
        'x': np.array([1., 0.]), 'mean': np.array([1., 2.]), 'lower': np.array([0., 1.]), 'upper': np.array([2., 4.]),
        'data': np.array([[0.5, 0.75, 1.], [1., 2., 1.]]), 'draws': np.array([[1., 1.5]] * 3),
        'truth': np.array([1., 1.75])}),
}


@pytest.fixture(autouse=True)
def close():
    pyplot.close('all')     # other tests' figures
    settings = dict(matplotlib.rcParams)
    yield
    pyplot.close('all')
    assert dict(matplotlib.rcParams) == settings


@pytest.fixture
def layer():
    layer = BayesDense(20, in_units=30, bias_initializer=mx.init.Normal(1.))
    layer.initialize(mx.init.Normal(0.1))
    return layer


@pytest.fixture(params=list(PICTURES))
def picture(request):
    return PICTURES[request.param]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    return next(line for line in ax.get_lines() if line.get_label() == label)


def decibels(net):
    ratios = np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(net).values()]).astype('float64')
    return 20 * np.log10(np.sort(ratios[ratios > 0]))


def converted(value, convert):
    if isinstance(value, dict):
        return {name: converted(item, convert) for name, item in value.items()}
    return convert(value)


def pixels(figure):
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())


def assert_apart(texts):
    """No two of ``texts``, as they are drawn, overlap."""
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 1
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_every_picture_is_labelled_and_in_the_given_axes_only(picture):
    draw, arguments = picture
    figure, (ax, other) = pyplot.subplots(2)
    assert draw(ax=ax, **arguments) is ax
    assert ax.get_xlabel() and ax.get_ylabel() and ax.has_data()
    assert figure.axes == [ax, other] and not other.has_data()
    assert pyplot.get_fignums() == [figure.number]


def test_every_picture_without_axes_makes_one_figure(picture):
    draw, arguments = picture
    ax = draw(**arguments)
    assert pyplot.get_fignums() == [ax.figure.number] and ax.figure.axes == [ax]


@pytest.mark.parametrize('convert', [
    lambda value: mx.nd.array(value, dtype=value.dtype), lambda value: value.tolist(),
    lambda value: [mx.nd.array([number]) for number in value.tolist()] if value.ndim == 1 else mx.nd.array(value),
], ids=['NDArray', 'list', 'list of NDArray'])
def test_every_picture_takes_any_array(picture, convert):
    draw, arguments = picture
    expected = pixels(draw(**arguments).figure)
    np.testing.assert_array_equal(pixels(draw(**converted(arguments, convert)).figure), expected)


def test_every_picture_rejects_axes_that_are_none(picture, layer):
    draw, arguments = picture
    with pytest.raises(TypeError, match='ax must be a matplotlib Axes .saw: 3'):
        draw(ax=3, **arguments)
    with pytest.raises(TypeError, match='ax must be a matplotlib Axes'):
        plot_signal_to_noise(layer, pyplot)


def test_training_curves():
    ax = plot_training({'train': [3., NAN, 2., INF], 'test': range(51), 'one': mx.nd.ones((1, 1))}, ylabel='nats',
                       xlabel='step')
    for label, x, y, marker in (('train', [1, 3], [3, 2], 'o'), ('test', range(1, 52), range(51), 'None'),
                                ('one', [1], [1], '^')):
        np.testing.assert_array_equal(line(ax, label).get_xdata(), x)
        np.testing.assert_array_equal(line(ax, label).get_ydata(), y)
        assert line(ax, label).get_marker() == marker
    assert legend(ax) == ['train', 'test', 'one']
    assert len({line.get_linestyle() for line in ax.get_lines()}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('step', 'nats')


@pytest.mark.parametrize('scale', ['linear', 'log'])
def test_legend_is_above_what_is_drawn_also_when_more_is_drawn(scale):
    ax = pyplot.subplots(layout='constrained')[1]
    ax.set_yscale(scale)
    for top in (1e3, 1e5):
        plot_training({'%d up to %g' % (index, top): np.geomspace(1, top, 9) for index in range(5)}, ax)
        ax.figure.canvas.draw()
        box = ax.get_legend().get_window_extent()
        assert ax.transData.transform((1, top))[1] < box.y0 and box.y1 < ax.get_window_extent().y1


def test_accuracy():
    ax = plot_accuracy([0.5, 0.7, 0.9], [0.4, 0.6, 0.65])
    for curve, values in zip(ax.get_lines(), ([0.5, 0.7, 0.9], [0.4, 0.6, 0.65])):
        np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(curve.get_ydata(), values)
    assert legend(ax) == ['training', 'test']
    assert len(plot_accuracy([0.5]).get_lines()) == 1


def test_posterior_density():
    mu, sigma = 0.3, 0.02
    x, y = plot_posterior(mu, sigma).get_lines()[0].get_data()
    np.testing.assert_allclose([x.min(), x.max()], [mu - 4 * sigma, mu + 4 * sigma])
    np.testing.assert_allclose(x[y.argmax()], mu)
    np.testing.assert_allclose((y * (x[1] - x[0])).sum(), 1, rtol=1e-3)


def test_posterior_densities_of_several_weights():
    mu, sigma = np.linspace(-1, 1, 12), np.linspace(0.1, 0.5, 12)
    ax = plot_posterior(mu, sigma, labels=list('abcdefghijkl'))
    assert legend(ax) == list('abcdefghijkl') and len(ax.get_lines()) == 12
    for label, mean, deviation in zip('abcdefghijkl', mu, sigma):
        x, y = line(ax, label).get_data()
        density = np.exp(-(x - mean) ** 2 / (2 * deviation ** 2)) / np.sqrt(2 * np.pi * deviation ** 2)
        np.testing.assert_allclose(y, density)
    assert legend(plot_posterior([0.25, 1.], [0.5, 2.])) == [
        r'$\mu$ = 0.25, $\sigma$ = 0.5', r'$\mu$ = 1, $\sigma$ = 2']
    ax = plot_posterior(np.zeros(13), np.arange(1, 14))
    assert ax.get_legend() is None and len(ax.get_lines()) == 13


def test_signal_to_noise_histogram(layer):
    prune(layer, 0.25)
    ax = plot_signal_to_noise(layer, bins=[-200, 0, 200])
    ratios = np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(layer).values()])
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == [((ratios > 0) & (ratios < 1)).sum(), (ratios >= 1).sum()] and sum(heights) == 465
    assert legend(ax) == ['465 weights, without 155 that are pruned or exactly 0'] and not ax.get_lines()
    prune(layer, 1.)
    ax = plot_signal_to_noise(layer)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()].count('0') <= 1      # no fractions of a weight


def test_signal_to_noise_density(layer):
    prune(layer, 0.25)
    ax = plot_signal_to_noise(layer, kind='density', bins=7)
    alive = decibels(layer)
    counts, edges = np.histogram(alive, 7)
    np.testing.assert_allclose([patch.get_x() for patch in ax.patches], edges[:-1])
    np.testing.assert_allclose([patch.get_height() for patch in ax.patches], counts / 465 / (edges[1] - edges[0]))
    prune(layer, 1.)
    assert [patch.get_height() for patch in plot_signal_to_noise(layer, kind='density', bins=2).patches] == [0, 0]


def test_signal_to_noise_cumulative_counts_the_pruned(layer):
    prune(layer, 0.25)
    ax = plot_signal_to_noise(layer, kind='cumulative', bins=7)
    x, y = ax.get_lines()[0].get_data()
    alive = decibels(layer)
    np.testing.assert_allclose(x, np.histogram(alive, 7)[1])
    np.testing.assert_allclose(y, [100 * (155 + (alive <= edge).sum()) / 620 for edge in x])
    assert y[-1] == 100 and legend(ax) == ['465 weights, and 155 that are pruned or exactly 0']
    assert ax.get_ylim()[0] <= 0


@pytest.mark.parametrize('kind', ['histogram', 'density', 'cumulative'])
@pytest.mark.parametrize('cut', [0.25, 0.29, 0.75, 0.999])
def test_cut_is_at_the_lowest_ratio_that_prune_keeps(layer, cut, kind):
    prune(layer, 0.25)
    ax = plot_signal_to_noise(layer, cut=cut, kind=kind)
    cut_line = ax.get_lines()[-1]
    prune(layer, cut)
    np.testing.assert_array_equal(cut_line.get_xdata(), decibels(layer)[0])
    assert cut_line.get_label() in legend(ax) and '%g %% of all weights' % (100 * cut) in cut_line.get_label()


def test_cut_of_a_fraction_that_is_rounded_down():
    layer = BayesDense(10, in_units=9, bias_initializer=mx.init.Normal(1.))
    layer.initialize(mx.init.Normal(0.1))
    assert 100 * 0.29 < 29
    ax = plot_signal_to_noise(layer, cut=0.29)
    np.testing.assert_array_equal(ax.get_lines()[-1].get_xdata(), decibels(layer)[29])


def test_cut_of_everything_is_at_the_highest_ratio(layer):
    np.testing.assert_array_equal(plot_signal_to_noise(layer, cut=1).get_lines()[-1].get_xdata(), decibels(layer)[-1])


def test_pruning_curve():
    ax = plot_pruning_curve([0.98, 0.1, 1., 0.75], [95., 97., 10., 97.5], baseline=97.25)
    np.testing.assert_allclose(line(ax, 'pruned').get_xdata(), [10, 75, 98, 100])
    np.testing.assert_array_equal(line(ax, 'pruned').get_ydata(), [97, 97.5, 95, 10])
    np.testing.assert_array_equal(line(ax, 'not pruned: 97.25').get_ydata(), 97.25)
    assert legend(ax) == ['pruned', 'not pruned: 97.25'] and ax.get_ylabel() == 'test accuracy %'
    ax = plot_pruning_curve(ONE, ONE, ylabel='test NLL (nats)')
    assert ax.get_legend() is None and ax.get_ylabel() == 'test NLL (nats)' and len(ax.get_lines()) == 1


def test_pruning_curve_is_readable_near_100_percent():
    fractions = np.append(np.linspace(0, 0.98, 50), [0.99, 0.995, 0.999, 1.])
    ax = plot_pruning_curve(fractions, fractions)
    ax.figure.canvas.draw()
    labels = ax.get_xticklabels()
    assert_apart(labels)
    assert labels[0].get_text() == '100' and len(labels) > 9
    for tick, label in zip(ax.get_xticks(), labels):
        assert tick in 100 * fractions and label.get_text() == f'{tick:.4g}'
    at = ax.transData.transform([(value, 0) for value in (0, 95, 98, 100)])[:, 0]
    np.testing.assert_allclose((at - at[0]) / (at[3] - at[0]), 1 - np.sqrt([1, 0.05, 0.02, 0]), atol=1e-9)


def test_reliability():
    order = [3, 0, 2, 4, 1]         # of bins with these confidences, accuracies and counts
    values = np.array([[0.25, 0.5, 0.75, NAN, 7.], [0.5, 0.25, 0.75, NAN, 7.], [10, 30, 1160, 0, 0]])
    ax = plot_reliability(*values[:, order])
    curve = ax.get_lines()[1]
    np.testing.assert_array_equal(curve.get_xydata(), values[:2, :3].T)
    np.testing.assert_array_equal(line(ax, 'perfect calibration').get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(ax.collections[0].get_segments(), [
        [[0.25, 0.25], [0.25, 0.5]], [[0.5, 0.5], [0.5, 0.25]], [[0.75, 0.75], [0.75, 0.75]]])
    assert [(text.get_position()[0], text.get_text()) for text in ax.texts] == [
        (0.25, '10'), (0.5, '30'), (0.75, '1,160')]
    assert 'gap (ECE %.4f)' % ((10 * 0.25 + 30 * 0.25) / 1200) in legend(ax)


@pytest.mark.parametrize('confidence', [1 - np.geomspace(1e-4, 0.5, 15), np.linspace(0.1, 0.15, 15)],
                         ids=['high', 'low'])
def test_reliability_numbers_do_not_overlap(confidence):
    ax = plot_reliability(confidence, confidence ** 2, np.full(15, 1234567))
    ax.figure.canvas.draw()
    assert_apart(ax.texts)
    frame = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert max(box.x1 for box in boxes) < frame.x1 and max(box.y1 for box in boxes) < frame.y1
    # Wherever the legend goes, depending on the curve, it goes below them.
    assert ax.get_legend().get_bbox_to_anchor().y1 < min(box.y0 for box in boxes)


def test_entropy():
    inside, outside = np.array([0., 0., 0.1, 0.5]), np.array([0.5, 1., 2.])
    ax = plot_entropy(inside, outside, labels=('MNIST', 'Fashion'), bins=4)
    for patch, values, label in zip(ax.patches, (inside, outside), ('MNIST: 4 inputs', 'Fashion: 3 inputs')):
        heights, edges, _ = patch.get_data()
        np.testing.assert_array_equal(edges, [0, 0.5, 1, 1.5, 2])
        np.testing.assert_allclose(heights, np.histogram(values, edges)[0] / len(values) / 0.5)
        assert patch.get_label() == label
    assert legend(ax) == ['MNIST: 4 inputs', 'Fashion: 3 inputs']
    assert len({(patch.get_linestyle(), patch.get_hatch()) for patch in ax.patches}) == 2
    assert legend(plot_entropy([0.], [0.])) == ['in distribution: 1 inputs', 'out of distribution: 1 inputs']


def test_regression():
    x, mean, lower, upper = np.array([2., 0., 1.]), np.array([3., 1., 2.]), np.zeros(3), np.array([6., 4., 5.])
    draws, truth = np.array([[1., 2., 3.], [4., 5., 6.]]), np.array([3.5, 1.5, 2.5])
    ax = plot_regression(x, mean, lower, upper, data=([0.5, 0.25], [7., 8.]), draws=draws, truth=truth)
    curves = {'mean': [1, 2, 3], 'truth': [1.5, 2.5, 3.5], 'draws': [2, 3, 1]}
    for label, values in curves.items():
        np.testing.assert_array_equal(line(ax, label).get_xdata(), [0, 1, 2])
        np.testing.assert_array_equal(line(ax, label).get_ydata(), values)
    np.testing.assert_array_equal(line(ax, 'data').get_xydata(), [[0.5, 7], [0.25, 8]])
    assert line(ax, 'data').get_linestyle() == 'None'
    assert [list(curve.get_ydata()) for curve in ax.get_lines()].count([5, 6, 4]) == 1 and len(ax.get_lines()) == 5
    band = {tuple(point) for point in ax.collections[0].get_paths()[0].vertices}
    assert band == {(0, 0), (1, 0), (2, 0), (0, 4), (1, 5), (2, 6)}
    assert sorted(legend(ax)) == ['credible band', 'data', 'draws', 'mean', 'truth']
    columns = [values[:, None] for values in (x, mean, lower, upper)]
    ax = plot_regression(*columns, draws=draws[:, :, None])
    np.testing.assert_array_equal(line(ax, 'draws').get_xydata(), [[0, 2], [1, 3], [2, 1]])
    assert sorted(legend(plot_regression(*columns))) == ['credible band', 'mean']


@pytest.mark.parametrize('convert', [np.asarray, mx.nd.array, list])
@pytest.mark.parametrize('shape', [(2, 4, 4), (2, 1, 4, 4), (2, 4, 4, 1)])
def test_grey_images(shape, convert):
    grid = plot_images(convert(GREY.reshape(shape)))
    assert grid.shape == (1, 2)
    for ax, expected in zip(grid[0], GREY):
        image = ax.get_images()[0]
        np.testing.assert_array_equal(image.get_array(), expected)
        assert image.get_clim() == (0, 31) and image.get_cmap().name == 'gray'    # the same for all


@pytest.mark.parametrize('factor,dtype', [(1, 'float32'), (255, 'float32'), (255, 'uint8')])
@pytest.mark.parametrize('first', [False, True], ids=['channels last', 'channels first'])
@pytest.mark.parametrize('convert', [np.asarray, mx.nd.array])
def test_rgb_images(convert, first, factor, dtype):
    colours = np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3) % 4 / np.float32(4) if factor == 1 else (
        np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3))
    images = np.moveaxis(colours, 3, 1) if first else colours
    images = images.astype(dtype)
    grid = plot_images(images if convert is np.asarray else mx.nd.array(images, dtype=dtype), columns=1)
    assert grid.shape == (2, 1)
    for ax, expected in zip(grid[:, 0], colours):
        np.testing.assert_allclose(ax.get_images()[0].get_array(), expected / factor, rtol=1e-6)


def test_dark_integer_images_are_not_taken_for_fractions():
    drawn = plot_images(np.ones((1, 2, 2, 3), 'uint8'))[0, 0].get_images()[0].get_array()
    np.testing.assert_allclose(drawn, 1 / 255)


def test_image_grid():
    titles = ['truth %d, predicted %d with 0.43, or nearly so' % (digit, digit + 1) for digit in range(7)]
    grid = plot_images(np.zeros((7, 8, 8)), titles, columns=3)
    assert grid.shape == (3, 3) and pyplot.get_fignums() == [grid[0, 0].figure.number]
    assert [ax.get_visible() for ax in grid.ravel()] == [True] * 7 + [False] * 2
    assert [ax.get_title().replace('\n', ' ') for ax in grid.ravel()] == titles + ['', '']
    grid[0, 0].figure.canvas.draw()
    assert_apart([ax.title for ax in grid.ravel()])
    figure = pyplot.figure()
    grid = plot_images(GREY, mx.nd.array([3, 4], dtype='int32'), fig=figure)
    assert grid.shape == (1, 2) and [ax.get_title() for ax in grid[0]] == ['3', '4']
    assert figure.axes == list(grid[0]) and len(pyplot.get_fignums()) == 2


def regression(**changes):
    return plot_regression(**{**dict(x=[0., 1.], mean=[0., 1.], lower=[-1., 0.], upper=[1., 2.]), **changes})


@pytest.mark.parametrize('draw,message', [
    (lambda: plot_training({}), 'series must have at least one curve'),
    (lambda: plot_training({'a': ONE, 'b': []}), r"series\['b'\] must be one value per epoch, shape .epochs,. .saw"),
    (lambda: plot_training({'a': [NAN, INF]}), r"series\['a'\] must have a finite value .saw: .nan, inf"),
    (lambda: plot_accuracy([]), 'train must be one accuracy per epoch'),
    (lambda: plot_accuracy([[0.5, 0.5]]), r'train must be one accuracy per epoch, .*saw: shape .1, 2.'),
    (lambda: plot_accuracy([0.5], [0.5, 0.6]), 'test must have as many epochs as train, 1 .saw: 2'),
    (lambda: plot_accuracy([1.5]), 'train must be between 0 and 1 .saw: 1.5'),
    (lambda: plot_accuracy(ONE, [NAN]), 'test must be between 0 and 1 .saw: nan'),
    (lambda: plot_posterior(0., 0.), 'sigma must be positive'), (lambda: plot_posterior(math.nan, 1.), 'mu must be'),
    (lambda: plot_posterior([0., 0.], [1., -1.]), 'sigma must be positive .* .saw: -1.0'),
    (lambda: plot_posterior([], []), 'mu must be one mean per weight'),
    (lambda: plot_posterior([0., 0.], 1.), 'sigma must have as many weights as mu, 2 .saw: 1'),
    (lambda: plot_posterior(0., 1., labels=['a', 'b']), 'labels must have one name per weight, 1 .saw: 2'),
    (lambda: plot_pruning_curve([], []), 'fractions must be one fraction per value'),
    (lambda: plot_pruning_curve(ONE, [1., 2.]), 'values must have as many fractions as fractions, 1 .saw: 2'),
    (lambda: plot_pruning_curve([95.], ONE), 'fractions must be between 0 and 1 .saw: 95.0'),
    (lambda: plot_pruning_curve([-0.1], ONE), 'fractions must be between 0 and 1 .saw: -0.1'),
    (lambda: plot_pruning_curve(ONE, [NAN]), 'values must be finite .saw: nan'),
    (lambda: plot_pruning_curve(ONE, ONE, baseline=INF), 'baseline must be finite .saw: inf'),
    (lambda: plot_pruning_curve(ONE, ONE, baseline=[1., 2.]), 'baseline must have a single value, 1 .saw: 2'),
    (lambda: plot_reliability([], [], []), 'confidence must be one confidence per bin'),
    (lambda: plot_reliability(ONE, [0.5, 0.5], [1]), 'accuracy must have as many bins as confidence, 1 .saw: 2'),
    (lambda: plot_reliability(ONE, ONE, [1, 2]), 'count must have as many bins as confidence, 1 .saw: 2'),
    (lambda: plot_reliability(ONE, ONE, [-1]), 'count must be finite and at least 0 .saw: -1.0'),
    (lambda: plot_reliability(ONE, ONE, [NAN]), 'count must be finite and at least 0 .saw: nan'),
    (lambda: plot_reliability(ONE, ONE, [0]), 'count must be positive in some bin'),
    (lambda: plot_reliability([NAN], ONE, [1]), 'confidence must be between 0 and 1 .saw: nan'),
    (lambda: plot_reliability(ONE, [1.5], [1]), 'accuracy must be between 0 and 1 .saw: 1.5'),
    (lambda: plot_entropy([], ONE), 'in_distribution must be one entropy per input'),
    (lambda: plot_entropy(ONE, np.ones((2, 2))), 'out_of_distribution must be one entropy per input'),
    (lambda: plot_entropy([NAN], ONE), 'in_distribution must be finite .saw: nan'),
    (lambda: plot_entropy(ONE, [INF]), 'out_of_distribution must be finite .saw: inf'),
    (lambda: plot_entropy(ONE, ONE, labels=['a']), 'labels must have one name per kind of inputs, 2 .saw: 1'),
    (lambda: plot_entropy(ONE, [1.5], bins=[0, 1]), r'bins must hold some of both kinds of inputs .saw: \[0, 1\]'),
    (lambda: plot_entropy(ONE, ONE, bins=0), 'bins.* must be positive'),
    (lambda: regression(x=[]), 'x must be one number per input'),
    (lambda: regression(x=[NAN, 0.]), 'x must be finite .saw: nan'),
    (lambda: regression(mean=ONE), 'mean must have as many inputs as x, 2 .saw: 1'),
    (lambda: regression(upper=[2., NAN]), 'upper must be finite .saw: nan'),
    (lambda: regression(lower=[-1., 2.5]), 'lower must be at most upper .saw: 2.5'),
    (lambda: regression(truth=ONE), 'truth must have as many inputs as x, 2 .saw: 1'),
    (lambda: regression(draws=[[1., 2., 3.]]), r'draws must have shape .draws, 2., .*saw: shape .1, 3.'),
    (lambda: regression(draws=np.zeros((0, 2))), r'draws must have shape .draws, 2., .*saw: shape .0, 2.'),
    (lambda: regression(draws=[[NAN, 2.]]), 'draws must be finite .saw: nan'),
    (lambda: regression(data=(ONE, ONE, ONE)), 'data must have inputs and outputs, 2 .saw: 3'),
    (lambda: regression(data=(ONE, [1., 2.])), r'data\[1\] must have as many observations as data\[0\], 1 .saw: 2'),
    (lambda: regression(data=([NAN], ONE)), r'data\[0\] must be finite'),
    (lambda: plot_images(np.zeros((0, 4, 4))), r'images must have shape .*saw: shape .0, 4, 4.'),
    (lambda: plot_images(np.zeros((4, 4))), r'images must have shape .*saw: shape .4, 4.'),
    (lambda: plot_images(np.zeros((1, 4, 4, 2))), r'images must have shape .*saw: shape .1, 4, 4, 2.'),
    (lambda: plot_images(np.full((1, 4, 4), NAN)), 'images must be finite .saw: nan'),
    (lambda: plot_images(np.full((1, 4, 4, 3), -0.5)), 'images must be between 0 and 1 .saw: -0.5'),
    (lambda: plot_images(np.full((1, 4, 4, 3), 256)), 'images must be between 0 and 255 .saw: 256.0'),
    (lambda: plot_images(GREY, ['a']), 'titles must have one per image, 2 .saw: 1'),
    (lambda: plot_images(GREY, columns=0), 'columns must be at least 1 .saw: 0'),
])
def test_bad_values(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not pyplot.get_fignums()


@pytest.mark.parametrize('draw,message', [
    (lambda: plot_training([1., 2.]), r'series must be a dict of name -> values .saw: \[1.0, 2.0\]'),
    (lambda: plot_accuracy('abc'), "train must be an array of numbers .saw: 'abc'"),
    (lambda: plot_accuracy([[0.5], [0.5, 0.5]]), 'train must be an array of numbers'),
    (lambda: plot_posterior('a', 1.), "mu must be an array of numbers .saw: 'a'"),
    (lambda: plot_posterior([0.], [1.], labels='a'), "labels must be a sequence .saw: 'a'"),
    (lambda: regression(data=3), 'data must be a sequence .saw: 3'),
    (lambda: plot_images(GREY, titles=3), 'titles must be a sequence .saw: 3'),
    (lambda: plot_images(GREY, columns=1.5), 'columns must be an integer .saw: 1.5'),
    (lambda: plot_images(GREY, fig=3), 'fig must be a matplotlib Figure or SubFigure .saw: 3'),
])
def test_bad_types(draw, message):
    with pytest.raises(TypeError, match=message):
        draw()
    assert not pyplot.get_fignums()


def test_bad_signal_to_noise(layer):
    prune(layer, 0.5)
    for arguments, message in (
            ({'cut': 1.5}, 'cut must be between 0 and 1, both included .saw: 1.5'),
            ({'cut': 0.4}, 'cut must be at least 310 / 620, the weights of net that are pruned .*saw: 0.4'),
            ({'kind': 'pie'}, "kind must be one of histogram, density, cumulative .saw: 'pie'"),
            ({'bins': 0}, 'bins.* must be positive')):
        with pytest.raises(ValueError, match=message):
            plot_signal_to_noise(layer, **arguments)
    prune(layer, 1)
    with pytest.raises(ValueError, match='cut must be .* None if these are all .saw: 1'):
        plot_signal_to_noise(layer, cut=1)
    layer.weight.set_data(mx.nd.full((20, 30), INF))
    layer.weight_rho.set_data(mx.nd.zeros((20, 30)))
    with pytest.raises(ValueError, match='ratios of net must be finite .saw: inf'):
        plot_signal_to_noise(layer)
    assert not pyplot.get_fignums()
