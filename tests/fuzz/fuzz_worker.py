# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The worker of the fuzzer: it reads numbers of cases, and writes one line of JSON for each."""
import importlib
import json
import os
import random
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Callable, List, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

__all__ = ['Outcome', 'Case', 'serve']

#: How many bytes of memory a worker may take in addition to what it has when it begins.
MORE_MEMORY = 3 * 2 ** 30


class Outcome(NamedTuple):
    """How a case ended: 'refused' or 'accepted', and what is wrong with that."""
    outcome: str
    findings: List[str]


class Case(NamedTuple):
    """What a target gets: the random numbers of the case, a folder, and a function that says who reads the file."""
    random: random.Random
    number: int
    folder: Path
    mxnet_alone: Callable[[bool], None]


def _limit_memory():
    pages = int(Path('/proc/self/statm').read_text().split()[0]) if os.path.exists('/proc/self/statm') else None
    if pages is not None:
        most = pages * resource.getpagesize() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(target: str, seed: int, run: Callable[[Case], Outcome]) -> None:
    """Run the cases whose numbers come on stdin. What the cases themselves print goes to stderr."""
    output, sys.stdout = os.fdopen(os.dup(1), 'w'), sys.stderr
    os.dup2(2, 1)

    def write(**answer):
        output.write(json.dumps(answer) + '\n')
        output.flush()

    warnings.simplefilter('ignore')
    _limit_memory()
    write(ready=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            number = int(line)
            case = Case(random.Random(f'{target} {seed} {number}'), number, Path(folder),
                        lambda alone: write(**{'mxnet alone': alone}))
            outcome = run(case)
            write(outcome=outcome.outcome, findings=outcome.findings)


def main(target: str, seed: int) -> None:
    """Serve one of the targets, each of which is a module with a function ``run``."""
    importlib.import_module('bbb_layers')       # before mxnet, see bbb_layers/_mxnet/import_hook.py
    serve(target, seed, importlib.import_module(f'fuzz_{target}').run)


if __name__ == '__main__':
    # The targets import this file under its name, so the classes must be those of the module of this name.
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module('fuzz_worker').main(sys.argv[1], int(sys.argv[2]))
