# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The layout of the package: imports run downwards, and no module hides a public name."""
import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import bbb_layers

PACKAGE = Path(bbb_layers.__file__).parent
#: The rooms, from the top floor down. The modules beside them are thin faces that pass on public names.
FLOORS = ['deploy', 'checkpoint', 'training', 'prediction', 'plot', 'networks', 'layers', 'forward', 'posterior',
          'native', '_mxnet']
FACES = ['metrics', 'optimizer', 'schedules']


def modules():
    """Dotted name within the package -> path, of all modules."""
    found = {}
    for path in PACKAGE.rglob('*.py'):
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def imports(name, path):
    """Dotted names within the package of what a module imports from it, wherever in the module."""
    package = name.split('.') if path.name == '__init__.py' and name else name.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[:len(package) - node.level + 1] + (node.module.split('.') if node.module else [])
            for alias in node.names:
                full = '.'.join(base + [alias.name])
                yield full if full in modules() else '.'.join(base)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'bbb_layers':
            yield node.module.partition('.')[2]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[2] for alias in node.names
                        if alias.name.split('.')[0] == 'bbb_layers')


def wrong_imports(name, path):
    """What a module imports that stands above it."""
    room = name.split('.')[0]
    for target in imports(name, path):
        other = target.split('.')[0]
        if room not in FLOORS:      # the package itself and its faces: from any room
            continue
        if other not in FLOORS or FLOORS.index(other) < FLOORS.index(room):
            yield target


def test_every_module_is_in_a_room():
    top = {name.split('.')[0] for name in modules()} - {''}
    assert top == set(FLOORS) | set(FACES)


@pytest.mark.parametrize('name', sorted(modules()))
def test_imports_run_downwards(name):
    assert list(wrong_imports(name, modules()[name])) == []


def test_a_wrong_import_would_be_found(tmp_path):
    path = tmp_path / 'rho.py'
    for line in ('from ..forward import draw', 'from ..forward.draw import Request', 'from .. import forward',
                 'from .. import BayesDense', 'import bbb_layers.forward.draw',
                 'def f():\n    from ..layers import block'):
        path.write_text(line)
        assert list(wrong_imports('posterior.rho', path)), line
    for line in ('from .._mxnet import arrays', 'from . import gaussian', 'from .. import native', 'import numpy'):
        path.write_text(line)
        assert not list(wrong_imports('posterior.rho', path)), line


def test_faces_only_pass_names_on():
    for name in FACES:
        module = importlib.import_module(f'bbb_layers.{name}')
        nodes = ast.parse(modules()[name].read_text(encoding='utf-8')).body[1:]
        assert all(isinstance(node, (ast.ImportFrom, ast.Assign)) for node in nodes)
        assert set(module.__all__) <= set(vars(module))


def test_no_module_hides_a_public_name():
    for name in modules():
        parent = importlib.import_module('.'.join(filter(None, ['bbb_layers', name.rpartition('.')[0]])))
        last = name.rpartition('.')[2]
        if last in getattr(parent, '__all__', ()):
            public = getattr(parent, last)
            assert getattr(public, '__name__', None) == f'bbb_layers.{name}', name     # the module itself is public


def test_everything_in_all_can_be_imported():
    for info in [None, *pkgutil.walk_packages(bbb_layers.__path__, 'bbb_layers.')]:
        module = bbb_layers if info is None else importlib.import_module(info.name)
        for name in getattr(module, '__all__', ()):
            assert hasattr(module, name), (module.__name__, name)


def test_every_room_says_what_it_is():
    for room in FLOORS:
        assert importlib.import_module(f'bbb_layers.{room}').__doc__, room
