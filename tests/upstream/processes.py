# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The processes in which tests of MXNet run, one for each file of tests and variant."""
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exchange import read_records, write_record

__all__ = ['LEFT_OUT', 'VARIANTS', 'Run', 'run_all']

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
#: Tests of these files that do not run at all -> why.
LEFT_OUT = {
    'test_gluon.py::test_slice_pooling2d': 'It needs 10 GB of memory, and has no layer with weights.',
    'test_gluon.py::test_slice_pooling2d_slice_pooling2d': 'It needs 10 GB of memory, and has no layer with weights.'}
#: What each run hands to the plugin.
VARIANTS = {'plain': [], 'exchanged': ['--exchange'], 'narrow': ['--exchange', '--initial-sigma', '1e-12']}
#: The processes that run now.
PROCESSES = set()


class Run:
    """The tests ``targets`` of one file, or all of it, in one variant."""

    def __init__(self, args, variant, name, targets, folder):
        self.args, self.variant, self.targets = args, variant, targets
        self.record = folder / f'{name.replace(".py", "").replace("::", ".")}.jsonl'
        self.log = self.record.with_suffix('.log')

    def outcomes(self):
        """The tests that are done -> what the record says of them."""
        return {line['test']: line for line in read_records(self.record) if 'outcome' in line}

    def is_done(self):
        chosen = ('', self.args.k)
        return (set(self.targets) <= self.outcomes().keys() or
                any(line.get('complete') in chosen for line in read_records(self.record)))

    def go(self):
        """Run all tests that have no outcome yet."""
        if self.is_done():
            return
        todo = [self.targets]
        while todo:
            targets = todo[-1]
            count = len(read_records(self.record))
            status = self.pytest(targets)
            lines = read_records(self.record)[count:]
            if any('finished' in line for line in lines):
                todo.pop()
                continue
            last = lines[-1] if lines else {}
            if 'started' in last and targets != [last['test']]:
                todo.append([last['test']])       # once more, alone
                continue
            todo.pop()
            late = 'started' in last and time.time() - last['started'] >= self.args.limit
            end = f'signal {signal.Signals(-status).name}' if status < 0 else f'status {status}'
            for test in targets:
                write_record(self.record, test=test, outcome='timed out' if late else 'crashed', layers=0,
                             message=f'longer than {self.args.limit:g} s' if late else f'the process ended with {end}')
        if not any('::' in target for target in self.targets):
            write_record(self.record, complete=self.args.k)

    def pytest(self, targets):
        """Run ``targets`` in a process; return its exit status, below 0 for a signal."""
        command = [sys.executable, '-m', 'pytest', '-q', '--tb=short', '-p', 'exchange', '-p', 'no:cacheprovider',
                   '-p', 'no:faulthandler', '-p', 'no:warnings', '-c', os.devnull, '--rootdir', str(self.args.tests),
                   '--noconftest', '--record', str(self.record.resolve()), '--limit', str(self.args.limit),
                   *VARIANTS[self.variant], *(['-k', self.args.k] if self.args.k else []),
                   *(f'--deselect={test}' for test in LEFT_OUT), *(str(self.args.tests / test) for test in targets)]
        path = os.pathsep.join([str(HERE), str(ROOT), os.environ.get('PYTHONPATH', '')])
        with tempfile.TemporaryDirectory() as folder, open(self.log, 'ab') as log:
            # Port 9 refuses at once.
            environment = dict(os.environ, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE='1', MXNET_HOME=folder,
                               OMP_NUM_THREADS='1', MXNET_MODULE_SEED='0', no_proxy='', PYTEST_ADDOPTS='',
                               PYTEST_DISABLE_PLUGIN_AUTOLOAD='1',
                               **dict.fromkeys(('http_proxy', 'https_proxy'), 'http://127.0.0.1:9'))
            process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            PROCESSES.add(process)
            try:
                return process.wait()
            finally:
                PROCESSES.remove(process)
                stop(process)       # what it has started and left behind


def stop(process):
    """Stop ``process`` and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_all(runs, jobs):
    """Do all ``runs``, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(Run.go, runs))
        except KeyboardInterrupt:
            for process in list(PROCESSES):
                stop(process)
            os._exit(130)       # else the pool would start all that is left
