# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The reference has every public name, and docstrings and type hints say what the signatures do."""
import dataclasses
import importlib
import inspect
import re
import runpy
import typing
from collections import Counter
from pathlib import Path

import pytest
from mxnet.gluon import Block
from subprocesses import ROOT

import bbb_layers
from bbb_layers import BayesBlock, BayesConv2D, BayesDense, checkpoint, metrics, native, plot, schedules

PUBLIC = {f'{module.__name__}.{name}': getattr(module, name)
          for module in (bbb_layers, plot, metrics, schedules, native, checkpoint) for name in module.__all__}
CALLABLES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value) or inspect.isfunction(value)}
#: Public methods and properties that this package defines.
METHODS = {f'{name}.{attribute}': function
           for name, cls in CALLABLES.items() if inspect.isclass(cls)
           for base in cls.__mro__ if base.__module__.startswith('bbb_layers')
           for attribute, value in vars(base).items() if not attribute.startswith('_')
           for function in [value.fget if isinstance(value, property) else value] if inspect.isfunction(function)}
DIRECTIVE = re.compile(r'^\.\. auto(?:module|class|function|data):: (\S+)$', re.MULTILINE)


def directives():
    """(page, name) of everything in the reference."""
    return [(page.name, name) for page in sorted((ROOT / 'docs').rglob('*.rst'))
            for name in DIRECTIVE.findall(page.read_text(encoding='utf-8'))]


def documented(function, section='Parameters'):
    """The names in a section of the docstring, None if there is no such section."""
    section = re.search(rf'^{section}\n-+\n(.*?)(?=\n\S[^\n]*\n---+$|\n(?:In|Out)puts:$|\Z)',
                        inspect.cleandoc(function.__doc__ or ''), re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    return [name.strip() for line in section.group(1).splitlines() if line.strip() and not line.startswith(' ')
            for name in line.split(' : ')[0].split(',')]


def arguments(function):
    """The names in the signature. Every Gluon block has ``prefix`` and ``params``: that its ``**kwargs`` are these goes
    without saying."""
    stars = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    names = [stars.get(parameter.kind, '') + name for name, parameter in inspect.signature(function).parameters.items()]
    is_block = inspect.isclass(function) and issubclass(function, Block)
    return [name for name in names if name != 'self' and not (is_block and name == '**kwargs')]


def test_reference_is_complete():
    counts = Counter(name for _, name in directives())
    assert {name: counts[name] for name in PUBLIC} == dict.fromkeys(PUBLIC, 1)


def test_the_tables_of_the_reference_have_all_names():
    text = (ROOT / 'docs' / 'api' / 'index.rst').read_text(encoding='utf-8')
    directive = re.compile(r'^\.\. (?:currentmodule:: (\S+)|autosummary::\n\n((?:   \S+\n)+))', re.MULTILINE)
    found, module = [], ''
    for current, table in directive.findall(text):
        module = current or module
        found += [f'{module}.{name}' for name in table.split()]
    # Records are told of where they are returned; a sentence below the tables leads to native.
    left_out = {name for name, value in CALLABLES.items() if is_record(value) or name.startswith('bbb_layers.native')}
    assert Counter(found) == Counter(set(CALLABLES) - left_out - {'bbb_layers.checkpoint.write_atomically'})


def test_what_the_reference_names_exists():
    for page, name in directives():
        try:
            importlib.import_module(name)
        except ImportError:
            module, _, attribute = name.rpartition('.')
            assert hasattr(importlib.import_module(module), attribute), (page, name)


def is_record(function):
    return hasattr(function, '_fields') or dataclasses.is_dataclass(function)


@pytest.mark.parametrize('name', CALLABLES)
def test_docstring(name):
    function = CALLABLES[name]
    assert function.__doc__
    names = documented(function, 'Attributes' if is_record(function) else 'Parameters')
    if inspect.isclass(function) and issubclass(function, BayesBlock) and names is None:
        # It may refer to the Gluon layer, if it takes what this takes, and as keywords what BayesBlock does.
        gluon = function._plain_class()
        text = ' '.join(function.__doc__.split())
        assert re.search(r'arguments, inputs? and outputs? as ``{}\.{}``'.format(
            gluon.__module__.split('.')[2], gluon.__name__), text)
        ours = [name for name in documented(BayesBlock) if not name.startswith('*')]
        assert arguments(function) == [name for name in arguments(gluon) + ours if name != '**kwargs']
        return
    # Where they stand with a star is a matter of grammar in the one, of style in the other.
    assert sorted(names or [], key=is_starred) == sorted(arguments(function), key=is_starred)


def is_starred(name):
    return name.startswith('*'), name * name.startswith('*')


@pytest.mark.parametrize('name', [name for name, function in METHODS.items() if documented(function) is not None])
def test_docstring_of_method(name):
    assert documented(METHODS[name]) == arguments(METHODS[name])


def test_the_check_of_docstrings_can_fail():
    def right(a, b=1, *args, **kwargs):
        """Do it.

        Parameters
        ----------
        a, b : int
            Two numbers, all : of them.
        *args, **kwargs

        Returns
        -------
        int
        """

    def wrong(a, b=1):
        """Do it.

        Parameters
        ----------
        a : int

        Inputs and outputs are as ever.

        Inputs:
            - **c**
        """
    assert documented(right) == arguments(right) == ['a', 'b', '*args', '**kwargs']
    assert documented(wrong) == ['a', 'Inputs and outputs are as ever.'] and arguments(wrong) == ['a', 'b']
    assert documented(test_reference_is_complete) is None


@pytest.mark.parametrize('name', CALLABLES)
def test_type_hints(name):
    function = CALLABLES[name]
    signature = inspect.signature(function)
    # Gluon's layers have none.
    theirs = inspect.signature(function._plain_class()).parameters if inspect.isclass(function) and issubclass(
        function, BayesBlock) and function is not BayesBlock else {}
    without = [name for name, parameter in signature.parameters.items()
               if parameter.annotation is parameter.empty and name not in theirs]
    assert not without
    if inspect.isfunction(function):
        assert signature.return_annotation is not signature.empty
    typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    # As text they would stand in quotes wherever a signature is shown.
    assert not any(isinstance(parameter.annotation, str) for parameter in signature.parameters.values())


def test_tables_of_internals_are_complete():
    differences = runpy.run_path(str(ROOT / '.ci' / 'internals.py'))['differences']
    assert not list(differences())


def test_joint_signature():
    text = str(inspect.signature(BayesDense))
    assert text.startswith('(units, activation=None, use_bias=True, flatten=True, dtype=')
    # Python 3.8 writes Optional as what it stands for.
    assert re.search(r'prior: (Optional\[\S+\.Prior\]|Union\[\S+\.Prior, NoneType\]) = None', text)
    assert text.endswith("estimator: str = 'sample', kl: str = 'auto', **kwargs)")
    assert list(inspect.signature(BayesConv2D).parameters)[:2] == ['channels', 'kernel_size']


def test_hints_are_announced():
    assert (Path(bbb_layers.__file__).parent / 'py.typed').is_file()
