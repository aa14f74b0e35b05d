# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A fuzzer: damaged files of Parameters, damaged checkpoints, and wrong attributes of the native operators.

    python tests/fuzz/fuzz.py TARGET --minutes 20 --seed 1
    python tests/fuzz/fuzz.py TARGET --seed 1 --case 345

The targets are ``parameters`` (``net.load_parameters``), ``checkpoint`` (``load_checkpoint``) and ``native``. A case
follows from the target, the seed and its number alone. The cases run in a worker, which is a process with a limit of
memory and of time for each case; a worker that dies is replaced. The exit status is 1 if there are findings.

A finding is a worker that died or hung, a refused input that changed something, and an accepted input whose effect is
not what the input says. MXNet alone reads the files of ``load_parameters``, and some damaged files kill it: a worker
that dies while MXNet alone reads the file is counted in the column "MXNet's own", and is no finding.
"""
import argparse
import collections
import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

__all__ = ['TARGETS', 'Report', 'fuzz', 'main']

TARGETS = ('parameters', 'checkpoint', 'native')
WORKER = Path(__file__).with_name('fuzz_worker.py')
#: Seconds for one case, and for a worker to begin.
SECONDS, SECONDS_TO_BEGIN = 60, 300
_DEAD = object()


class Report(NamedTuple):
    """What happened: the outcomes of the cases, and the findings, each with the number of its case."""
    outcomes: 'collections.Counter[str]'
    findings: Dict[int, List[str]]

    def table(self) -> str:
        """A table of two lines."""
        columns = {'cases': sum(self.outcomes.values()), 'refused': self.outcomes['refused'],
                   'accepted': self.outcomes['accepted'], "MXNet's own": self.outcomes['mxnet'],
                   'findings': len(self.findings)}
        return '\n'.join('  '.join(f'{cell:>11}' for cell in row) for row in (columns, columns.values()))


class Worker:
    """A process that runs cases."""

    def __init__(self, command):
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                                         universal_newlines=True)
        self._lines: 'queue.Queue' = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        begun = self._answer(SECONDS_TO_BEGIN)
        if begun != {'ready': True}:
            raise RuntimeError(f'the worker must begin (saw: {begun}, {self.end()})')

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(_DEAD)

    def _answer(self, seconds):
        """The next line of the process; None if it has died or takes longer."""
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=seconds)
            return None if line is _DEAD else json.loads(line)
        self._process.kill()
        return None

    def run(self, case):
        """(outcome, findings, whether the worker can go on)."""
        begun, alone = time.monotonic(), False
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f'{case}\n')
            self._process.stdin.flush()
        while True:
            answer = self._answer(max(0., begun + SECONDS - time.monotonic()))
            if answer is None:
                end = self.end()
                return ('mxnet', [], False) if alone else ('died', [f'the worker {end}'], False)
            if 'outcome' in answer:
                return answer['outcome'], answer['findings'], True
            alone = answer['mxnet alone']

    def end(self):
        """End the process; returns how it ended, and the end of what it wrote to stderr."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process.stdout.close()
        with self._errors as file:
            file.seek(0)
            text = file.read().decode('utf-8', 'replace')
        return f'ended with {code}: {text[-1500:]}'


def fuzz(target: str, seed: int, cases, seconds: float = float('inf'), worker: Optional[Path] = None) -> Report:
    """Run ``cases``, which are numbers, until they or the ``seconds`` are at an end."""
    report, running, until = Report(collections.Counter(), {}), None, time.monotonic() + seconds
    command = [sys.executable, str(worker or WORKER), target, str(seed)]
    try:
        for case in cases:
            if time.monotonic() > until:
                break
            running = running or Worker(command)
            outcome, findings, goes_on = running.run(case)
            running = running if goes_on else None
            report.outcomes[outcome] += 1
            if findings:
                report.findings[case] = findings
                print(f'case {case}, {outcome}:', *findings, sep='\n    ', flush=True)
    finally:
        if running is not None:
            running.end()
    return report


def main(arguments: Optional[List[str]] = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('target', choices=TARGETS)
    parser.add_argument('--minutes', type=float, default=1., metavar='N', help='how long it runs (1)')
    parser.add_argument('--seed', type=int, default=0, help='the cases follow from it (0)')
    parser.add_argument('--case', type=int, metavar='K', help='run this case alone')
    flags = parser.parse_args(arguments)
    if flags.case is not None:
        report = fuzz(flags.target, flags.seed, [flags.case])
    else:
        report = fuzz(flags.target, flags.seed, iter(range(sys.maxsize)), 60 * flags.minutes)
    print(report.table())
    return 1 if report.findings else 0


if __name__ == '__main__':
    sys.exit(main())
