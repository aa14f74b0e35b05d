# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet wants numpy.bool, and some NumPys have none: each case is a process of its own, with a NumPy made to fit."""
import pytest
import subprocesses
from subprocesses import ROOT

#: NumPy as if of another version, with numpy.bool as that one has it.
FAKE = '''
import warnings
warnings.simplefilter('ignore')
import numpy
numpy.__version__ = %r
others = numpy.__getattr__
def missing(name):
    if name == 'bool':
        raise AttributeError('numpy has no bool')
    return others(name)
numpy.__getattr__ = missing
vars(numpy).pop('bool', None)
%s
'''
RESTORED = 'import bbb_layers, mxnet; assert numpy.bool is bool; assert mxnet.np.bool is bool'
AFTER_A_FAILURE = '''
try:
    import mxnet
except AttributeError as error:
    assert 'bool' in str(error)
import bbb_layers
'''


def run(version, code):
    return subprocesses.run('-c', FAKE % (version, code), check=False)


@pytest.mark.parametrize('version', ['1.24.0', '1.26.4'])
def test_brings_numpy_bool_back(version):
    assert run(version, RESTORED).returncode == 0


def test_says_which_numpy_is_too_new():
    done = run('2.1.0', 'import bbb_layers')
    assert done.returncode == 1 and 'ImportError: bbb_layers needs NumPy below 2.0' in done.stderr
    assert 'numpy is 2.1.0' in done.stderr


@pytest.mark.parametrize('version, good', [((3, 7), False), ((3, 8), True), ((3, 12), True), ((3, 13), False)])
def test_setup_refuses_other_pythons_by_name_and_reason(version, good):
    if not (ROOT / 'bbb_layers').exists():
        pytest.skip('setup.py reads the version of the package beside it, and these tests run on an installed one')
    # setuptools itself would not run as another version, and what setup() does then is not the question.
    code = (f'import sys, setuptools; setuptools.setup = lambda **_: None; sys.version_info = {version!r} + (0,); '
            'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})')
    done = subprocesses.run('-W', 'ignore', '-c', code, check=False, cwd=ROOT)
    assert (done.returncode == 0) == good
    assert good or ('this is %d.%d' % version in done.stderr and 'NumPy' in done.stderr)


def test_is_silent_where_numpy_has_it():
    done = run('1.23.5', "numpy.__getattr__ = lambda name: bool if name == 'bool' else others(name)\n"
                 "import bbb_layers\nassert 'bool' not in vars(numpy)")
    assert done.returncode == 0


def test_says_so_where_mxnet_was_imported_before_and_failed():
    done = run('1.26.4', AFTER_A_FAILURE)
    assert done.returncode == 1
    assert 'ImportError: mxnet was imported before bbb_layers and failed' in done.stderr
    assert 'numpy is 1.26.4' in done.stderr
