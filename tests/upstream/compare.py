#!/usr/bin/env python
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Runs MXNet's own tests twice, plain and with Bayesian layers in the place of Gluon's, and compares test by test.

The tests come from a source tree of MXNet at the version that is installed (``git clone --depth 1 --branch 1.9.1
https://github.com/apache/mxnet``); no file of MXNet's is part of this repository. ``exchange.py``, a pytest plugin,
exchanges the layers: Dense, convolutions and transposed ones, Embedding, and the recurrent layers and cells.

A test is unchanged if it has the same outcome in both runs. A test that fails in both runs has a reason of this
machine's or of MXNet's own, and says nothing about the layers. Any other difference must have a reason in
``reasons.json``. The exit status is 1 if a difference has no reason, or a test with a reason does not differ, else 0.

The commonest reason is that a test compares the outputs of two forwards in train mode, and each has a draw of its own.
So each test that fails in the second run alone runs a third time, with an ``initial_sigma`` so small that all draws are
the mean. A test that still differs then has another reason.

Each file of tests runs in a process of its own. A test that ends this process, by a crash or because it takes longer
than ``--limit``, is tried once more in a process of its own, and the other tests of the file go on in a new one. All
processes find the network switched off, so that tests which download something fail at once, in both runs.

Outcomes stand in ``--output``, in folders that bear a checksum of tests, plugin and package: a run that was stopped
goes on where it stopped, and runs again after a change to one of the three.
"""
import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import bbb_layers  # noqa: E402, before mxnet, see bbb_layers/_mxnet/import_hook.py
import mxnet  # noqa: E402
import numpy  # noqa: E402
from processes import VARIANTS, Run, run_all  # noqa: E402
from verdicts import Comparison, markdown  # noqa: E402

#: The files of tests/python/unittest in which a test builds a layer of Gluon's, or part of a file.
FILES = ['test_gluon.py', 'test_gluon_batch_processor.py', 'test_gluon_contrib.py', 'test_gluon_data.py',
         'test_gluon_data_vision.py', 'test_gluon_estimator.py', 'test_gluon_event_handler.py',
         'test_gluon_model_zoo.py', 'test_gluon_rnn.py', 'test_gluon_save.py', 'test_gluon_trainer.py',
         'test_gluon_utils.py', 'test_loss.py', 'test_numpy_gluon.py', 'test_contrib_control_flow.py',
         'test_exc_handling.py', 'test_higher_order_grad.py', 'test_subgraph.py', 'test_subgraph_op.py',
         'test_thread_local.py', 'test_operator.py::test_take_grads']


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('source', type=Path, metavar='MXNET_SOURCE', help='folder of a source tree of MXNet')
    add('--output', type=Path, default=ROOT / 'results' / 'upstream', metavar='DIR', help='default results/upstream')
    add('--jobs', type=int, default=os.cpu_count() or 1, metavar='N', help='processes at a time; default %(default)s')
    add('--limit', type=float, default=600, metavar='SECONDS', help='for each test; default %(default)s')
    add('--files', nargs='+', metavar='FILE', help='these files of tests/python/unittest only')
    add('-k', default='', metavar='EXPRESSION', help="only the tests that pytest's -k chooses")
    add('--reasons', type=Path, default=HERE / 'reasons.json', metavar='FILE', help='default %(default)s')
    add('--write', action='store_true', help='write RESULTS.md, beside this script')
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1 (saw: {args.jobs})')
    if not args.limit > 0:
        parser.error(f'--limit must be positive (saw: {args.limit})')
    if args.write and (args.files or args.k):
        parser.error('--write needs all tests, and so neither --files nor -k')
    args.files = args.files or FILES
    libinfo = args.source / 'python' / 'mxnet' / 'libinfo.py'
    version = re.search("__version__ = ['\"](.+)['\"]", libinfo.read_text() if libinfo.is_file() else '')
    if version is None or version.group(1) != mxnet.__version__:
        parser.error(f'MXNET_SOURCE must be a source tree of MXNet {mxnet.__version__}, which is installed '
                     f'(saw: {version.group(1) if version else "no python/mxnet/libinfo.py"} in {args.source})')
    args.tests = args.source.resolve() / 'tests' / 'python' / 'unittest'
    missing = [name for name in args.files if not (args.tests / name.partition('::')[0]).is_file()]
    if missing:
        parser.error(f'{args.tests} must have all of --files (saw: no {", ".join(missing)})')
    return args


def checksum(variant, *parts):
    """A checksum of the sources in ``parts``, files or folders, of the versions that matter, and of the options."""
    total = hashlib.sha256(f'{sys.version} {mxnet.__version__} {numpy.__version__} {VARIANTS[variant]}'.encode())
    for part in parts:
        for path in sorted(part.rglob('*')) if part.is_dir() else [part]:
            if path.suffix in ('.py', '.cc', '.h'):
                total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:12]


def by_file(tests):
    """A dict from a file to a list of ``tests`` in it."""
    files = {}
    for test in tests:
        files.setdefault(test.partition('::')[0], []).append(test)
    return files


def main(argv=None):
    args = arguments(argv)
    reasons = json.loads(args.reasons.read_text(encoding='utf-8'))
    plugin, package = HERE / 'exchange.py', Path(bbb_layers.__file__).parent
    parts = {'plain': [args.tests, plugin], 'exchanged': [args.tests, plugin, package],
             'narrow': [args.tests, plugin, package]}
    folders = {variant: args.output / f'{variant}-{checksum(variant, *parts[variant])}' for variant in VARIANTS}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)

    def outcomes(tests, *variants):
        """Run ``tests``, a dict from a file to a list of its tests or of itself; return test -> record by variant."""
        runs = {variant: [Run(args, variant, name, targets, folders[variant]) for name, targets in tests.items()]
                for variant in variants}
        run_all([run for variant in variants for run in runs[variant]], args.jobs)
        return [{test: line for run in runs[variant] for test, line in run.outcomes().items()} for variant in variants]

    comparison = Comparison(*outcomes({name: [name] for name in args.files}, 'plain', 'exchanged'))
    comparison.narrow, = outcomes(by_file(comparison.failed()), 'narrow')
    print(f'{comparison.summary()} (outcomes in {args.output})')
    mistakes = list(comparison.mistakes(reasons))
    print(''.join(f'{line}\n' for line in mistakes), end='')
    if args.write:
        (HERE / 'RESULTS.md').write_text(markdown(comparison, reasons), encoding='utf-8')
    return 1 if mistakes else 0


if __name__ == '__main__':
    sys.exit(main())
