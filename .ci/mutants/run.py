# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Measures how many small faults in the package the tests notice.

    .venv/3.11/bin/python .ci/mutants/run.py --seed 1                # 300 mutants of Python and 50 of C++
    .venv/3.11/bin/python .ci/mutants/run.py --seed 1 --only touched # without the whole suite for those that survive
    .venv/3.11/bin/python .ci/mutants/run.py --seed 1 --table        # what is known, without a run
    .venv/3.11/bin/python .ci/mutants/run.py --again KEY KEY         # tries these again, and all that are open

The sample follows from the seed and the source: as many mutants from each part of the package as from any other, and
within a part from each kind of fault as from any other. First, a run of the whole suite notes which tests touch which
line. A mutant then runs the tests that touch its line, and all others if it survives these. A mutant is killed by a
test that fails, by a process that dies, and by tests that take much longer than before.

A call that was stopped can be made again and goes on. The verdicts are in ``seed-<seed>.jsonl`` beside this file, and
survivors.md has a section for each survivor with its difference and the reason why it is left. A verdict counts as long
as the function around the fault, and the line, stay as they are. ``make check`` installs what this needs, beside
``make test``.
"""
import argparse
import difflib
import hashlib
import itertools
import json
import os
import pickle
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutations

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / 'build' / 'mutants'
TOUCHED = BUILD / 'touched.pickle'
SURVIVORS = HERE / 'survivors.md'
#: Parts of the package -> the files whose mutants are drawn.
PARTS = {
    'priors': ['posterior/priors.py', 'posterior/densities.py', 'networks/network_priors.py'],
    'posterior': ['posterior/gaussian.py', 'posterior/parameters.py', 'posterior/rho.py', 'posterior/updates.py'],
    'estimators': ['layers/estimators.py', 'layers/linear.py', 'layers/transposed.py'],
    'frames and tap': ['forward/frames.py', 'forward/tap.py', 'forward/draw.py'],
    'loss': ['training/loss.py', 'training/likelihoods.py', 'training/finite.py'],
    'prune': ['networks/pruning.py', 'networks/sparse.py'],
    'predict': ['prediction/draws.py', 'prediction/monte_carlo.py'],
    'metrics': ['prediction/metrics.py', 'training/loss_metrics.py'],
    'uncertainty': ['prediction/parts.py'],
    'schedules': ['training/schedules.py', 'training/handlers.py'],
    'checkpoint': [f'checkpoint/{name}.py' for name in ('file', 'names', 'parameters', 'trainer', 'trainer_states',
                                                        'training')],
    'optimizer': ['training/optimizer.py'],
}
KERNELS = 'C++ kernels'
#: The test files that touch the C++, the quickest first.
TESTS_OF_KERNELS = ['tests/native/test_native.py', 'tests/training/test_optimizer.py', 'tests/posterior',
                    'tests/forward/test_native_draw.py', 'tests/native/test_compilers.py']
#: The address space that a mutant may ask for.
MEMORY = 24 << 30
#: In place of a test that failed.
DIED = 'the process died, or no test could begin'


def sources(part):
    """Name -> bytes of the files of a part."""
    package = ROOT / 'bbb_layers'
    paths = [package / name for name in PARTS[part]] if part != KERNELS else [
        path for path in sorted((package / 'native' / 'src').iterdir()) if path.suffix in ('.cc', '.h')]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def drawn(part, seed):
    """All mutants of a part, in the order in which they are drawn: one of each kind in turn."""
    kinds = {kind: [] for kind in mutations.KINDS}
    for file, source in sources(part).items():
        for mutant in mutations.mutants(file, source):
            kinds[mutant.kind].append(mutant)
    for found in kinds.values():
        found.sort(key=lambda mutant: hashlib.sha256(f'{seed} {mutant.key}'.encode()).digest())
    rounds = itertools.zip_longest(*kinds.values())
    return [mutant for each in rounds for mutant in each if mutant is not None]


def covered(files, jobs):
    """File of the package -> line -> the tests of these files that touch it, and test -> seconds."""
    log, report, data = (BUILD / name for name in ('suite.txt', 'suite.xml', 'coverage'))
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-n', str(jobs), '--cov=bbb_layers',
               '--cov-context=test', '--cov-report=', f'--junitxml={report}', *files]
    with open(log, 'w', encoding='utf-8') as stream:
        code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
                              env=environment(ROOT, COVERAGE_FILE=str(data))).returncode
    if code not in (0, 5):      # 5: all tests are slow ones
        sys.exit(f'the tests could not run, or fail without a mutant; {log} has the reason')
    seconds = {}
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        name = f'{case.get("classname").replace(".", "/")}.py::{case.get("name")}'
        seconds[name] = seconds.get(name, 0.) + float(case.get('time'))
    import coverage
    found = coverage.CoverageData(str(data))
    found.read()
    lines = {}
    for path in found.measured_files():
        lines[Path(path).relative_to(ROOT).as_posix()] = {
            line: {name.rpartition('|')[0] for name in names}
            for line, names in found.contexts_by_lineno(path).items()}
    return lines, seconds


class Touched:
    """Which tests touch which line, and how long they take."""

    def __init__(self, lines, seconds):
        self.lines, self.seconds = lines, seconds

    @staticmethod
    def measured(jobs):
        """Runs the whole suite, or the test files that have changed since it was run on the same package."""
        tests = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / 'tests').rglob('*.py')}
        digest = hashlib.sha256()
        for name, content in sorted(tests.items()):
            if not Path(name).name.startswith('test_'):
                digest.update(content)
        for path in sorted((ROOT / 'bbb_layers').rglob('*.py')):
            digest.update(path.read_bytes())
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in tests.items()
                   if Path(name).name.startswith('test_')}
        known, old, lines, seconds = None, {}, {}, {}
        if TOUCHED.is_file():
            known, old, lines, seconds = pickle.loads(TOUCHED.read_bytes())
        if known != digest.hexdigest():
            old, lines, seconds = {}, {}, {}
        changed = sorted(name for name, value in digests.items() if old.get(name) != value)
        if changed:
            print(f'runs {len(changed)} test files, to note which tests touch which line', flush=True)
            gone = {name for name in seconds if name.partition('::')[0] in changed or
                    name.partition('::')[0] not in digests}
            seconds = {name: value for name, value in seconds.items() if name not in gone}
            new_lines, new_seconds = covered(changed, jobs)
            seconds.update(new_seconds)
            for file in {*lines, *new_lines}:
                before, after = lines.get(file, {}), new_lines.get(file, {})
                lines[file] = {line: (before.get(line, set()) - gone) | after.get(line, set())
                               for line in {*before, *after}}
            TOUCHED.write_bytes(pickle.dumps((digest.hexdigest(), digests, lines, seconds)))
        return Touched(lines, seconds)

    def tests(self, mutant, source):
        """The tests that touch the first line of the mutant's statement; all of the file for what is run at import."""
        lines = self.lines.get(mutant.file, {})
        line = mutant.line(source)
        while line > 0 and line not in lines:       # a statement of several lines is known by its first
            line -= 1
        names = lines.get(line, set())
        if '' in names:
            names = set().union(*lines.values())
        return {name for name in names if name in self.seconds}


