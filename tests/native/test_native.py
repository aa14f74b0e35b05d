# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import subprocesses
from mxnet import nd
from subprocesses import ROOT

from bbb_layers import native
from bbb_layers.native import build

#: Asks for the native operators, and makes one step of Adam and of a network of two layers, with them or without.
USE = '''
import logging
logging.basicConfig(level=logging.INFO, format='%(name)s %(levelname)s: %(message)s')
from bbb_layers import BayesDense, BBBLoss, native
from bbb_layers.optimizer import FusedAdam
from bbb_layers.training import optimizer as optimizer_module
import mxnet as mx
print(native.available(), native.available(), native.instruction_set())
weight, optimizer = mx.nd.ones((3,)), FusedAdam(learning_rate=0.5)
optimizer.update([0], [weight], [mx.nd.ones((3,))], [optimizer.create_state(0, weight)])
print([round(float(value), 3) for value in weight.asnumpy()])
net = mx.gluon.nn.HybridSequential()
net.add(BayesDense(4, in_units=3), BayesDense(2, in_units=4))
net.initialize()
loss_fn = BBBLoss(net, num_train=2)
with mx.autograd.record():
    loss = loss_fn(net(mx.nd.ones((2, 3))), mx.nd.zeros((2,)))
loss.backward()
print(bool(mx.nd.contrib.isfinite(loss).min().asscalar()))
'''
#: Stands for a compiler, and notes each compilation: it hands out a library that is compiled already.
COMPILER = '''#!%(python)s
import shutil, sys
if '--version' in sys.argv:
    print(%(version)r)
    sys.exit()
with open(%(log)r, 'a') as log:
    log.write(' '.join(sys.argv[1:]) + '\\n')
%(fails)s
shutil.copyfile(%(library)r, sys.argv[sys.argv.index('-o') + 1])
'''


@pytest.fixture
def compiler(compiled, tmp_path):
    """Makes a compiler that takes no time; it has the lines of its log as ``compiler.calls()``."""
    def make(version='g++ (Test) 1.0', fails=''):
        library, script = tmp_path / 'library', tmp_path / 'compiler'
        library.write_bytes(Path(native._State.path).read_bytes()[:-32])
        script.write_text(COMPILER % {'python': sys.executable, 'version': version, 'log': str(tmp_path / 'log'),
                                      'library': str(library), 'fails': fails})
        script.chmod(0o755)
        return str(script)

    def calls():
        lines = (tmp_path / 'log').read_text().splitlines() if (tmp_path / 'log').exists() else []
        return [line for line in lines if '/adam.cc' in line]   # the first of the sources stands for all

    make.calls = calls
    return make


def start(code=USE, **environment):
    """A process with no variables of the package's but these."""
    names = 'BBB_LAYERS_NATIVE', 'BBB_LAYERS_ISA', 'BBB_LAYERS_CACHE', 'XDG_CACHE_HOME', 'CXX'
    return subprocesses.start('-c', code, environment={**dict.fromkeys(names), **environment})


def finish(process):
    """What it printed, and the lines of its log, of which none may be a traceback's."""
    done = subprocesses.finish(process, limit=900)
    assert 'Traceback' not in done.stderr
    return done.stdout.splitlines(), [line for line in done.stderr.splitlines() if line.startswith('bbb_layers ')]


def in_use(log):
    """The last line of a log, which tells the operators in use; only the start of a compilation may stand before it."""
    *before, line = log
    assert len(before) <= 1
    for announced in before:
        assert announced.startswith('bbb_layers WARNING: compiling native operators, once, to ')
    return line


def run(*args, **kwargs):
    return finish(start(*args, **kwargs))


def assert_used(result, folder):
    (available, weight, finite), log = result
    assert available == f'True True {native.instruction_set()}' and weight == '[0.5, 0.5, 0.5]' and finite == 'True'
    assert re.fullmatch(rf'bbb_layers INFO: native operators are in use: {re.escape(str(folder))}/native-[0-9a-f]{{16}}'
                        rf'\.so, {native.instruction_set()}', in_use(log))


