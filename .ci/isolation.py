# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Runs each test file in a process of its own, in several orders of its tests, and names the files that fail.

A test that passes only because another test ran before it, or fails because of what another test left behind, shows
here. Each file runs alone in its own order, in reverse, in random orders, and on two processes (``-n 2``). The extras
'test' and 'check' of setup.py have all that this needs; ``make test check`` installs both.

    .venv/3.11/bin/python .ci/isolation.py                          # all files, with the random orders 1, 2 and 3
    .venv/3.11/bin/python .ci/isolation.py --seeds 4,5 --jobs 2     # other random orders, two runs at a time
    .venv/3.11/bin/python .ci/isolation.py tests/training/test_loss.py    # one file

The output of each run is in build/isolation, and the last lines of a run that failed name the way to repeat it. A run
that passed is not repeated until its test file, or something that is no test file, changes: a stopped call can be made
again and goes on. ``rm -r build/isolation`` starts anew.

Several files can also share one process, in one random order of all their tests:

    .venv/3.11/bin/python -m pytest --random-order-bucket=global --random-order-seed=1 tests/training
"""
import argparse
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / 'build' / 'isolation'
#: pytest's exit code where every test of a file is deselected, as slow tests are.
NO_TESTS = 5


def orders(seeds):
    """Name of an order -> the arguments of pytest that make it."""
    random = {f'random-{seed}': ['--random-order-bucket=global', f'--random-order-seed={seed}'] for seed in seeds}
    return {'alone': [], 'reverse': ['--reverse'], **random, 'two-processes': ['-n', '2']}


def digest(file):
    """A hash of what the result of ``file`` depends on."""
    others = [path for path in (ROOT / 'tests').rglob('*.py') if not path.name.startswith('test_')]
    others += [path for path in ROOT.iterdir() if path.is_file()]       # README.md, setup.py, pytest.ini, ...
    others += [path for folder in ('bbb_layers', 'examples', 'docs') for path in (ROOT / folder).rglob('*')
               if path.suffix in ('.py', '.h', '.cc', '.md', '.rst')]
    content = hashlib.sha256()
    for path in [file] + sorted(others):
        content.update(path.read_bytes())
    return content.hexdigest()


def run(file, order, arguments):
    """Whether ``file`` passes in this order."""
    log = OUTPUT / f'{file.stem}.{order}.txt'
    passed = log.with_suffix('.passed')
    known = digest(file)
    if passed.is_file() and passed.read_text() == known:
        return True
    passed.unlink(missing_ok=True)
    command = [sys.executable, '-m', 'pytest', '-q', *arguments, str(file.relative_to(ROOT))]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    start = time.time()
    with open(log, 'w', encoding='utf-8') as stream:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
        stream.write(f'{" ".join(command)}\nexit code {code}\n')
    good = code in (0, NO_TESTS)
    print(f'{"passed" if good else "FAILED"} {file.stem} {order} ({time.time() - start:.0f} s)', flush=True)
    if good:
        passed.write_text(known)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='*', type=Path, metavar='FILE', help='test files; default all')
    parser.add_argument('--seeds', default='1,2,3', help='seeds of the random orders; default 1,2,3')
    parser.add_argument('--orders', help='some of the orders, such as alone,reverse,random-1; default all')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    args = parser.parse_args()
    known = orders(args.seeds.split(','))
    names = args.orders.split(',') if args.orders else list(known)
    if not set(names) <= set(known):
        parser.error(f'--orders must be some of {",".join(known)} (saw: {args.orders})')
    files = [file.resolve() for file in args.files] or sorted((ROOT / 'tests').rglob('test_*.py'))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # Order by order, so that what most files can fail by is known first.
    runs = [(file, name, known[name]) for name in names for file in files]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda each: run(*each), runs))
    failed = [f'build/isolation/{file.stem}.{order}.txt' for (file, order, _), good in zip(runs, results) if not good]
    print(f'{len(runs) - len(failed)} of {len(runs)} runs passed')
    if failed:
        sys.exit('\n'.join(['These failed:'] + failed))


if __name__ == '__main__':
    main()
