# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Time of Trainer.step alone and of a whole training step, with 'adam' and with 'fusedadam'.

The Parameters are those of Bayesian networks 784-400-400-10 and 784-1200-1200-10, 12 each; batches are random data. The
contenders take turns, and the ratio is the median of each turn's. Prints a Markdown table.
"""
import math

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
import bbb_layers.optimizer  # noqa: F401 pylint: disable=unused-import  (registers 'fusedadam')
from bbb_layers import BayesDense, BBBLoss, ScaleMixturePrior, native
import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from timing import TrainingStep, arguments, describe, turn

INPUTS, OUTPUTS, NUM_TRAIN = 784, 10, 60000
OPTIMIZERS = ('adam', 'fusedadam')


class TrainerStep:
    """Trainer.step on gradients that stay as they are."""

    def __init__(self, params, optimizer):
        self.arrays = [data for param in params for data in param.list_data()]
        self.trainer = gluon.Trainer(params, optimizer, {'learning_rate': 1e-3})
        for param in params:
            param.grad()[:] = nd.random.normal(shape=param.shape)

    def __call__(self):
        for array in self.arrays:
            array._fresh_grad = True    # as backward says it
        self.trainer.step(1)


def bayes(data, label, units):
    """A Bayesian network, and its loss."""
    net = gluon.nn.HybridSequential()
    for size, activation in ((units, 'relu'), (units, 'relu'), (OUTPUTS, None)):
        net.add(BayesDense(size, activation=activation, prior=ScaleMixturePrior(0.5, 0.75, 0.01),
                           initial_sigma=math.log1p(math.exp(-3.))))
    net.initialize(mx.init.Normal(.1))
    net.hybridize(static_alloc=True, static_shape=True)
    loss_fn = BBBLoss(net, num_train=NUM_TRAIN)
    loss_fn(net(data), label).wait_to_read()     # its Parameters get their shapes
    return list(net.collect_params().values()), lambda: loss_fn(net(data), label)


def contenders(data, label, units):
    """What is timed: name -> the step with each optimizer."""
    alone = [TrainerStep(bayes(data, label, units)[0], optimizer) for optimizer in OPTIMIZERS]
    whole = []
    for optimizer in OPTIMIZERS:
        params, loss = bayes(data, label, units)
        whole.append(TrainingStep(loss, params, len(data), optimizer))
    return {'Trainer.step': alone, 'training step': whole}


def compare(steps, args):
    """Median milliseconds with each optimizer, and the quartiles of the turns' ratios."""
    times = np.array([[turn(step) for step in steps] for _ in range(args.warmup + args.rounds)])[args.warmup:]
    return np.median(times, axis=0), np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))


if __name__ == '__main__':
    args = arguments(__doc__, batch_size=(128, 'examples in the batch'))
    rows = []
    for units in (400, 1200):
        data = nd.random.uniform(0, 2, shape=(args.batch_size, INPUTS))
        label = nd.random.randint(0, OUTPUTS, shape=args.batch_size).astype('float32')
        for name, steps in contenders(data, label, units).items():
            (adam, fused), (low, mid, high) = compare(steps, args)
            rows.append('| %d-%d-%d-%d | %s | %.2f | %.2f | %.2f | %.2f | %.2f |' % (
                INPUTS, units, units, OUTPUTS, name, adam, fused, mid, low, high))

    describe('batch %d, native operators: %s' % (
        args.batch_size, native.instruction_set() if native.available() else 'none'), args)
    print('| network | what | adam, ms | fusedadam, ms | adam / fusedadam | lower quartile | upper quartile |\n'
          '|---|---|---:|---:|---:|---:|---:|')
    print('\n'.join(rows))
