# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Runs the tests on several versions of Python and NumPy, and writes the table of docs/install.md.

    python .ci/versions.py                   # all tests on each row of the table; hours
    python .ci/versions.py 3.13/2 3.8/1.17.3 # some rows
    python .ci/versions.py --smoke           # some tests on the oldest and the newest Python that is found; minutes
    python .ci/versions.py --install         # whether pip finds wheels for everything, in empty environments
    python .ci/versions.py --table           # only the table, from the results that are there

Each row is a pair of Python and NumPy. It gets an environment and a result in build/versions. A row that has a result
is left alone until the file of its result is removed, so that a stopped call can be made again and goes on. The Pythons
are looked for on the PATH, and among those of pyenv.
"""
import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'build' / 'versions'
PAGE = ROOT / 'docs' / 'install.md'
PYTHONS = ['3.8', '3.9', '3.10', '3.11', '3.12', '3.13']
#: The Pythons for which setup.py does not ask for MXNet.
WITHOUT_MXNET = ['3.13']
#: The rows of the table: Python, and NumPy as pip resolves it ('1'), the newest NumPy 2 ('2'), or a version.
ROWS = ['3.8/1.17.3', '3.8/1', '3.9/1', '3.10/1', '3.11/1.23.5', '3.11/1', '3.11/2', '3.12/1', '3.12/2', '3.13/2']
#: The tests of --smoke.
SMOKE = [f'tests/{name}.py' for name in (
    '_mxnet/test_import_hook', '_mxnet/test_np_arrays', 'layers/test_layers', 'training/test_loss',
    'native/test_native', 'prediction/test_predict', 'checkpoint/test_checkpoint')]
#: Packages that users have beside this one; the table has their versions.
NEIGHBOURS = ['scikit-learn', 'scipy', 'pandas', 'matplotlib']


@dataclasses.dataclass
class Row:
    """A pair of Python and NumPy, with an environment of its own."""

    python: str
    numpy: str

    @property
    def name(self) -> str:
        return f'{self.python}/{self.numpy}'

    def path(self, suffix: str) -> Path:
        return FOLDER / (self.name.replace('/', '-') + suffix)

    def run(self, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
        """A process of this row's Python."""
        return subprocess.run([str(self.path('') / 'bin' / 'python'), *arguments], cwd=ROOT, **kwargs)

    def pip(self, *arguments: str) -> None:
        self.run('-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-warn-conflicts', *arguments,
                 check=True)

    def make(self, interpreter: str, extra: str = '[test]') -> None:
        """A new environment with the package and what the tests need, as docs/install.md tells it."""
        shutil.rmtree(self.path(''), ignore_errors=True)
        subprocess.run([interpreter, '-m', 'venv', str(self.path(''))], check=True)
        if self.python in WITHOUT_MXNET:
            self.pip('--no-deps', 'mxnet==1.9.1')
            self.pip('--editable', f'.{extra}')
        elif self.numpy == '2':
            self.pip('--editable', '.')
            self.pip('--upgrade', 'numpy>=2', *self.needs('test'))
        elif self.numpy == '1':
            self.pip('--editable', f'.{extra}')
        else:
            self.pip('--editable', f'.{extra}', f'numpy=={self.numpy}')

    def needs(self, extra: str) -> List[str]:
        """What the installed package asks for with this extra, in this Python."""
        code = ('import importlib.metadata as m; from pip._vendor.packaging.requirements import Requirement as R\n'
                'for r in map(R, m.requires("bbb-layers")):\n'
                f'    if r.marker and r.marker.evaluate({{"extra": {extra!r}}}) and "extra" in str(r.marker):\n'
                '        print(r.name + str(r.specifier))')
        return self.run('-c', code, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout.split()

    def versions(self) -> Dict[str, str]:
        """The versions of NumPy and of its neighbours."""
        code = ('import importlib.metadata as m, json, sys\n'
                'print(json.dumps({d.metadata["Name"].lower(): d.version for d in m.distributions()}))')
        done = self.run('-c', code, check=True, stdout=subprocess.PIPE, universal_newlines=True)
        found = json.loads(done.stdout)
        return {name: found.get(name, '') for name in ['numpy', *NEIGHBOURS]}

    def test(self, *arguments: str) -> Dict[str, int]:
        """How many of the tests passed, failed, and were skipped."""
        report = self.path('.xml')
        report.unlink(missing_ok=True)
        with open(self.path('.txt'), 'w', encoding='utf-8') as log:
            self.run('-m', 'pytest', '-q', '-n', 'auto', f'--junitxml={report}', *arguments, stdout=log,
                     stderr=subprocess.STDOUT)
        if not report.is_file():
            sys.exit(f'{self.name}: pytest ended without a report; see {self.path(".txt")}')
        suite = next(ElementTree.parse(report).getroot().iter('testsuite')).attrib
        failed, skipped = int(suite['failures']) + int(suite['errors']), int(suite['skipped'])
        return {'passed': int(suite['tests']) - failed - skipped, 'failed': failed, 'skipped': skipped}


def interpreters() -> Dict[str, str]:
    """Version -> path of the interpreters that work and can make environments."""
    found = {}
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')) / 'versions'
    for version in PYTHONS:
        candidates = [f'python{version}', *map(str, sorted(pyenv.glob(f'{version}.*/bin/python')))]
        for candidate in candidates:
            probe = 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2], sys.executable)'
            try:
                done = subprocess.run([candidate, '-c', probe], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      universal_newlines=True)
            except OSError:
                continue
            if done.returncode == 0 and done.stdout.split()[0] == version:
                found[version] = done.stdout.split()[1]
                break
    return found