class Slot:
    """A copy of the tree in which one mutant after the other is tried."""

    def __init__(self, number):
        self.folder = BUILD / f'slot-{number}'
        shutil.rmtree(self.folder, ignore_errors=True)
        listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=True,
                                stdout=subprocess.PIPE, universal_newlines=True).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)

    def run(self, arguments, seconds, **variables):
        """The exit status of Python, None if it takes too long, and what it printed."""
        command = [sys.executable, *arguments]
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
            errors='replace', env=environment(self.folder, **variables), start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)))
        try:
            output, _ = process.communicate(timeout=60 + 5 * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output
        return process.returncode, output


def environment(folder, **variables):
    """The environment of a run of the tests of ``folder``, which leaves nothing behind that a later run would take."""
    paths = [str(folder), str(HERE)]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1', 'PYTHONDONTWRITEBYTECODE': '1',
            **variables}


def killer(output):
    """The test that failed."""
    failed = re.findall(r'^(?:FAILED|ERROR) (.*?)(?: - .*)?$', output, re.MULTILINE)
    return failed[0] if failed else DIED


def verdict(slot, mutant, touched, everything):
    """'killed', 'survived', 'touched' if only the tests that touch it were run, or 'invalid'; and by what."""
    path = slot.folder / mutant.file
    source = path.read_bytes()
    path.write_bytes(mutant.applied(source))
    try:
        if mutant.file.endswith(('.cc', '.h')):
            phases = phases_of_kernels(slot)
            code, output = slot.run(['-c', 'from bbb_layers import native; assert native.available()'], 300,
                                    BBB_LAYERS_CACHE=str(slot.folder / 'cache'))
            if code:
                compiled = ' ended with ' not in output      # what bbb_layers/native/build.py says of the compiler
                return ('killed' if compiled else 'invalid'), killer(output)
        else:
            phases = phases_of_python(slot, mutant, source, touched)
        for arguments, seconds, variables in phases:
            if variables.get('CHOSEN_TESTS_EXCEPT') and not everything:
                return 'touched', ''
            code, output = slot.run(['-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', *arguments], seconds,
                                    **variables)
            if code not in (0, 5):      # 5: there is no test
                return 'killed', 'time' if code is None else killer(output)
        return 'survived', ''
    finally:
        path.write_bytes(source)
        shutil.rmtree(slot.folder / 'cache', ignore_errors=True)


