# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math

import matplotlib
import mxnet as mx
import numpy as np
import pytest

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402

from bbb_layers import BayesDense, prune, signal_to_noise  # noqa: E402
from bbb_layers.plot import plot_accuracy, plot_posterior, plot_signal_to_noise  # noqa: E402


@pytest.fixture(autouse=True)
def close():
    yield
    pyplot.close('all')


@pytest.fixture
def layer():
    layer = BayesDense(20, in_units=30, bias_initializer=mx.init.Normal(1.))
    layer.initialize(mx.init.Normal(0.1))
    return layer


def test_accuracy():
    ax = plot_accuracy([0.5, 0.7, 0.9], [0.4, 0.6, 0.65])
    for line, values in zip(ax.get_lines(), ([0.5, 0.7, 0.9], [0.4, 0.6, 0.65])):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ['training', 'test']
    assert len(plot_accuracy([0.5]).get_lines()) == 1


def test_posterior_density():
    mu, sigma = 0.3, 0.02
    x, y = plot_posterior(mu, sigma).get_lines()[0].get_data()
    np.testing.assert_allclose([x.min(), x.max()], [mu - 4 * sigma, mu + 4 * sigma])
    np.testing.assert_allclose(x[y.argmax()], mu)
    np.testing.assert_allclose((y * (x[1] - x[0])).sum(), 1, rtol=1e-3)


def test_signal_to_noise_histogram(layer):
    prune(layer, 0.25)
    ax = plot_signal_to_noise(layer, bins=[-200, 0, 200])
    ratios = np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(layer).values()])
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == [((ratios > 0) & (ratios < 1)).sum(), (ratios >= 1).sum()] and sum(heights) == 465
    assert ax.get_legend().get_texts()[0].get_text() == '465 weights, without 155 that are pruned or exactly 0'
    prune(layer, 1.)
    ax = plot_signal_to_noise(layer)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()].count('0') <= 1      # no fractions of a weight


def test_given_axes_are_used_and_labelled(layer):
    for draw in (lambda ax: plot_accuracy([0.5], ax=ax), lambda ax: plot_posterior(0., 1., ax=ax),
                 lambda ax: plot_signal_to_noise(layer, ax=ax)):
        ax = pyplot.subplots()[1]
        assert draw(ax) is ax
        assert ax.get_xlabel() and ax.get_ylabel()


@pytest.mark.parametrize('draw,message', [
    (lambda: plot_accuracy([]), 'train must be one accuracy per epoch'),
    (lambda: plot_accuracy([0.5], [0.5, 0.6]), 'test must have as many epochs as train, 1 .saw: 2'),
    (lambda: plot_accuracy([1.5]), 'train must be between 0 and 1 .saw: 1.5'),
    (lambda: plot_posterior(0., 0.), 'sigma must be positive'), (lambda: plot_posterior(math.nan, 1.), 'mu must be'),
])
def test_bad_values(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not pyplot.get_fignums()
