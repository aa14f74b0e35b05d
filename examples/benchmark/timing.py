# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the benchmarks share: a training step, contenders that take turns, and the description of a run."""
import argparse
import os
import platform
import time

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

STEPS = 5   # in a turn


class TrainingStep:
    """What all contenders share: loss under record, backward, Adam. They differ in ``loss``, which runs the network.

    ``forward``, if there is one, runs it in predict mode.
    """

    def __init__(self, loss, params, batch_size, optimizer='adam', forward=None):
        self.loss, self.params, self.batch_size, self.forward = loss, params, batch_size, forward
        self.trainer = gluon.Trainer(params, optimizer, {'learning_rate': 1e-3})

    def __call__(self):
        with autograd.record():
            loss = self.loss()
        loss.backward()
        self.trainer.step(self.batch_size)
        return loss


def turn(step):
    """Milliseconds per step."""
    step()      # not timed: the contender before this one has filled the processor's caches
    mx.nd.waitall()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    mx.nd.waitall()
    return (time.perf_counter() - start) / STEPS * 1e3


def in_turn(contenders, args):
    """Lower quartile, median and upper quartile of each contender's time: name -> three milliseconds.

    They take turns of a few steps, so that whatever else the machine does hits all of them alike.
    """
    times = [[turn(step) for step in contenders.values()] for _ in range(args.warmup + args.rounds)]
    return dict(zip(contenders, np.percentile(times[args.warmup:], (25, 50, 75), axis=0).T))


def arguments(description, **numbers):
    """The command line: rounds, warmup, seed, and ``numbers``, name -> (default, help)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = dict(numbers, rounds=(30, 'timed turns of each contender'), warmup=(5, 'turns before these, not timed'))
    for name, (default, text) in numbers.items():
        parser.add_argument('--' + name.replace('_', '-'), type=int, default=default, help=text + ' (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of all random numbers (%(default)s)')
    args = parser.parse_args()
    for name in numbers:
        if getattr(args, name) < 1:
            parser.error('argument --%s: must be at least 1 (saw: %d)' % (name.replace('_', '-'), getattr(args, name)))
    mx.random.seed(args.seed)
    return args


def describe(what, args):
    """Print what a table was made with."""
    print('mxnet %s, numpy %s, python %s; %s; %d rounds of %d steps; OMP_NUM_THREADS %s, os.cpu_count() %s\n' % (
        mx.__version__, np.__version__, platform.python_version(), what, args.rounds, STEPS,
        os.environ.get('OMP_NUM_THREADS', 'unset'), os.cpu_count()))