def phases_of_python(slot, mutant, source, touched):
    """Arguments of pytest, seconds that they take, and variables: the room's own tests, all that touch it, the rest."""
    chosen = touched.tests(mutant, source)
    files = {}
    for name in chosen:
        files.setdefault(name.partition('::')[0], []).append(name)
    seconds = {file: sum(touched.seconds[name] for name in names) for file, names in files.items()}
    room = 'tests/' + mutant.file.split('/')[1] + '/'
    order = sorted(files, key=seconds.get)
    for number, group in enumerate([[file for file in order if file.startswith(room)],
                                    [file for file in order if not file.startswith(room)]]):
        if group:
            names = slot.folder / f'chosen-{number}.txt'
            names.write_text('\n'.join(name for file in group for name in files[file]), encoding='utf-8')
            yield (['-p', 'chosen', *group], sum(seconds[file] for file in group), {'CHOSEN_TESTS': str(names)})
    names = slot.folder / 'chosen.txt'
    names.write_text('\n'.join(chosen), encoding='utf-8')
    rest = sum(taken for name, taken in touched.seconds.items() if name not in chosen)
    yield ['-p', 'chosen'], rest, {'CHOSEN_TESTS': str(names), 'CHOSEN_TESTS_EXCEPT': '1'}


def phases_of_kernels(slot):
    cache = {'BBB_LAYERS_CACHE': str(slot.folder / 'cache')}
    for marker, seconds in [('not costly', 300), ('costly', 600)]:      # costly ones compile the library again
        yield ['-m', marker, *TESTS_OF_KERNELS], seconds, cache
    names = slot.folder / 'chosen.txt'
    names.write_text('', encoding='utf-8')
    yield ['-p', 'chosen'], 3000, {**cache, 'CHOSEN_TESTS': str(names), 'CHOSEN_TESTS_EXCEPT': '1'}


def difference(mutant):
    """The mutant as a difference, with one line of context."""
    source = (ROOT / mutant.file).read_bytes()
    before, after = (text.decode().splitlines(keepends=True) for text in (source, mutant.applied(source)))
    return ''.join(difflib.unified_diff(before, after, mutant.file, mutant.file, n=1))


def record_survivors(found):
    """Adds a section to survivors.md for each survivor that has none yet."""
    text = SURVIVORS.read_text(encoding='utf-8')
    for part, mutant in found:
        if f'`{mutant.key}`' not in text:
            text += (f'\n## `{mutant.key}`\n\n{part}, {mutant.kind}, in `{mutant.place or "module"}`:\n\n'
                     f'```diff\n{difference(mutant)}```\n\nReason: none yet.\n')
    SURVIVORS.write_text(text, encoding='utf-8')


