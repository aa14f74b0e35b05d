# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Compares the tables of MXNet's internals in docs/architecture.md with the package and with the tests.

    python .ci/internals.py                      # what is missing, out of date, or names a test that does not exist
    python .ci/internals.py --rename             # and whether each test notices that its internal is gone
    python .ci/internals.py --rename _out_format _var

``--rename`` gives one private name at a time another spelling in a copy of the package, as if MXNet had renamed it, and
runs the test of its row, which must fail. It takes some minutes.
"""
import argparse
import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'bbb_layers'
PAGE = ROOT / 'docs' / 'architecture.md'
#: Private names of the package's own, which MXNet happens to use for something else.
OURS = {'_add', '_axis', '_concat', '_copy', '_check_loss', '_flat', '_layers', '_length', '_like', '_log', '_loss',
        '_mask', '_optimizer', '_rho', '_scalar', '_size', '_step', '_sum', '_symbol', '_values'}


def private_names():
    """Private name that MXNet has too -> the files of the package that use it."""
    folder = Path(importlib.util.find_spec('mxnet').submodule_search_locations[0])
    known = set()
    for path in folder.rglob('*.py'):
        known.update(re.findall(r'\b_[A-Za-z]\w*', path.read_text(encoding='utf-8', errors='replace')))
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [getattr(node, 'attr', '')]
            if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'mxnet':
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.FunctionDef):     # a method of MXNet's that is overridden
                names = [node.name]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):    # an operator
                names = [node.value]
            for name in names:
                if re.fullmatch(r'_(?!_)\w+', name) and name in known - OURS:
                    found.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    return found


def rows():
    """(private names in the first column, files, test) of each row of the tables."""
    for line in PAGE.read_text(encoding='utf-8').partition("## MXNet's internals")[2].splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if len(cells) != 4 or cells[0] == 'internal' or cells[0].startswith('---'):
            continue
        names = re.findall(r'`(?:\w+\.)?(_(?!_)\w+)`', cells[0])
        test = re.fullmatch(r'`(test_\w+\.py::test_\w+)`', cells[3])
        if test is None:
            sys.exit(f'{PAGE.name}: the last column must be a test (saw: {cells[3]})')
        yield names, re.findall(r'`([\w/.]+)`', cells[1]), test.group(1)


def test_files(name):
    """The files of tests/ that have the test ``FILE::NAME``; another file's, if the test has moved."""
    file, _, function = name.partition('::')
    found = [path for path in (ROOT / 'tests').rglob('test_*.py')
             if re.search(rf'^def {function}\(', path.read_text(encoding='utf-8'), re.MULTILINE)]
    return [path for path in found if path.name == file], found


def differences():
    """Texts, one for each thing that is wrong with the page."""
    used, told = private_names(), {}
    for names, files, test in rows():
        for name in names:
            told.setdefault(name, set()).update(files)
        for file in files:
            if not (PACKAGE / file).is_file():
                yield f'there is no {file}'
        if not test_files(test)[0]:
            elsewhere = ', '.join(str(path.relative_to(ROOT)) for path in test_files(test)[1])
            yield f'there is no {test}' + f', but in {elsewhere}' * bool(elsewhere)
    for name in sorted(used):
        if name not in told:
            yield f'{name} has no row (used in {", ".join(sorted(used[name]))})'
        elif used[name] - told[name]:
            yield f'the row of {name} lacks {", ".join(sorted(used[name] - told[name]))}'
    sources = ''.join(path.read_text(encoding='utf-8') for path in (PACKAGE / 'native' / 'src').iterdir())
    for name in sorted(set(told) - set(used)):
        if name not in sources:
            yield f'{name} has a row, and the package does not use it'


def notices(name, test, folder):
    """Whether ``test`` fails where the package uses ``name`` under another spelling."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    # The tests are copied too, because processes that they start import the package that stands beside them.
    for tree in (PACKAGE, ROOT / 'tests', ROOT / 'examples'):
        shutil.copytree(tree, copy / tree.name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'pyproject.toml', copy)
    environment = dict(os.environ, PYTHONPATH=str(copy))
    for path in (copy / 'bbb_layers').rglob('*'):
        if path.suffix in ('.py', '.cc', '.h'):
            before = path.read_text(encoding='utf-8')
            after = re.sub(rf'\b{name}\b', f'{name}_is_gone', before)
            path.write_text(after, encoding='utf-8')
            if after != before and path.suffix != '.py':    # the library is compiled, and not into the user's cache
                environment['BBB_LAYERS_CACHE'] = str(copy / 'cache')
    where = copy / test_files(test)[0][0].relative_to(ROOT)
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
               f'{where}::{test.partition("::")[2]}']
    done = subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode == 1 or b'while loading conftest' in done.stdout     # where it cannot even be imported


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rename', nargs='*', metavar='NAME', help='run the tests; default all private names')
    args = parser.parse_args()
    wrong = list(differences())
    if args.rename is not None:
        with tempfile.TemporaryDirectory() as folder:
            for names, _, test in rows():
                for name in names:
                    if name not in (args.rename or names):
                        continue
                    noticed = notices(name, test, folder)
                    print(f'{"noticed" if noticed else "UNNOTICED"} {name} by {test}', flush=True)
                    if not noticed:
                        wrong.append(f'{test} passes without {name}')
    for text in wrong:
        print(text)
    print(f'{len(list(rows()))} rows, {len(wrong)} differences')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
