# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A pytest plugin that runs MXNet's own tests, on request with Bayesian layers in the place of Gluon's.

``compare.py`` starts pytest with it. The plugin does four things:

- With ``--exchange``, ``mxnet.gluon.nn`` and ``mxnet.gluon.rnn`` get the Bayesian layers under the names of Gluon's,
  before a test is imported: ``nn.Dense`` is then ``BayesDense``, with all defaults. See :func:`exchange_layers`.
  ``--initial-sigma VALUE`` changes one default.
- MXNet's tests import some functions from nose, which does not run on today's Pythons. A stand-in has the functions.
- Each test has a seed of its own, which is the same in both runs.
- ``--record FILE`` gets one line of JSON when a test starts, and one with its outcome and the number of Bayesian layers
  that were built in it. A test that has an outcome in this file already is not run again.
"""
import faulthandler
import functools
import json
import random
import re
import sys
import time
import types
import unittest
import zlib
from pathlib import Path

import bbb_layers     # before mxnet, see bbb_layers/_mxnet/import_hook.py
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn, rnn

#: Gluon's layer -> the Bayesian one.
LAYERS = {getattr(module, name[len('Bayes'):]): getattr(bbb_layers, name) for module in (nn, rnn)
          for name in bbb_layers.__all__ if name[len('Bayes'):] in module.__dict__ and name != 'BayesBlock'}


def read_records(path):
    """The lines of a record as dicts, without a last line that was cut off."""
    path = Path(path)
    lines = path.read_text(encoding='utf-8').splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith('\n')]


def write_record(path, **entries):
    """Append one line to a record."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(f'{json.dumps(entries)}\n')


def exchange_layers():
    """Put the Bayesian layers in the place of Gluon's.

    They are the very classes that a user gets. A subclass under the name of Gluon's class would have Gluon's automatic
    prefixes too (``dense0_`` instead of ``bayesdense0_``), but would hide what changes for a user who exchanges layers.

    The tests, ``model_zoo`` and ``gluon.contrib`` take their layers from the two modules that are changed here. The
    modules in which Gluon defines the layers keep theirs: ``super(Dense, self)`` in Gluon's own code must find Gluon's
    class under this name.
    """
    for plain, bayesian in LAYERS.items():
        setattr(rnn if plain.__module__.startswith(rnn.__name__) else nn, plain.__name__, bayesian)


def nose_stand_in():
    """The modules ``nose`` and ``nose.tools``, with what MXNet's tests import from them."""
    def raises(*errors):
        def decorate(test):
            @functools.wraps(test)
            def wrapper(*args, **kwargs):
                with pytest.raises(errors):
                    test(*args, **kwargs)
            return wrapper
        return decorate

    def ok_(value, message=None):
        assert value, message

    tools = types.ModuleType('nose.tools')
    tools.make_decorator, tools.raises, tools.ok_ = functools.wraps, raises, ok_
    case = unittest.TestCase()
    for name in dir(case):
        if re.match('assert[A-Z][a-z]+', name):     # assertRaises -> assert_raises
            setattr(tools, re.sub('[A-Z]', lambda letter: f'_{letter.group().lower()}', name), getattr(case, name))
    nose = types.ModuleType('nose')
    nose.tools = tools
    return {'nose': nose, 'nose.tools': tools}


class Recorder:
    """Writes the record of a run."""

    def __init__(self, path, limit, initial_sigma=None):
        self.path, self.limit, self.layers, self.result = path, limit, 0, None
        self.count_layers({} if initial_sigma is None else {'initial_sigma': initial_sigma})
        self.start_clock()

    def count_layers(self, defaults):
        build = bbb_layers.BayesBlock.__init__

        @functools.wraps(build)
        def counted(*args, **kwargs):
            build(*args, **{**defaults, **kwargs})
            self.layers += 1

        bbb_layers.BayesBlock.__init__ = counted

    def start_clock(self):
        # The only way to end a test that hangs in an operator is to end the process, with exit status 1.
        faulthandler.dump_traceback_later(self.limit, exit=True, file=sys.__stderr__)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        # MXNet's common.py puts the source first, where a new process would look for a compiled MXNet in vain.
        sys.path[:] = [folder for folder in sys.path if not Path(folder, 'mxnet', 'libinfo.py').is_file() or
                       Path(folder) in Path(mx.__file__).parents]
        done = {line['test'] for line in read_records(self.path) if 'outcome' in line}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]

    def pytest_collectreport(self, report):
        if report.failed:
            write_record(self.path, test=report.nodeid, outcome='failed', layers=0, message=last_line(report))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        write_record(self.path, test=item.nodeid, started=time.time())
        self.start_clock()
        seed = zlib.crc32(item.nodeid.encode())
        random.seed(seed)
        np.random.seed(seed)
        mx.random.seed(seed % 2 ** 31)
        self.layers, self.result = 0, {'outcome': 'passed', 'message': ''}
        start = time.time()
        result = yield
        write_record(self.path, test=item.nodeid, layers=self.layers, seconds=round(time.time() - start, 2),
                     **self.result)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self):
        mx.nd.waitall()     # an error of an operator that is still running belongs to this test

    def pytest_runtest_logreport(self, report):
        if self.result['outcome'] != 'failed' and report.outcome != 'passed':
            self.result = {'outcome': report.outcome, 'message': last_line(report)}

    def pytest_sessionfinish(self):
        write_record(self.path, finished=True)
        faulthandler.cancel_dump_traceback_later()


def last_line(report):
    """What a report says of a failure, in one line."""
    error = report.longrepr
    if isinstance(error, tuple):        # a skip: file, line, reason
        return error[2]
    crash = getattr(error, 'reprcrash', None)
    lines = (crash.message if crash else str(error)).strip().splitlines() or ['']
    return lines[0] if crash else lines[-1]


def pytest_addoption(parser):
    group = parser.getgroup('upstream')
    group.addoption('--exchange', action='store_true')
    group.addoption('--initial-sigma', type=float)
    group.addoption('--record', required=True)
    group.addoption('--limit', type=float, required=True)


def pytest_configure(config):
    sys.modules.update(nose_stand_in())
    if config.getoption('exchange'):
        exchange_layers()
    config.pluginmanager.register(Recorder(*map(config.getoption, ('record', 'limit', 'initial_sigma'))))