def need(version: str, found: Dict[str, str]) -> Optional[str]:
    """The path of an interpreter; None, and a line, if there is none."""
    if version not in found:
        print(f'Python {version}: not found on this machine, so nothing was tried with it', flush=True)
    return found.get(version)


def whole_suite(names: List[str]) -> bool:
    found, good = interpreters(), True
    for row in (Row(*name.split('/')) for name in names):
        result = row.path('.json')
        if not result.is_file() and need(row.python, found):
            row.make(found[row.python])
            counts = {**row.versions(), **row.test()}
            result.write_text(json.dumps(counts))
            print(f'Python {row.python}, NumPy {counts["numpy"]}: {counts["passed"]} passed, '
                  f'{counts["failed"]} failed, {counts["skipped"]} skipped', flush=True)
        good &= result.is_file() and not json.loads(result.read_text())['failed']
    return good


def smoke() -> bool:
    """The oldest and the newest Python; the Pythons in between are named."""
    found, good = interpreters(), True
    for version in PYTHONS:
        need(version, found)
    for version in dict.fromkeys([*list(found)[:1], *list(found)[-1:]]):
        row = Row(version, '2' if version in WITHOUT_MXNET else '1')
        row.make(found[version])
        counts = row.test('-m', 'not slow and not costly', *SMOKE)
        print(f'Python {version}, NumPy {row.versions()["numpy"]}: smoke tests: {counts["passed"]} passed, '
              f'{counts["failed"]} failed, {counts["skipped"]} skipped', flush=True)
        if counts['failed']:
            print(row.path('.txt').read_text(encoding='utf-8')[-10000:])
        good &= counts['passed'] > 0 and not counts['failed']
    return good


def install() -> bool:
    """Whether one plain command installs the package beside its neighbours, from wheels alone."""
    found = interpreters()
    for version in (each for each in PYTHONS if each not in WITHOUT_MXNET):
        if need(version, found):
            row = Row(version, 'install')
            shutil.rmtree(row.path(''), ignore_errors=True)
            subprocess.run([found[version], '-m', 'venv', str(row.path(''))], check=True)
            row.run('-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--only-binary', ':all:', '.',
                    *NEIGHBOURS, check=True)
            row.run('-m', 'pip', 'check', check=True, stdout=subprocess.DEVNULL)
            row.run('-c', 'import bbb_layers, mxnet, sklearn, scipy.stats, pandas, matplotlib', check=True)
            print(f'Python {version}:', ', '.join(f'{name} {number}' for name, number in row.versions().items()),
                  flush=True)
    return True


def table() -> Iterator[str]:
    yield '| Python | NumPy | SciPy | scikit-learn | pandas | passed | failed | skipped |'
    yield '|---|---|---|---|---|---:|---:|---:|'
    for row in (Row(*name.split('/')) for name in ROWS):
        if row.path('.json').is_file():
            counts = json.loads(row.path('.json').read_text())
            cells = [row.python, *(counts[name] for name in ('numpy', 'scipy', 'scikit-learn', 'pandas')),
                     *(format(counts[name], ',') for name in ('passed', 'failed', 'skipped'))]
            yield '| ' + ' | '.join(cells) + ' |'


def write_table() -> None:
    text = PAGE.read_text(encoding='utf-8')
    replaced, count = re.subn(r'\| Python \| NumPy \|.*\n(\|.*\n)*', lambda _: '\n'.join([*table(), '']), text)
    if count != 1:
        sys.exit(f'{PAGE.name} must have the table once (saw it {count} times)')
    PAGE.write_text(replaced, encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('rows', nargs='*', metavar='PYTHON/NUMPY', help=f'rows of the table; default {" ".join(ROWS)}')
    parser.add_argument('--smoke', action='store_true', help='some tests, on the oldest and the newest Python')
    parser.add_argument('--install', action='store_true', help='whether plain pip finds wheels for everything')
    parser.add_argument('--table', action='store_true', help='write the table from the results that are there')
    args = parser.parse_args()
    for name in args.rows:
        if name not in ROWS:
            parser.error(f'PYTHON/NUMPY must be one of {", ".join(ROWS)} (saw: {name})')
    FOLDER.mkdir(parents=True, exist_ok=True)
    if args.smoke:
        good = smoke()
    elif args.install:
        good = install()
    else:
        good = args.table or whole_suite(args.rows or ROWS)
        write_table()
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
