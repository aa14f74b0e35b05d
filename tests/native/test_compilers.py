# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The kernels make the same bits by every compiler, on every instruction set, on x86-64 and on aarch64.

The kernels run in a program of their own (kernels.cc), without MXNet, so that qemu can run them for aarch64. A test is
skipped if its compiler is not installed. On Debian these packages have all of them: g++ clang g++-aarch64-linux-gnu
qemu-user.
"""
import math
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from bbb_layers.native import build

#: What kernels.cc prints on every machine. A change of these numbers changes the draws that a seed makes.
BITS = {'noise': '42247e160d4bce4e', 'draws': '4fe6e1fa8e4cb455', 'gradients': '7d467bc3bc7da704',
        'adam': 'be8e28c41276d26b'}
#: The KL terms need the logarithm of the C library. Two C libraries may differ in its last bit.
KL = 8514996.6060865559
#: The commands. A name that begins with aarch64 stands for a compiler that makes programs for aarch64.
COMPILERS = {'g++': ['g++'], 'clang++': ['clang++'], 'aarch64-g++': ['aarch64-linux-gnu-g++'],
             'aarch64-clang++': ['clang++', '--target=aarch64-linux-gnu']}


def called(*command, environment=None):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def needed(program):
    if not shutil.which(program):
        pytest.skip(f'{program} is not installed')


@pytest.fixture(scope='module', params=list(COMPILERS))
def program(request, tmp_path_factory):
    """A command that runs the kernels. Its compiler has also made the whole library, without any warning."""
    command, crosses = COMPILERS[request.param], request.param.startswith('aarch64')
    needed(command[0])
    runner = []
    if crosses and platform.machine() != 'aarch64':
        needed('aarch64-linux-gnu-g++')     # also Clang takes the headers and the libraries of C++ from it
        needed('qemu-aarch64')
        runner = ['qemu-aarch64']
    includes, _ = build._includes()
    includes = ['-isystem' if argument == '-I' else argument for argument in includes]
    flags = build._flag_sets(called(*command, '--version'))[-1] + ['-Wall', '-Wextra', '-Werror']
    folder, objects = tmp_path_factory.mktemp('kernels'), {}
    for source in sorted(build._SOURCES.glob('*.cc')) + [Path(__file__).with_name('kernels.cc')]:
        objects[source.stem] = folder / f'{source.stem}.o'
        assert called(*command, *flags, *includes, '-c', source, '-o', objects[source.stem]) == ''
    driver = objects.pop('kernels')
    # -z defs: nothing is left that only the process could bring along.
    called(*command, '-shared', '-Wl,-z,defs', *objects.values(), '-o', folder / 'library.so')
    kernels = [objects[name] for name in objects
               if name in ('adam', 'isa', 'threads') or name.startswith('draw') and name != 'draw_operator']
    called(*command, '-static', driver, *kernels, '-o', folder / 'kernels')
    return [*runner, folder / 'kernels']


@pytest.mark.costly
@pytest.mark.parametrize('instructions', ['sse2', 'avx2', 'avx512'])
def test_kernels_make_the_same_bits(program, instructions):
    lines = called(*program, environment={'BBB_LAYERS_ISA': instructions}).splitlines()
    printed = dict(line.split() for line in lines)
    if printed.pop('isa') != instructions:
        pytest.skip(f'this processor has no {instructions}')
    assert math.isclose(float(printed.pop('kl')), KL, rel_tol=1e-12)
    assert printed == BITS
