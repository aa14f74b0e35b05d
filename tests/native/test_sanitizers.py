# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The kernels run under the sanitizers of the compiler, and the sanitizers notice faults that are made on purpose.

``make sanitize`` does the same with more repetitions. A test is skipped if there is no compiler or no runtime of the
sanitizer, with what the script said.
"""
import os
import re
import subprocess
import sys

import pytest
from subprocesses import ROOT

from test_compilers import BITS

SCRIPT = ROOT / '.ci' / 'sanitize.py'


@pytest.fixture(scope='module', params=['address', 'thread'])
def built(request, tmp_path_factory):
    """The sanitizer, the folder of the programs that the script has made for it, and what the script printed."""
    if not SCRIPT.is_file():
        pytest.skip('for a tree with the folder .ci')
    folder = tmp_path_factory.mktemp('sanitize')
    done = subprocess.run([sys.executable, str(SCRIPT), '--only', request.param, '--times', '3',
                           '--output', str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=3600)
    if done.returncode == 77:
        pytest.skip(done.stdout[-500:])
    assert done.returncode == 0, done.stdout
    return request.param, folder / request.param, done.stdout


@pytest.mark.slow
def test_nothing_is_found(built):
    sanitizer, _, output = built
    assert f'{sanitizer}, sse2: nothing found' in output
    found = dict(line.split() for line in output.splitlines() if re.match('(noise|draws|gradients|adam) ', line))
    assert found == BITS


@pytest.mark.slow
@pytest.mark.parametrize('fault', ['overrun', 'race'])
def test_a_fault_is_found(built, fault):
    sanitizer, folder, _ = built
    if (fault == 'race') != (sanitizer == 'thread'):
        pytest.skip('for the other sanitizer')
    done = subprocess.run([str(folder / 'sanitized'), fault], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=600, env={**os.environ, 'TSAN_OPTIONS': 'halt_on_error=1'})
    assert done.returncode != 0
    assert ('heap-buffer-overflow' if fault == 'overrun' else 'data race') in done.stdout


def test_no_compiler_is_said():
    if not SCRIPT.is_file():
        pytest.skip('for a tree with the folder .ci')
    done = subprocess.run([sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, universal_newlines=True, timeout=60,
                          env={**os.environ, 'CXX': 'there-is-no-such-compiler'})
    assert done.returncode == 77 and 'no C++ compiler among: there-is-no-such-compiler' in done.stdout
