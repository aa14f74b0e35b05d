# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One, two and four workers, and one process with two and with four contexts, on the same digits: curves and a table.

All take the same number of digits in each step, so they differ by their draws alone: a step of one worker has one draw
of the weights, a step of four workers or of four contexts has four, and a gradient with less noise.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from example import parser, save_figure

import mxnet as mx
import numpy as np
from matplotlib import pyplot

from bbb_layers.checkpoint import load_checkpoint
from train_mnist import build

HERE = Path(__file__).resolve().parent

# what is compared -> workers, contexts of each, color, line
RUNS = {'1 worker': (1, 1, 'C0', '-'),
        '2 workers': (2, 1, 'C1', '-'), '1 process, 2 contexts': (0, 2, 'C1', ':'),
        '4 workers': (4, 1, 'C2', '-'), '1 process, 4 contexts': (0, 4, 'C2', ':')}


def history(workers, contexts, args, seed, folder):
    """Of one run: losses, NLLs, accuracies, a value for each epoch."""
    epochs, units = (2, 50) if args.quick else (10, 400)
    flags = ['--output', folder, '--seed', str(seed), '--epochs', str(epochs), '--units', str(units),
             '--contexts', str(contexts)] + ['--quick'] * args.quick
    # example.py wants all processors for this process; launch.py divides them among the workers.
    env = {name: value for name, value in os.environ.items() if name != 'OMP_NUM_THREADS'}
    launch = [str(HERE / 'launch.py'), '--workers', str(workers)] if workers else []
    subprocess.run([sys.executable] + launch + [str(HERE / 'train_mnist.py')] + flags, check=True,
                   env=env, stdout=subprocess.DEVNULL)
    return load_checkpoint(os.path.join(folder, 'mnist.checkpoint'), build(units, [mx.cpu()]))


def plot(results, folder):
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), layout='constrained')
    for name, runs in results.items():
        color, style = RUNS[name][2:]
        for ax, key in zip(axes, ('nlls', 'accuracies')):
            values = np.array([facts[key] for facts in runs])
            epochs = np.arange(1, values.shape[1] + 1)
            ax.plot(epochs, values.mean(axis=0), style, color=color, label=name)
            ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2,
                            linewidth=0)
    axes[0].set(xlabel='epoch', ylabel='nats per example', title='test NLL of the posterior mean', yscale='log')
    axes[1].set(xlabel='epoch', ylabel='accuracy', title='test accuracy')
    axes[0].legend()
    save_figure(figure, folder, 'distributed')


def main():
    args = parser(__doc__, 'distributed').parse_args()
    seeds, results = 1 if args.quick else 3, {}
    print('%-22s  last loss of rank 0  test NLL  accuracy, mean and standard deviation of %d' % ('', seeds))
    for name, (workers, contexts, _, _) in list(RUNS.items())[:3 if args.quick else None]:
        results[name] = []
        for seed in range(args.seed, args.seed + seeds):
            with tempfile.TemporaryDirectory() as folder:
                results[name].append(history(workers, contexts, args, seed, folder))
        last = np.array([[facts[key][-1] for key in ('losses', 'nlls', 'accuracies')] for facts in results[name]])
        print('%-22s  ' % name + '  '.join('{:8.4f} +- {:.4f}'.format(*pair) for pair in zip(
            last.mean(axis=0), last.std(axis=0, ddof=1) if seeds > 1 else [np.nan] * 3)), flush=True)
    plot(results, args.output)


if __name__ == '__main__':
    main()
