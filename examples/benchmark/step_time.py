# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Time of one training step: the notebook's algorithm, a deterministic Gluon net, and BayesDense eager and hybridized.

All train 784-400-400-10 with relu and Adam on one batch of random data. Prints a Markdown table.
"""
import math

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
from bbb_layers import BayesDense, BBBLoss, ScaleMixturePrior
import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from timing import TrainingStep, arguments, describe, in_turn

INPUTS, OUTPUTS, NUM_TRAIN = 784, 10, 60000
PI, SIGMA1, SIGMA2, RHO = 0.5, 0.75, 0.01, -3.  # what the notebook really ran: the pi of its config never reached it


def mlp(net, dense, units, **options):
    net.add(dense(units, activation='relu', **options), dense(units, activation='relu', **options),
            dense(OUTPUTS, **options))
    return net


class NotebookLoss(gluon.loss.Loss):
    """The notebook's BBBLoss with log_prior="scale_mixture", operator by operator."""

    def log_gaussian(self, x, mu, sigma):
        return -0.5 * np.log(2.0 * np.pi) - nd.log(sigma) - (x - mu) ** 2 / (2 * sigma ** 2)

    def gaussian(self, x, mu, sigma):
        return 1.0 / nd.sqrt(2.0 * np.pi * (sigma ** 2)) * nd.exp(- (x - mu) ** 2 / (2.0 * sigma ** 2))

    def scale_mixture_prior(self, x):
        return nd.log(PI * self.gaussian(x, 0, nd.array([SIGMA1])) + (1 - PI) * self.gaussian(x, 0, nd.array([SIGMA2])))

    def hybrid_forward(self, F, output, label, params, mus, sigmas):
        log_likelihood_sum = nd.sum(nd.nansum(label * nd.log_softmax(output), axis=0, exclude=True))
        log_prior_sum = sum(nd.sum(self.scale_mixture_prior(param)) for param in params)
        log_posterior_sum = sum(nd.sum(self.log_gaussian(*args)) for args in zip(params, mus, sigmas))
        return 1.0 / self.num_batches * (log_posterior_sum - log_prior_sum) - log_likelihood_sum


def notebook(data, label, units, num_batches):
    """The notebook's training, without reading back each step's loss to show it, which no contender does."""
    net = mlp(gluon.nn.Sequential(), gluon.nn.Dense, units)
    net.initialize(mx.init.Xavier(magnitude=2.24))
    net(data)
    shapes = [param.shape for param in net.collect_params().values()]
    mus = [gluon.Parameter('mu', shape=shape, init=mx.init.Normal(.1)) for shape in shapes]
    rhos = [gluon.Parameter('rho', shape=shape, init=mx.init.Constant(RHO)) for shape in shapes]
    for param in mus + rhos:
        param.initialize()
    raw_mus, raw_rhos = [mu.data() for mu in mus], [rho.data() for rho in rhos]
    bbb_loss = NotebookLoss(weight=None, batch_axis=0)
    bbb_loss.num_batches = num_batches

    def run(layer_params):
        for value, param in zip(layer_params, net.collect_params().values()):
            param._data[0] = value      # the notebook's MXNet had a dict here; that of 1.9.1 is a list
        return net(data)

    def loss():
        epsilons = [nd.random_normal(shape=shape, loc=0., scale=1.0) for shape in shapes]
        sigmas = [nd.log(1. + nd.exp(rho)) for rho in raw_rhos]
        layer_params = [mu + sigma * epsilon for mu, sigma, epsilon in zip(raw_mus, sigmas, epsilons)]
        return bbb_loss(run(layer_params), nd.one_hot(label, OUTPUTS), layer_params, raw_mus, sigmas)

    return TrainingStep(loss, mus + rhos, len(data), forward=lambda: run(raw_mus))


def deterministic_network(units):
    """The same network without a posterior, hybridized."""
    net = mlp(gluon.nn.HybridSequential(), gluon.nn.Dense, units)
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def deterministic(data, label, units, optimizer='adam'):
    net = deterministic_network(units)
    loss_fn = gluon.loss.SoftmaxCrossEntropyLoss()
    return TrainingStep(lambda: loss_fn(net(data), label), list(net.collect_params().values()), len(data), optimizer,
                        forward=lambda: net(data))


def bayes_network(units, hybridize=True):
    """BayesDense, with the notebook's prior and its sigma at the start."""
    net = mlp(gluon.nn.HybridSequential(), BayesDense, units, prior=ScaleMixturePrior(PI, SIGMA1, SIGMA2),
              initial_sigma=math.log1p(math.exp(RHO)))
    net.initialize(mx.init.Normal(.1))
    net.hybridize(active=hybridize, static_alloc=hybridize, static_shape=hybridize)
    return net


def bayes(data, label, units, num_batches, hybridize, optimizer='adam'):
    net = bayes_network(units, hybridize)
    loss_fn = BBBLoss(net, num_train=num_batches * len(data))
    return TrainingStep(lambda: loss_fn(net(data), label), list(net.collect_params().values()), len(data), optimizer,
                        forward=lambda: net(data))


if __name__ == '__main__':
    args = arguments(__doc__, units=(400, 'size of each hidden layer'), batch_size=(128, 'examples in the batch'))
    data = nd.random.uniform(0, 2, shape=(args.batch_size, INPUTS))     # the notebook's pixels: 0 to 255 / 126
    label = nd.random.randint(0, OUTPUTS, shape=args.batch_size).astype('float32')
    num_batches = -(-NUM_TRAIN // args.batch_size)
    times = in_turn({
        'notebook': notebook(data, label, args.units, num_batches),
        'deterministic, hybridized': deterministic(data, label, args.units),
        'BayesDense, eager': bayes(data, label, args.units, num_batches, hybridize=False),
        'BayesDense, hybridized': bayes(data, label, args.units, num_batches, hybridize=True)}, args)

    describe('%d-%d-%d-%d, batch %d, Adam' % (INPUTS, args.units, args.units, OUTPUTS, args.batch_size), args)
    print('| training step | median ms | lower quartile | upper quartile | x faster than the notebook | '
          'x the deterministic step |\n|---|---:|---:|---:|---:|---:|')
    for name, (low, mid, high) in times.items():
        print('| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |'.format(
            name, mid, low, high, times['notebook'][1] / mid, mid / times['deterministic, hybridized'][1]))
