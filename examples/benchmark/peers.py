# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""This package beside the notebook's code, plain Gluon and other libraries: times, memory, and one file of tables.

Each contender is a process in an environment of its own (see environments.py and contenders/). They take turns, one
computing while the others wait for a line of input, so that whatever else the machine does hits all alike. All have
the same processors and the same number of threads. What cannot be installed is left out by name.

Runs in parts, too: the measurements are kept beside the output, in a file of the same name that ends in .json, and a
section that is measured again replaces its old measurements.
"""
import argparse
import collections
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers_report
from environments import PACKAGES, ROOT, build, python_of

HERE = Path(__file__).resolve().parent
TURN = 0.1      # seconds that a turn should take
FEWEST = 2      # steps in a turn
MOST = {'train': 20, 'predict': 200}    # with many more a network would fit the one batch to the last bit

Contender = collections.namedtuple('Contender', 'environment package variables')
NATIVE, OPERATORS = {'BBB_LAYERS_NATIVE': '1'}, {'BBB_LAYERS_NATIVE': '0'}
# PyTorch's tuning guide recommends an allocator that keeps memory; these make the C library's do so. It saves its
# operators a fifth of a step, the other frameworks nothing.
TORCH = {'CUDA_VISIBLE_DEVICES': '', 'MALLOC_TRIM_THRESHOLD_': str(10 ** 9), 'MALLOC_MMAP_THRESHOLD_': str(10 ** 9)}
JAX = {'JAX_PLATFORMS': 'cpu'}

# In the order of the tables. The first is the one that all others are compared with.
CONTENDERS = {
    'fused': Contender('gluon', None, NATIVE),
    'operators': Contender('gluon', None, OPERATORS),
    'loaded': Contender('gluon', None, NATIVE),
    'to-deterministic': Contender('gluon', None, NATIVE),
    'notebook': Contender('gluon', None, OPERATORS),
    'gluon': Contender('gluon', None, OPERATORS),
    'gluon-fusedadam': Contender('gluon', None, NATIVE),
    'gluon-loaded': Contender('gluon', None, OPERATORS),
    'torch': Contender('torch', None, TORCH),
    'torch-compile': Contender('torch', None, TORCH),
    'torchbnn': Contender('torch', 'torchbnn', TORCH),
    'blitz': Contender('torch', 'blitz', TORCH),
    'bayesian-torch': Contender('torch', 'bayesian-torch', TORCH),
    'bayesian-torch-flipout': Contender('torch', 'bayesian-torch', TORCH),
    'torch-deterministic': Contender('torch', None, TORCH),
    'jax': Contender('jax', None, JAX),
    'jax-rbg': Contender('jax', None, JAX),
    'jax-deterministic': Contender('jax', None, JAX)}

TRAINING = [name for name in CONTENDERS if name not in ('loaded', 'to-deterministic', 'gluon-loaded')]
FASTEST = ['fused', 'gluon', 'gluon-fusedadam', 'torch', 'torch-compile', 'torch-deterministic', 'jax',
           'jax-deterministic']
PREDICTING = ['fused', 'loaded', 'to-deterministic', 'notebook', 'gluon', 'gluon-loaded', 'torch', 'blitz',
              'torch-deterministic', 'jax', 'jax-deterministic']

# Name -> (mode, units of both hidden layers, examples in a batch), and who takes part
Section = collections.namedtuple('Section', 'settings contenders')
SECTIONS = {
    'step': Section([('train', 400, 128)], TRAINING),
    'wide': Section([('train', 1200, 128)], TRAINING),
    'batch': Section([('train', 400, 32), ('train', 400, 1024)], FASTEST),
    'width': Section([('train', units, 128) for units in (100, 200, 400, 800, 1600, 3200)],
                     ['fused', 'gluon', 'gluon-fusedadam']),
    'predict': Section([('predict', 400, 128)], PREDICTING)}


class Failed(Exception):
    """A contender cannot take part; says why in one line."""


class Worker:
    """A contender's process, ready to take turns. ``facts`` is what it said of itself."""

    def __init__(self, name, interpreter, setting, cpus):
        contender = CONTENDERS[name]
        mode, units, batch = setting
        spec = {'framework': contender.environment + '_contenders', 'contender': name, 'mode': mode, 'units': units,
                'batch': batch, 'cpus': cpus}
        threads = str(len(cpus))
        # MKL_NUM_THREADS and its like, where they are set, would overrule OMP_NUM_THREADS.
        env = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads,
                   **contender.variables)
        self.steps, self.most = FEWEST, MOST[mode]
        self.errors = tempfile.TemporaryFile('w+')
        self.process = subprocess.Popen(
            [interpreter, str(HERE / 'contenders' / 'worker.py'), json.dumps(spec)], env=env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors, universal_newlines=True, bufsize=1)
        try:
            self.facts = self.answer()
            if self.facts['threads'] != len(cpus):
                raise Failed('runs {} threads, not {}'.format(self.facts['threads'], threads))
        except BaseException:
            self.close()
            raise

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            lines = [line.strip() for line in self.errors if line.strip()]
            raise Failed((lines or ['it ended with exit status %d' % self.process.returncode])[-1])
        return json.loads(line)

    def turn(self, seconds):
        """A turn of about so many seconds: milliseconds per step, and its peak memory so far."""
        try:
            self.process.stdin.write('%d\n' % self.steps)
        except BrokenPipeError:
            pass    # it has died, and the answer says of what
        answer = self.answer()
        each = answer['seconds'] / self.steps
        self.steps = min(max(round(seconds / each), FEWEST), self.most)
        return each * 1e3, answer['peak']

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def measure(setting, interpreters, cpus, rounds, warmup, turn=TURN, say=print):
    """Let contenders take turns.

    Parameters
    ----------
    setting : (mode, units, batch)
    interpreters : dict of contender -> its Python, or the Failed that says why it has none
    cpus : list of int
        The processors that each may use, a thread for each.
    rounds, warmup : int
        Turns of each contender, and turns before these that do not count.
    turn : float
        Seconds that a turn should take.

    Returns
    -------
    dict
        ``milliseconds``: contender -> of a step, in each round; ``memory``: contender -> [MB after the imports, peak];
        ``loss``: contender -> at the start; ``left_out``: contender -> reason; ``versions``.
    """
    workers, left_out = {}, {}
    try:
        for name, interpreter in interpreters.items():
            try:
                if isinstance(interpreter, Failed):
                    raise interpreter
                workers[name] = Worker(name, interpreter, setting, cpus)
            except Failed as failure:
                left_out[name] = str(failure)
                say(f'{name} is left out: {failure}')
        times, peaks = collections.defaultdict(list), {}
        shuffle = random.Random(0).sample
        for turns in range(-warmup, rounds):
            # In another order each time, so that nobody always comes after the same one.
            for name in shuffle(list(workers), len(workers)):
                try:
                    milliseconds, peaks[name] = workers[name].turn(turn)
                except Failed as failure:
                    left_out[name] = str(failure)
                    say(f'{name} is left out: {failure}')
                    workers.pop(name).close()
                    continue
                if turns >= 0:
                    times[name].append(round(milliseconds, 4))
        versions = {}
        for worker in workers.values():
            versions.update(worker.facts['versions'])
        return {
            'setting': list(setting), 'milliseconds': {name: times[name] for name in workers},
            'memory': {name: [round(workers[name].facts['imported']), round(peaks[name])] for name in workers},
            'loss': {name: workers[name].facts['loss'] for name in workers}, 'left_out': left_out,
            'versions': versions}
    finally:
        for worker in workers.values():
            worker.close()