def table(sample, verdicts):
    """The verdicts by part and by kind."""
    names = ['killed', 'survived', 'touched', 'open']

    def rows(title, of):
        groups = {}
        for part, mutant in sample:
            counts = groups.setdefault(of(part, mutant), dict.fromkeys(names, 0))
            counts[verdicts.get(mutant.key, {}).get('verdict', 'open')] += 1
        yield f'{title:16}' + ''.join(f'{name:>10}' for name in names)
        for group, counts in groups.items():
            yield f'{group:16}' + ''.join(f'{counts[name]:10}' for name in names)

    for title, of in [('part', lambda part, _: part), ('kind', lambda _, mutant: mutant.kind),
                      ('language', lambda part, _: 'C++' if part == KERNELS else 'Python')]:
        print('\n'.join(rows(title, of)), end='\n\n')
    tried = [verdicts[mutant.key]['verdict'] for _, mutant in sample if mutant.key in verdicts]
    if tried:
        print(f'{tried.count("killed")} of {len(tried)} mutants that were tried are killed: '
              f'{tried.count("killed") / len(tried):.1%}')
        print('"touched": survived the tests that touch the line, and waits for the whole suite. '
              f'"open": not tried yet ({len(sample) - len(tried)}).')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=1, help='seed of the sample (1)')
    parser.add_argument('--python', type=int, default=300, help='number of mutants of Python (300)')
    parser.add_argument('--cplusplus', type=int, default=50, help='number of mutants of C++ (50)')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='mutants that are tried at a time')
    parser.add_argument('--only', choices=['touched'], help='do not run the whole suite for those that survive '
                        'the tests that touch their line')
    parser.add_argument('--again', nargs='*', default=[], metavar='KEY',
                        help='forget these verdicts; "survived" stands for all that survived')
    parser.add_argument('--table', action='store_true', help='print what is known')
    args = parser.parse_args()
    results = HERE / f'seed-{args.seed}.jsonl'
    verdicts = {}
    if results.is_file():
        for line in results.read_text(encoding='utf-8').splitlines():
            each = json.loads(line)
            verdicts[each['key']] = each
    known = set(verdicts)
    for key, each in list(verdicts.items()):
        if key in args.again or 'survived' in args.again and each['verdict'] in ('survived', 'touched'):
            del verdicts[key]

    unknown = set(args.again) - known - {'survived'}
    if unknown:
        parser.error(f'--again must name mutants that have a verdict (saw: {", ".join(sorted(unknown))})')
    orders = {part: drawn(part, args.seed) for part in [*PARTS, KERNELS]}
    quotas = {part: args.python // len(PARTS) for part in PARTS}
    for part in list(PARTS)[:args.python % len(PARTS)]:
        quotas[part] += 1
    quotas[KERNELS] = args.cplusplus

    def sample():
        """The mutants of now: those that do not compile are replaced by the next."""
        return [(part, mutant) for part, order in orders.items() for mutant in [
            each for each in order if verdicts.get(each.key, {}).get('verdict') != 'invalid'][:quotas[part]]]

    if not args.table:
        BUILD.mkdir(parents=True, exist_ok=True)
        touched = Touched.measured(args.jobs) if args.python else None
        slots = queue.Queue()
        for number in range(args.jobs):
            slots.put(Slot(number))
        lock = threading.Lock()

        def attempt(item):
            part, mutant = item
            slot, start = slots.get(), time.time()
            try:
                result, by = verdict(slot, mutant, touched, args.only is None)
            finally:
                slots.put(slot)
            line = (ROOT / mutant.file).read_bytes()
            with lock:
                verdicts[mutant.key] = {'key': mutant.key, 'verdict': result, 'by': by, 'part': part,
                                        'kind': mutant.kind, 'file': mutant.file, 'place': mutant.place}
                results.write_text(''.join(f'{json.dumps(each)}\n' for _, each in sorted(verdicts.items())),
                                   encoding='utf-8')
                print(f'{result:8} {mutant.key} {part}, {mutant.kind}: {mutant.file}:{mutant.line(line)} '
                      f'({time.time() - start:.0f} s) {by}', flush=True)

        while True:
            waiting = [(part, mutant) for part, mutant in sample() if mutant.key not in verdicts
                       or verdicts[mutant.key]['verdict'] == 'touched' and args.only is None]
            if not waiting:
                break
            with ThreadPoolExecutor(args.jobs) as pool:
                list(pool.map(attempt, waiting))
        record_survivors([(part, mutant) for part, mutant in sample()
                          if verdicts[mutant.key]['verdict'] == 'survived'])
    table(sample(), verdicts)


if __name__ == '__main__':
    main()