def assert_not_used(result, reason, announced=False):
    """``announced``: the failure comes after the log has announced a compilation, and is then a warning."""
    (available, weight, finite), log = result
    assert available == 'False False None' and weight == '[0.5, 0.5, 0.5]' and finite == 'True'
    assert len(log) == 1 + announced
    level = 'WARNING' if announced else 'INFO'
    assert in_use(log).startswith(f"bbb_layers {level}: native operators are not in use, but MXNet's: ")
    assert reason in log[-1]


@pytest.mark.costly
def test_compiles_once_also_in_two_processes(compiler, tmp_path):
    """Two processes that compile at the same time; what a real compiler makes is what all other tests run on."""
    cache = tmp_path / 'some' / 'cache'
    environment = {'BBB_LAYERS_CACHE': str(cache), 'CXX': compiler(fails='import time; time.sleep(1)')}
    for result in [finish(process) for process in [start(**environment) for _ in range(2)]]:
        assert_used(result, cache)
    library, = cache.iterdir()      # and nothing is left of the compilation
    before, calls = library.stat(), len(compiler.calls())
    assert_used(run(**environment), cache)
    assert len(compiler.calls()) == calls > 0
    assert (library.stat().st_mtime_ns, library.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.costly
def test_cache(compiler, tmp_path):
    cache = tmp_path / 'cache'
    environment = {'BBB_LAYERS_CACHE': str(cache), 'CXX': compiler() + ' --an-argument'}
    for _ in range(2):
        assert_used(run(**environment), cache)
        call, = compiler.calls()
    assert '--an-argument' in call and '-O3' in call and '-fopenmp' in call
    assert 'native' not in call.split('-march=')[1:] and 'fast-math' not in call
    first, = cache.iterdir()
    assert cache.stat().st_mode & 0o077 == 0        # nobody else can put a library there
    content = first.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for calls, broken in enumerate([b'', content[:-1], bytes(flipped)], 2):
        first.write_bytes(broken)
        assert_used(run(**environment), cache)
        assert len(compiler.calls()) == calls and first.read_bytes() == content
    compiler(version='g++ (Test) 2.0')
    assert_used(run(**environment), cache)
    assert len(compiler.calls()) == 5 and len(list(cache.iterdir())) == 2


@pytest.mark.costly
def test_import_compiles_nothing(compiler, tmp_path):
    out, log = run('import bbb_layers, bbb_layers.native, bbb_layers.optimizer, mxnet as mx\n'
                   'mx.optimizer.create("fusedadam")', BBB_LAYERS_CACHE=str(tmp_path / 'cache'), CXX=compiler())
    assert compiler.calls() == [] and not (tmp_path / 'cache').exists() and log == []


@pytest.mark.costly
def test_turned_off(compiler, tmp_path):
    result = run(BBB_LAYERS_NATIVE='0', BBB_LAYERS_CACHE=str(tmp_path / 'cache'), CXX=compiler())
    assert_not_used(result, 'BBB_LAYERS_NATIVE is 0')
    assert compiler.calls() == [] and not (tmp_path / 'cache').exists()


@pytest.mark.costly
@pytest.mark.parametrize('environment', [{'CXX': 'no-such-compiler'}, {'PATH': '/no-such-folder'}], ids=str)
def test_without_a_compiler(environment, tmp_path):
    assert_not_used(run(BBB_LAYERS_CACHE=str(tmp_path), **environment),
                    'no C++ compiler among: ' + environment.get('CXX', 'g++, clang++, c++'))


@pytest.mark.costly
@pytest.mark.parametrize('fails, reason', [
    ('sys.exit("it is broken")', 'ended with exit status 1: it is broken'),
    ('sys.exit(3)', 'ended with exit status 3: it printed nothing'),
    ('import os; os.kill(os.getpid(), 9)', 'ended with signal 9'),
    ('import time; time.sleep(600)', 'had not ended after 5 seconds'),
    ('sys.exit()', 'probe.so'),
    ('open(sys.argv[sys.argv.index("-o") + 1], "w").write("no library"); sys.exit()', 'probe.so')],
    ids=['fails', 'is silent', 'is killed', 'hangs', 'makes nothing', 'makes no library'])
def test_a_compiler_that_cannot_serve(fails, reason, compiler, tmp_path):
    cache = tmp_path / 'cache'
    hurry = 'from bbb_layers.native import build\nbuild._SECONDS = 5\n' if 'sleep' in fails else ''
    assert_not_used(run(hurry + USE, BBB_LAYERS_CACHE=str(cache), CXX=compiler(fails=fails)), reason)
    assert list(cache.iterdir()) == [] and compiler.calls() == []


@pytest.mark.costly
@pytest.mark.parametrize('name, content, mode, reason', [
    ('compiler', b'', 0o644, 'no C++ compiler among: '), ('compiler', b'\0no program', 0o755, 'Exec format error'),
    ('compiler', b'#!/bin/sh\nexit 1', 0o755, 'ended with exit status 1'),
    ('"compiler', b'', 0o755, 'No closing quotation')], ids=['a file', 'no program', 'has no version', 'no command'])
def test_what_is_no_compiler(name, content, mode, reason, tmp_path):
    (tmp_path / 'compiler').write_bytes(content)
    (tmp_path / 'compiler').chmod(mode)
    assert_not_used(run(BBB_LAYERS_CACHE=str(tmp_path / 'cache'), CXX=f'{tmp_path}/{name}'), reason)
    assert not (tmp_path / 'cache').exists()


@pytest.mark.costly
def test_a_compilation_that_fails_after_its_start(compiler, tmp_path):
    cache = tmp_path / 'cache'
    fails = 'if any(name.endswith("/draw.cc") for name in sys.argv): sys.exit("too much")'
    assert_not_used(run(BBB_LAYERS_CACHE=str(cache), CXX=compiler(fails=fails)), 'too much', announced=True)
    assert list(cache.iterdir()) == []


@pytest.mark.costly
def test_a_full_disk(compiler, tmp_path):
    """It has room for what the compiler writes, and none for the library with its seal."""
    cache, path = tmp_path / 'cache', compiler()
    limit = (tmp_path / 'library').stat().st_size
    code = f'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n'
    assert_not_used(run(code + USE, BBB_LAYERS_CACHE=str(cache), CXX=path), 'File too large', announced=True)
    assert list(cache.iterdir()) == []


#: Takes root's rights to write everywhere from the process.
NO_ROOT = '''
import ctypes, os
if os.geteuid() == 0:
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
'''


@pytest.mark.costly
@pytest.mark.skipif(sys.platform != 'linux', reason='for Linux, where root can give up its rights')
def test_a_read_only_cache(compiler, tmp_path):
    cache = tmp_path / 'cache'
    environment = {'BBB_LAYERS_CACHE': str(cache), 'CXX': compiler()}
    cache.mkdir(0o555)
    assert_not_used(run(NO_ROOT + USE, **environment), 'Permission denied')
    assert compiler.calls() == []
    cache.chmod(0o755)
    assert_used(run(**environment), cache)
    cache.chmod(0o555)
    calls = compiler.calls()
    assert_used(run(NO_ROOT + USE, **environment), cache)     # a library that is there already serves
    assert compiler.calls() == calls
    cache.chmod(0o755)


@pytest.mark.costly
def test_a_user_without_a_home(compiler):
    """HOME is not set, and the system does not know the user, as in some containers."""
    code = 'import pwd\ndef unknown(user):\n    raise KeyError(user)\npwd.getpwuid = unknown\n' + USE
    assert_not_used(run(code, CXX=compiler(), HOME=None), 'there is no home directory for the cache')


@pytest.mark.costly
def test_without_openmp(compiler, tmp_path):
    fails = 'if "-fopenmp" in sys.argv: sys.exit("no OpenMP")'
    environment = {'BBB_LAYERS_CACHE': str(tmp_path / 'cache'), 'CXX': compiler(fails=fails)}
    assert_used(run(**environment), tmp_path / 'cache')
    assert ['-fopenmp' in call for call in compiler.calls()] == [False]


@pytest.mark.costly
def test_clang_brings_no_openmp(compiler, tmp_path):
    environment = {'BBB_LAYERS_CACHE': str(tmp_path / 'cache'), 'CXX': compiler(version='clang version 14')}
    assert_used(run(**environment), tmp_path / 'cache')
    assert ['-fopenmp' in call for call in compiler.calls()] == [False]
    assert not any('-fsched' in call for call in compiler.calls())      # Clang refuses these flags


@pytest.mark.costly
def test_a_cache_that_cannot_be_written(compiler, tmp_path):
    (tmp_path / 'file').write_text('')
    for environment in ({'BBB_LAYERS_CACHE': str(tmp_path / 'file' / 'cache')}, {'HOME': '/dev/null'},
                        {'XDG_CACHE_HOME': str(tmp_path / 'file')}):
        assert_not_used(run(CXX=compiler(), **environment), 'Not a directory')
    assert compiler.calls() == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('BBB_LAYERS_CACHE', raising=False)
    monkeypatch.setenv('HOME', '/home/someone')
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    assert build.cache_folder() == Path('/home/someone/.cache/bbb_layers')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert build.cache_folder() == Path('/xdg/bbb_layers')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('BBB_LAYERS_CACHE', 'mine')
    assert build.cache_folder() == tmp_path / 'mine'
    monkeypatch.delenv('BBB_LAYERS_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
    with pytest.raises(build.BuildError, match='no home directory'):
        build.cache_folder()


def test_a_library_is_named_after_all_that_it_is_made_from(monkeypatch, tmp_path):
    """If anything were left out, an old library would be used after this had changed."""
    def key(folder='one', compiler=('g++', '-g'), version='g++ 1', header='h', source='a', name='a.cc'):
        src = tmp_path / folder / 'src'
        src.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(build, '_SOURCES', src)
        for file in src.iterdir():
            file.unlink()
        (src / name).write_text(source)
        (src / 'notes.txt').write_text(folder)      # the compiler never sees this
        (tmp_path / folder / 'lib_api.h').write_text(header)
        return build._key(list(compiler), version, [tmp_path / folder / 'lib_api.h'])

    usual = key()
    assert key('another') == usual      # folders do not count
    keys = [usual, key(compiler=('clang++', '-g')), key(compiler=('g++',)), key(version='g++ 2'), key(header='i'),
            key(source='b'), key(name='b.cc')]
    for thing, name, value in ((build, '_FLAGS', build._FLAGS + ['-O1']), (build, '_GCC_FLAGS', ['-O2']),
                               (build.mx, '__version__', '1.9.2'), (build.platform, 'machine', lambda: 'another')):
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, value)
            keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_name_of_a_library_does_not_depend_on_the_order_of_a_folder(monkeypatch, tmp_path):
    sources, keys = [tmp_path / 'a.cc', tmp_path / 'b.cc'], []
    for order in sources, sources[::-1]:
        for source in order:
            source.write_text(source.name)
        monkeypatch.setattr(build, '_SOURCES', types.SimpleNamespace(iterdir=lambda order=order: iter(order)))
        keys.append(build._key(['g++'], 'g++ 1', []))
    assert keys[0] == keys[1]


def test_a_seal_alone_is_no_library():
    """The hash of nothing, which ends with the hash of the nothing before it, as a library does."""
    assert not build._sealed(hashlib.sha256(b'').digest())


def test_an_error_shows_the_end_of_what_a_compiler_printed():
    code = 'raise SystemExit("the beginning" + 1000 * "-" + "the end")'
    with pytest.raises(build.BuildError, match='exit status 1: -+the end$'):
        build._run([sys.executable, '-c', code])


def test_a_compiler_has_less_time_for_its_version(monkeypatch):
    limits = []
    monkeypatch.setenv('CXX', sys.executable)
    monkeypatch.setattr(build.subprocess, 'run', lambda command, timeout, **_: (
        limits.append(timeout) or subprocess.CompletedProcess(command, 0, 'g++ 1')))
    assert build._compiler() == ([sys.executable], 'g++ 1')
    assert limits == [build._SECONDS_VERSION] and build._SECONDS_VERSION < build._SECONDS


def test_mxnet_without_its_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(build.libinfo, 'find_include_path', lambda: str(tmp_path / 'include'))
    with pytest.raises(build.BuildError, match='lib_api.h'):
        build._includes()


@pytest.mark.costly
def test_imported_again(compiled):
    # MXNet raises when it loads a library for the third time.
    code = USE + '''
import sys
for _ in range(3):
    for name in [name for name in sys.modules if name.startswith('bbb_layers.native')]:
        del sys.modules[name]
    import bbb_layers.native
    assert bbb_layers.native is not native and bbb_layers.native.available()
    native = bbb_layers.native
'''
    _, log = run(code, BBB_LAYERS_CACHE=str(Path(native._State.path).parent), CXX=os.environ.get('CXX'))
    assert len(log) == 4 and len(set(log)) == 1


@pytest.mark.costly
def test_operators_of_mxnet_stay_as_they_are(compiled):
    # mx.library.load makes them anew.
    code = '''
from bbb_layers import native
import mxnet as mx
kept, name = mx.nd.op.relu, mx.nd.__name__
print(native.available(), mx.nd.op.relu is kept, mx.nd.__name__ == name)
'''
    out, _ = run(code, BBB_LAYERS_CACHE=str(Path(native._State.path).parent), CXX=os.environ.get('CXX'))
    assert out == ['True True True']


#: Prints the instruction set and a hash of what Adam makes of all sizes up to 70 and some larger ones.
HASH = '''
import hashlib
from bbb_layers import native
from bbb_layers.optimizer import FusedAdam
from bbb_layers.training import optimizer as optimizer_module
import mxnet as mx, numpy as np
assert native.available()
digest = hashlib.sha256()
for clip_gradient in (None, 0.5):
    random, optimizer = np.random.RandomState(3), FusedAdam(learning_rate=0.1, wd=0.01, clip_gradient=clip_gradient)
    sizes = list(range(1, 71)) + [4095, 4096, 4097, 100003]
    weights = [mx.nd.array(random.normal(size=size)) for size in sizes]
    states = [optimizer.create_state(i, weight) for i, weight in enumerate(weights)]
    for step in range(6):
        grads = [mx.nd.array(random.normal(size=size) * 10. ** random.randint(-30, 10)) for size in sizes]
        grads[40][:3] = mx.nd.array([np.nan, np.inf, -np.inf])
        optimizer.update(list(range(len(sizes))), weights, grads, states)
    for arrays in zip(weights, *zip(*states)):
        for array in arrays:
            values = array.asnumpy()
            values[np.isnan(values)] = 7    # which NaN it is may differ
            digest.update(values.tobytes())
print(native.instruction_set(), digest.hexdigest())
'''


@pytest.mark.costly
def test_instruction_sets_and_threads_agree_in_every_bit(compiled):
    def hashed(wanted, threads):
        (line,), _ = run(HASH, BBB_LAYERS_CACHE=str(Path(native._State.path).parent), BBB_LAYERS_ISA=wanted,
                         OMP_NUM_THREADS=threads, CXX=os.environ.get('CXX'))
        return line.split()

    known = ['sse2', 'avx2', 'avx512']
    best, digest = hashed(None, '2')
    for wanted, threads in (('sse2', '2'), ('avx2', '1'), ('avx512', '1')):
        least = known[min(known.index(wanted), known.index(best))]
        assert hashed(wanted, threads) == [least, digest]


@pytest.mark.costly
@pytest.mark.parametrize('other', ['g++', 'clang++'])
def test_compilers_agree_in_every_bit(other, compiled, tmp_path):
    if not shutil.which(other):
        pytest.skip(f'{other} is not installed')
    if other == os.environ.get('CXX', 'g++'):
        pytest.skip(f'{other} is the compiler of all tests')
    (usual,), _ = run(HASH, BBB_LAYERS_CACHE=str(Path(native._State.path).parent), CXX=os.environ.get('CXX'))
    (line,), _ = run(HASH, BBB_LAYERS_CACHE=str(tmp_path), CXX=other)
    assert line == usual and len(list(tmp_path.iterdir())) == 1


def floats(*values):
    return native.floats(values)


def adam(arrays, **changed):
    attributes = dict(parameters=1, step=2 ** 40, lrs=floats(0.1), wds=floats(0.),
                      settings=floats(0.9, 0.999, 1e-8, 1., -1.))
    attributes.update(changed)
    native.operator(nd, '_bbb_layers_adam')(
        *arrays, **{name: value for name, value in attributes.items() if value is not None})
    nd.waitall()


def arrays_of(shape=(2, 3), dtype='float32'):
    weight = nd.ones(shape, dtype=dtype)
    return [weight, weight, nd.ones(shape, dtype=dtype), nd.zeros(shape, dtype=dtype), nd.zeros(shape, dtype=dtype)]


@pytest.mark.parametrize('place', [0, 1, 2, 3, 4])
def test_arrays_are_checked(compiled, place):
    for other, message in ((nd.ones((2, 3), dtype='float64'), 'must be float32'),
                           (nd.ones((2, 3), dtype='float16'), 'must be float32'),
                           (nd.ones((3, 2)), "must have the weight's shape"),
                           (nd.ones((6,)), "must have the weight's shape"),
                           (nd.ones((2, 3)).tostype('row_sparse'), 'not dense')):
        arrays = arrays_of()
        arrays[place] = other
        with pytest.raises(mx.MXNetError, match=message):
            adam(arrays)
        assert (arrays[3 if place != 3 else 4].asnumpy() == 0).all()
    with pytest.raises(mx.MXNetError):
        adam(arrays_of()[:place])


@pytest.mark.parametrize('changed, message', [
    ({'parameters': -1}, 'parameters must be a whole number'), ({'parameters': None}, 'parameters must be given'),
    ({'parameters': 858993460}, 'parameters must be at most 1048576'),       # 5 times as many are 4 as an int
    ({'parameters': 1048577}, 'parameters must be at most 1048576'), ({'parameters': 0}, 'parameters must be at least'),
    ({'parameters': '\u6f22' * 30}, "saw: '\u6f22{26}'"),      # an error that is cut within a letter could not be read
    ({'parameters': 2}, 'num_inputs'), ({'step': 'x'}, 'step must be a whole number'),
    ({'lrs': ''}, 'lrs must be 8 hexadecimal'),
    ({'lrs': '0000000G'}, 'lrs must be hexadecimal digits'),
    ({'lrs': '0000000g'}, 'lrs must be hexadecimal digits'), ({'lrs': '0000000:'}, 'lrs must be hexadecimal digits'),
    ({'wds': floats(1, 2)}, 'wds must be 8 hexadecimal'),
    ({'settings': floats(1)}, 'settings must be 40 hexadecimal'), ({'settings': None}, 'settings must be given')])
def test_attributes_are_checked(compiled, changed, message):
    arrays = arrays_of()
    with pytest.raises(mx.MXNetError, match=message):
        adam(arrays, **changed)
    assert (arrays[3].asnumpy() == 0).all()
    adam(arrays)
    np.testing.assert_allclose(arrays[3].asnumpy(), 0.1, rtol=1e-6)     # an error is no lasting one


#: Lets MXNet ask 1000 times which of its 10,000 inputs an operator changes, and prints the growth of memory in bytes.
ASK = '''
import resource, sys
from bbb_layers import native
import mxnet as mx
assert native.available()
operator = native.operator(mx.sym, '_bbb_layers_adam')
symbol = operator(*[mx.sym.Variable('x')] * 10000, parameters=2000, step=0, lrs='', wds='', settings='')

def ask():
    for _ in range(1000):
        assert symbol.list_auxiliary_states() == ['x']
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)

before = ask()
print(ask() - before)
'''


@pytest.mark.costly
def test_the_list_of_changed_inputs_does_not_leak(compiled):
    (growth,), _ = run(ASK, BBB_LAYERS_CACHE=str(Path(native._State.path).parent), CXX=os.environ.get('CXX'))
    leaked = 1000 * 3 * 2000 * 4    # an int for weight, mean and variance of each Parameter
    print(f'{growth} bytes, and {leaked} if each list leaked')
    assert int(growth) < leaked / 4


def test_loads_into_mxnet_1_9_1_alone(compiled, tmp_path):
    """MXNet calls ``initialize`` with its version when it loads the library, and refuses a library that returns 0."""
    ours = ctypes.c_int()
    assert mx.base._LIB.MXGetVersion(ctypes.byref(ours)) == 0 and ours.value == 10901
    # MXNet shows all messages of the library that it has loaded. Those of a copy do not come up in other tests.
    library = ctypes.CDLL(shutil.copy(native._State.path, str(tmp_path / 'copy.so')))
    assert library.initialize(ours) == 1 and library._msgSize() == 0
    for version in [10900, 10902, 11901, 20000]:
        assert library.initialize(version) == 0
        assert errors_of(library) == [f'MXNet must be 1.9.1 (saw: {version})']
        assert errors_of(library) == []     # MXNet does not show an error again when another one comes


def errors_of(library):
    """The texts that MXNet reads in this thread after an error."""
    texts, text = [], ctypes.c_char_p()
    for place in range(library._msgSize()):
        library._msgGet(place, ctypes.byref(text))
        texts.append(text.value.decode('ascii'))
    return texts


def test_two_threads_that_fail_at_the_same_time_read_their_own_errors(compiled, tmp_path):
    library = ctypes.CDLL(shutil.copy(native._State.path, str(tmp_path / 'copy.so')))
    both_failed, found = threading.Barrier(2, timeout=60), {}

    def fail(version):
        library.initialize(version)
        both_failed.wait()
        found[version] = errors_of(library)

    threads = [threading.Thread(target=fail, args=(version,)) for version in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {version: [f'MXNet must be 1.9.1 (saw: {version})'] for version in (1, 2)}


@pytest.mark.parametrize('weights, message', [(1048577, 'most 1048576'), (0, r"least 1 \(saw: '0'\)")])
def test_a_count_of_weights_has_bounds(compiled, weights, message):
    """MXNet takes memory for as many outputs, and dies of an operator without any, also where nothing is computed."""
    with pytest.raises(mx.MXNetError, match=f'weights must be at {message}'):
        native.operator(mx.sym, '_bbb_layers_adam_settle')(mx.sym.Variable('x'), weights=weights, step=0)
    with pytest.raises(mx.MXNetError, match=f'weights must be at {message}'):
        native.operator(nd, '_bbb_layers_adam_settle')(nd.ones(3), weights=weights, step=0)


def test_unknown_operator(compiled):
    with pytest.raises(mx.MXNetError, match='_bbb_layers_no_such'):
        native.operator(nd, '_bbb_layers_no_such')


def test_operators_as_symbols(compiled):
    inputs = [mx.sym.Variable(name) for name in ('weight', 'again', 'grad', 'mean', 'var')]
    symbol = native.operator(mx.sym, '_bbb_layers_adam')(*inputs, parameters=1, step=0, lrs='', wds='', settings='')
    assert sorted(symbol.list_inputs()) == ['again', 'grad', 'mean', 'var', 'weight']
    assert symbol.list_auxiliary_states() == ['weight', 'mean', 'var']      # what it changes


@pytest.mark.costly
def test_sources_are_installed(tmp_path):
    if not (ROOT / 'bbb_layers').exists():
        pytest.skip('for a tree with the package in it; these tests run on an installed one')
    pytest.importorskip('setuptools')
    subprocesses.run('setup.py', '-q', 'build_py', '--build-lib', tmp_path / 'lib', 'egg_info', '--egg-base', tmp_path,
                     cwd=ROOT)
    sources = {file.name for file in (ROOT / 'bbb_layers' / 'native' / 'src').iterdir()}
    assert sources == {file.name for file in (tmp_path / 'lib' / 'bbb_layers' / 'native' / 'src').iterdir()}
    assert {'adam.cc', 'adam.h', 'library.cc'} <= sources
