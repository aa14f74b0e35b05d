# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One contender in a process of its own, so that it has its own environment and its own peak of memory.

The one argument is JSON: ``framework`` (a module beside this file), ``contender``, ``mode`` ('train' or 'predict'),
``units``, ``batch`` and ``cpus``. It first answers with a line of JSON that describes it, and then each line on its
standard input, a number of steps, with the seconds that they took. Waiting for a line it does not compute.

A module of a framework has ``CONTENDERS``, name -> function of (data, label, units) that returns a training step and a
forward of predict mode, either may be None; ``wait(result)``, which returns when the result is there, and all that
led to it; ``loss(result, batch)`` in nats per example; ``threads()``; and ``versions()``.
"""
import importlib
import json
import math
import os
import resource
import sys
import time


def peak_memory():
    """MB that the process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2. ** 20 if sys.platform == 'darwin' else 2. ** 10)


def batch_of(examples):
    """A batch as the notebook's are: pixels 0 to 255 / 126, ten classes. The same for all contenders."""
    import numpy as np      # not before the number of threads is settled
    random = np.random.RandomState(0)
    return random.uniform(0, 2, (examples, 784)).astype('float32'), random.randint(0, 10, examples)


def main(framework, contender, mode, units, batch, cpus):
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)       # what a library prints does not get among the answers

    def answer(**facts):
        answers.write(json.dumps(facts) + '\n')
        answers.flush()

    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, cpus)
    framework = importlib.import_module(framework)
    imported = peak_memory()
    step, forward = framework.CONTENDERS[contender](*batch_of(batch), units=units)
    loss = None
    if step is not None:
        result = step()     # before prediction too, so that the weights are in the state that training leaves
        framework.wait(result)
        loss = framework.loss(result, batch)
        if not math.isfinite(loss):
            raise ValueError(f'the loss is {loss}')
    run = {'train': step, 'predict': forward}[mode]

    def turn(steps):
        framework.wait(run())   # not timed: the contender before this one has filled the processor's caches
        start = time.perf_counter()
        for _ in range(steps):
            result = run()
        framework.wait(result)
        return time.perf_counter() - start

    turn(2)     # compiles what is left to compile
    answer(loss=loss, imported=imported, threads=framework.threads(), versions=framework.versions())
    for line in sys.stdin:
        answer(seconds=turn(int(line)), peak=peak_memory())


if __name__ == '__main__':
    main(**json.loads(sys.argv[1]))