def processor():
    """The model of the processor, as the system names it."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            return next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def processors():
    """Numbers of the processors that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count()))


def write(path, text):
    """Write a file at once: whoever reads it meanwhile sees the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)


def arguments(argv):
    available = processors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='by default all')
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, default=list(CONTENDERS), help='by default all')
    parser.add_argument('--rounds', type=int, default=30, help='turns of each contender (%(default)s)')
    parser.add_argument('--warmup', type=int, default=3, help='turns before these that do not count (%(default)s)')
    parser.add_argument('--threads', type=int, default=len(available), help='of each contender (%(default)s)')
    parser.add_argument('--quick', action='store_true', help='3 rounds of short turns, to see that all works')
    parser.add_argument('--environments', type=Path, default=ROOT / '.venv' / 'benchmark', metavar='DIR',
                        help='where the environments are, or will be built (%(default)s)')
    parser.add_argument('--output', type=Path, metavar='FILE',
                        help='(examples/benchmark/RESULTS.md; with --quick results/benchmark-quick.md)')
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.warmup = 3, 1
    if args.output is None:
        args.output = ROOT / 'results' / 'benchmark-quick.md' if args.quick else HERE / 'RESULTS.md'
    for name, least in (('rounds', 1), ('warmup', 0), ('threads', 1)):
        if getattr(args, name) < least:
            parser.error('argument --%s: must be at least %d (saw: %d)' % (name, least, getattr(args, name)))
    if args.threads > len(available):
        parser.error('argument --threads: must be at most %d, the processors there are (saw: %d)' % (
            len(available), args.threads))
    args.cpus = available[:args.threads]
    return args


def interpreters_of(folder, names):
    """Contender -> its Python, or why it has none; builds the environments that are not there."""
    names = [name for name in CONTENDERS if name in names]
    wanted = {contender: CONTENDERS[contender] for contender in names}
    failures = build(folder, sorted({each.environment for each in wanted.values()}),
                     [package for package in PACKAGES if package in {each.package for each in wanted.values()}])
    found = {}
    for name, contender in wanted.items():
        failure = failures.get(contender.environment) or failures.get(contender.package)
        found[name] = python_of(folder / contender.environment) if failure is None else Failed(failure)
    return found


def main(argv=None):
    args = arguments(argv)
    record = args.output.with_suffix('.json')
    results = json.loads(record.read_text(encoding='utf-8')) if record.exists() else {}
    interpreters = interpreters_of(args.environments, args.contenders)
    for name in args.sections:
        start, parts = time.time(), []
        for setting in SECTIONS[name].settings:
            print('%s: %s, %d units, batch %d' % ((name,) + setting), flush=True)
            taking_part = {each: interpreters[each] for each in interpreters if each in SECTIONS[name].contenders}
            parts.append(measure(setting, taking_part, args.cpus, args.rounds, args.warmup,
                                 TURN / 5 if args.quick else TURN))
        results[name] = {
            'parts': parts, 'rounds': args.rounds, 'threads': args.threads, 'processor': processor(),
            'python': platform.python_version(), 'date': time.strftime('%Y-%m-%d'),
            'minutes': round((time.time() - start) / 60, 1), 'arguments': sys.argv[1:] if argv is None else argv}
        write(record, json.dumps({key: results[key] for key in SECTIONS if key in results}, indent=1) + '\n')
        write(args.output, peers_report.report(results))
    print(f'written to {args.output}')


if __name__ == '__main__':
    main()
