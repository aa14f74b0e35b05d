# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayes by Backprop for regression: a network that knows where it does not know.

First the noisy curve of Blundell et al. 2015, section 5.2, seen on [0, 0.5] alone: beyond, the Bayesian network's
credible band widens, and that of a plain network of the same shape does not. Then real data, the fuel consumption of
392 cars (Auto MPG, from mlxtend): test log likelihood and RMSE on several random splits, beside plain networks and
Bayesian linear regression. All networks learn the standard deviation of the noise, too.
"""
from example import parser, save_figure, seed_all       # before mxnet

from bbb_layers import (BayesDense, BBBLoss, GaussianNLLLoss, GaussianPrior, credible_interval, gaussian_uncertainty,
                        predict)
from bbb_layers.plot import plot_regression
import mxnet as mx
import numpy as np
from matplotlib import pyplot
from mlxtend.data import autompg_data
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

UNITS, DRAWS, BAYES, PLAIN = 50, 200, 'Bayes by Backprop', 'plain network'


def curve(x, noise):
    return x + 0.3 * np.sin(2 * np.pi * (x + noise)) + 0.3 * np.sin(4 * np.pi * (x + noise)) + noise


def cars():
    """Features, shape (n, 9), and miles per gallon, shape (n,)."""
    x, y = autompg_data()
    x = x[:, :7]        # the eighth is the car's name, which mlxtend gives as NaN
    complete = np.isfinite(x).all(axis=1) & np.isfinite(y)
    print('\nAuto MPG: %d cars; %d more dropped for NaN' % (complete.sum(), (~complete).sum()))
    x, y = x[complete], y[complete]
    return np.hstack([x[:, :6], x[:, 6:] == [1, 2, 3]]), y      # the seventh, origin, is a category


def fit(x, y, model, hidden_layers, steps, checkpoints):
    """Train a network; after each step in ``checkpoints`` yield a function that turns inputs into draws of the mean,
    shape (draws, n), and sigma of the noise, both in the units of ``y``."""
    scaler, y_mean, y_sigma = StandardScaler().fit(x), y.mean(), y.std()
    net = nn.HybridSequential()
    for units, activation in [(UNITS, 'relu')] * hidden_layers + [(1, None)]:
        if model == BAYES:
            net.add(BayesDense(units, activation, prior=GaussianPrior(0.5), estimator='local'))
        else:
            net.add(nn.Dense(units, activation))
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    noise = GaussianNLLLoss(sigma=0.5, learnable=True)
    loss_fn = BBBLoss(net, len(x), noise) if model == BAYES else noise
    loss_fn.initialize()
    params = net.collect_params()
    params.update(loss_fn.collect_params())
    trainer = gluon.Trainer(params, 'fusedadam', {
        'learning_rate': 0.01, 'lr_scheduler': mx.lr_scheduler.PolyScheduler(steps, base_lr=0.01)})

    def draws(x):
        data = nd.array(scaler.transform(x))
        output = predict(net, data, DRAWS) if model == BAYES else net(data).expand_dims(axis=0)
        return y_mean + y_sigma * output[:, :, 0].asnumpy().astype('float64')

    data, label = nd.array(scaler.transform(x)), nd.array((y - y_mean) / y_sigma)
    for step in range(1, max(checkpoints) + 1):
        with autograd.record():
            loss = loss_fn(net(data), label)
        loss.backward()
        trainer.step(len(x))
        if step in checkpoints:
            yield draws, y_sigma * np.log1p(np.exp(noise.rho.data().asscalar()))


def log_likelihood(y, means, sigma):
    """log 1/S sum_s N(y_n; means_sn, sigma^2), shape (n,), in nats; all three in the units that it is for."""
    log_density = -0.5 * ((y - means) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    return np.logaddexp.reduce(log_density, axis=0) - np.log(len(means))


def scores(x, y, draws, sigma):
    """Mean log likelihood, and RMSE of the mean over the draws."""
    means = draws(x)
    return log_likelihood(y, means, sigma).mean(), np.sqrt(((means.mean(axis=0) - y) ** 2).mean())


def show_curve(args):
    x, grid = np.random.uniform(0, 0.5, 200 if args.quick else 1000), np.linspace(-0.5, 1, 151)
    y = curve(x, np.random.normal(0, 0.02, len(x)))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), sharey=True, layout='constrained')
    print('Curve: %d points; standard deviation of y\n%-17s  %-9s  aleatoric  epistemic' % (len(x), 'model', 'x'))
    for ax, model, title in zip(axes, (BAYES, PLAIN), (
            BAYES + ': 95 % of its draws and noise', PLAIN + ': 95 % of its noise')):
        steps = 300 if args.quick else 3000
        (draws, sigma), = fit(x[:, None], y, model, 2, steps, [steps])
        means = draws(grid[:, None])
        parts = gaussian_uncertainty(means, sigma ** 2)
        for region, inside in (('-0.5..0', grid < 0), ('0..0.5', (grid >= 0) & (grid <= 0.5)), ('0.5..1', grid > 0.5)):
            print('%-17s  %-9s  %9.3f  %9.3f' % (model, region, *(
                np.sqrt(part[inside].mean()) for part in (parts.aleatoric, parts.epistemic))))
        targets = means.repeat(4000 // len(means), axis=0)
        band = credible_interval(targets + np.random.normal(0, sigma, targets.shape))
        plot_regression(grid, parts.mean, *band, ax, (x, y), truth=curve(grid, 0))
        ax.get_lines()[-1].set_markersize(1.5)      # the data: so many points would hide the rest
        ax.set(title=title, xlabel='x', ylabel='y')
    save_figure(figure, args.output, 'regression')


def show_cars(args):
    x, y = cars()
    steps, splits = (100, 2) if args.quick else (1500, 10)
    checkpoints = sorted({steps // 50, steps // 20, steps // 10, steps // 5, steps // 2, steps})
    early, ridge = PLAIN + ', stopped early', 'Bayesian ridge'
    results = {model: [] for model in (BAYES, early, PLAIN, ridge)}
    for _ in range(splits):
        test, train = np.split(np.random.permutation(len(x)), [len(x) // 10])
        # Where to stop is chosen on a part of the training data; the network is then trained anew, on all of it.
        valid, rest = np.split(train, [len(train) // 5])
        tried = [scores(x[valid], y[valid], *fitted) for fitted in fit(x[rest], y[rest], PLAIN, 1, steps, checkpoints)]
        best = checkpoints[np.argmax([likelihood for likelihood, _ in tried])]
        for name, model, stop in ((BAYES, BAYES, steps), (early, PLAIN, best), (PLAIN, PLAIN, steps)):
            fitted, = fit(x[train], y[train], model, 1, steps, [stop])
            results[name].append(scores(x[test], y[test], *fitted))
        linear = make_pipeline(StandardScaler(), BayesianRidge()).fit(x[train], y[train])
        mean, sigma = linear.predict(x[test], return_std=True)
        results[ridge].append(scores(x[test], y[test], lambda _: mean[None], sigma))
    print('Mean +- standard error over %d random splits, %d cars for training and %d for the test\n'
          '%-28s  test log likelihood, nats     test RMSE, mpg' % (splits, len(train), len(test), 'model'))
    for name, rows in results.items():
        mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / splits ** 0.5
        print('%-28s  %14.3f +- %-8.3f  %9.3f +- %.3f' % (name, mean[0], error[0], mean[1], error[1]))


def main():
    args = parser(__doc__, 'regression').parse_args()
    seed_all(args.seed)
    show_curve(args)
    show_cars(args)


if __name__ == '__main__':
    main()
