# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import argparse
import importlib
import sys

import mxnet as mx
import numpy as np
import pytest
from scipy import special, stats
from subprocesses import EXAMPLES, run

sys.path.insert(0, str(EXAMPLES))
regression = importlib.import_module('regression')
BAYES, PLAIN = regression.BAYES, regression.PLAIN


def seeded_fit(x, y, model, steps=30):
    mx.random.seed(3)
    np.random.seed(3)
    (draws, sigma), = regression.fit(x, y, model, 1, steps, [steps])
    return draws(x), sigma


def test_quick(tmp_path):
    lines = run(EXAMPLES / 'regression.py', '--quick', '--output', tmp_path).stdout.splitlines()
    assert (tmp_path / 'regression.png').read_bytes().startswith(b'\x89PNG\r\n')
    curve = {line[:17].strip() + line[17:28].rstrip(): [float(word) for word in line.split()[-2:]]
             for line in lines if line[17:28].strip() in ('-0.5..0', '0..0.5', '0.5..1')}
    assert len(curve) == 6 and np.isfinite(list(curve.values())).all()
    inside = curve[BAYES + '  0..0.5']
    for region in '  -0.5..0', '  0.5..1':
        aleatoric, epistemic = curve[BAYES + region]
        assert aleatoric == inside[0] > 0 and epistemic > 1.2 * inside[1] > 0
        assert curve[PLAIN + region][1] == 0
    assert 'Auto MPG: 392 cars; 0 more dropped for NaN' in lines
    table = {line[:28].strip(): [float(word) for word in line[28:].replace('+-', '').split()]
             for line in lines[lines.index(next(line for line in lines if line.startswith('Mean +-'))) + 2:]}
    assert list(table) == [BAYES, PLAIN + ', stopped early', PLAIN, 'Bayesian ridge']
    for likelihood, error, rmse, rmse_error in table.values():
        # A Gaussian around the mean of all cars, whose fuel consumption has sigma 7.8, would have -3.5.
        assert -3.5 < likelihood < -2 and 1.5 < rmse < 5 and error > 0 and rmse_error > 0


def test_the_picture_shows_all_data(monkeypatch, capsys):
    figures, fit = [], regression.fit
    monkeypatch.setattr(regression, 'save_figure', lambda figure, *_: figures.append(figure))
    monkeypatch.setattr(regression, 'fit', lambda x, y, *rest: fit(x, y, *rest[:2], 2, [2]))
    regression.show_curve(argparse.Namespace(quick=False, output=None))
    for ax in figures[0].axes:
        data, = [line for line in ax.get_lines() if line.get_label() == 'data']
        assert len(data.get_xdata()) == 1000 and data.get_markersize() < 2
    assert 'Curve: 1000 points' in capsys.readouterr().out


@pytest.mark.parametrize('flags,message', [
    (['--seed', '-1'], '--seed: must be a whole number from 0 to 2147483647'),
    (['--seed', '1.5'], '--seed: must be a whole number'), (['--epochs', '3'], 'unrecognized arguments: --epochs 3')])
def test_bad_flags(monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.setattr(sys, 'argv', ['regression.py', '--output', str(tmp_path / 'out')] + flags)
    with pytest.raises(SystemExit):
        regression.main()
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_log_likelihood_is_that_of_the_mixture():
    y, means = np.random.normal(size=7), np.random.normal(size=(5, 7))
    expected = special.logsumexp(stats.norm.logpdf(y, means, 0.3), axis=0) - np.log(5)
    np.testing.assert_allclose(regression.log_likelihood(y, means, 0.3), expected)
    sigma = np.random.uniform(1, 2, size=7)
    np.testing.assert_allclose(regression.log_likelihood(y, means[:1], sigma), stats.norm.logpdf(y, means[0], sigma))
    assert np.isfinite(regression.log_likelihood(1e3, means, 0.3)).all()


def test_scores():
    likelihood, rmse = regression.scores(None, np.array([1., 2.]), lambda _: np.array([[0., 2.], [2., 6.]]), 2.)
    assert rmse == pytest.approx(2 ** 0.5)      # errors 0 and 2
    densities = stats.norm.pdf([[1, 0], [1, 4]], scale=2).mean(axis=0)
    assert likelihood == pytest.approx(np.log(densities).mean())


@pytest.mark.parametrize('model', [BAYES, PLAIN])
def test_fit_is_in_the_units_of_y_whatever_those_of_x(model):
    x = np.random.normal(size=(40, 2))
    y = x[:, 0] + np.random.normal(0, 0.1, 40)
    means, sigma = seeded_fit(x, y, model)
    assert means.shape == (regression.DRAWS if model == BAYES else 1, 40)
    # Not exact: float32 sees other roundings.
    others, other_sigma = seeded_fit(100 * x - 7, 10 * y + 50, model)
    np.testing.assert_allclose(others, 10 * means + 50, atol=0.05)
    assert other_sigma == pytest.approx(10 * sigma, rel=1e-3)


# So few examples and steps leave the Bayesian network with a part of the curve as noise. A flat line is off by 0.66.
@pytest.mark.parametrize('model,most,least_sigma,most_sigma', [(BAYES, 0.35, 0.2, 0.5), (PLAIN, 0.12, 0.18, 0.3)])
def test_fit_learns_and_repeats(model, most, least_sigma, most_sigma):
    x = np.random.uniform(-1, 1, size=(200, 1))
    truth = np.sin(3 * x[:, 0])
    y = truth + np.random.normal(0, 0.2, 200)
    means, sigma = seeded_fit(x, y, model, 400)
    assert np.abs(means.mean(axis=0) - truth).mean() < most and least_sigma < sigma < most_sigma
    means, sigma = seeded_fit(x, y, model, 20)
    again, sigma_again = seeded_fit(x, y, model, 20)
    assert (again == means).all() and sigma_again == sigma


def test_checkpoints_are_steps_of_one_run():
    x, y = np.random.normal(size=(20, 1)), np.random.normal(size=20)
    np.random.seed(0)
    mx.random.seed(0)
    both = [(draws(x), sigma) for draws, sigma in regression.fit(x, y, PLAIN, 1, 20, [5, 20])]
    np.random.seed(0)
    mx.random.seed(0)
    (draws, sigma), = regression.fit(x, y, PLAIN, 1, 20, [5])
    assert (draws(x) == both[0][0]).all() and sigma == both[0][1] != both[1][1]


def test_cars(monkeypatch, capsys):
    x, y = regression.cars()
    assert x.shape == (392, 9) and y.shape == (392,) and np.isfinite(x).all() and 9 <= y.min() < y.max() < 50
    assert (x[:, 6:].sum(axis=1) == 1).all() and x[:, 6:].sum(axis=0).tolist() == [245, 68, 79]
    table = np.arange(24.).reshape(3, 8)
    table[:, 6], table[1, 2], table[:, 7] = [1, 2, 3], np.nan, np.nan
    monkeypatch.setattr(regression, 'autompg_data', lambda: (table, np.array([20., 21., 22.])))
    x, y = regression.cars()
    assert y.tolist() == [20, 22] and x[:, 6:].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert '2 cars; 1 more dropped for NaN' in capsys.readouterr().out


def test_curve():
    assert regression.curve(0.25, 0.) == pytest.approx(0.25 + 0.3)
    assert regression.curve(0., 0.125) == pytest.approx(0.3 * 0.5 ** 0.5 + 0.3 + 0.125)
