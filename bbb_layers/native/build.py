# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Compiles the native library at its first use, into a cache folder of the user.

The library needs the headers of the user's MXNet, and it takes them from the MXNet that is imported. It is not compiled
at installation, because pip builds in a separate environment without this MXNet, and because a wheel that was built
elsewhere would have to fit every compiler and every MXNet.

The cache is the folder that the environment variable BBB_LAYERS_CACHE names, otherwise bbb_layers in $XDG_CACHE_HOME,
otherwise ~/.cache/bbb_layers. The name of a library contains a hash of everything that the library is made from. Old
libraries can be deleted at any time.
"""
import _ctypes
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mxnet as mx
from mxnet import libinfo

__all__ = ['BuildError', 'cache_folder', 'library']

_LOGGER = logging.getLogger('bbb_layers')
_SOURCES = Path(__file__).parent / 'src'
#: -march=native is absent, because the instruction set is chosen at run time. -ffast-math is absent, because it would
#: be wrong for NaN and infinity; vectorized code needs only two of its parts, -fno-math-errno and -fno-trapping-math.
#: Contraction to fused multiply-add is off, because it would make results depend on the instruction set.
_FLAGS = ['-O3', '-std=c++17', '-fPIC', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=off', '-Wno-psabi']
#: Flags that GCC alone has. Clang refuses the second one.
_GCC_FLAGS = ['-fschedule-insns', '-fsched-pressure']
_COMPILERS = ['g++', 'clang++', 'c++']
#: How long one run of the compiler may take, and its answer about its version.
_SECONDS, _SECONDS_VERSION = 600, 60
#: A library that takes no time to compile, to find out what the compiler can do.
_PROBE = '''#if defined(_OPENMP)
#include <omp.h>
extern "C" int bbb_layers_probe() { return omp_get_max_threads(); }
#else
extern "C" int bbb_layers_probe() { return 1; }
#endif
'''


class BuildError(RuntimeError):
    """The library cannot be compiled or used; the message gives the reason."""


class CompilationError(BuildError):
    """The compilation failed after the log had said that it began."""


def cache_folder():
    """The folder for compiled libraries, which may not exist yet."""
    folder = os.environ.get('BBB_LAYERS_CACHE')
    if folder:
        return Path(folder).absolute()
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():      # the XDG specification says that relative paths must be ignored
        base = Path(os.path.expanduser('~/.cache'))     # Path.expanduser raises if there is no home directory
    if not base.is_absolute():
        raise BuildError('there is no home directory for the cache; BBB_LAYERS_CACHE can name a folder')
    return base / 'bbb_layers'


def _run(command, seconds=None):
    seconds = seconds or _SECONDS
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True, errors='replace', timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BuildError(f'{command[0]} had not ended after {seconds} seconds') from None
    if done.returncode:
        end = f'signal {-done.returncode}' if done.returncode < 0 else f'exit status {done.returncode}'
        raise BuildError(f'{command[0]} ended with {end}: {done.stdout.strip()[-1000:] or "it printed nothing"}')
    return done.stdout


def _compiler():
    """The command of the C++ compiler, which may have arguments, and the compiler's text about its version."""
    named = os.environ.get('CXX')
    for command in [shlex.split(named)] if named else [[name] for name in _COMPILERS]:
        if command and shutil.which(command[0]):
            return command, _run(command + ['--version'], _SECONDS_VERSION)
    raise BuildError(f'no C++ compiler among: {named or ", ".join(_COMPILERS)}')


def _flag_sets(version):
    """The sets of flags that this compiler may understand, the best one first."""
    # MXNet's wheel uses the system's libgomp. Clang would bring a second OpenMP library into the process.
    if 'clang' in version.lower():
        return [_FLAGS]
    return [_FLAGS + _GCC_FLAGS + ['-fopenmp'], _FLAGS + _GCC_FLAGS]


def _includes():
    """The arguments by which the compiler finds MXNet's lib_api.h and lib_api.cc, and the paths of these two files."""
    include = Path(libinfo.find_include_path())
    package = include.parent        # src is beside include in the wheel, as in the source tree
    files = [include / 'mxnet' / 'lib_api.h', package / 'src' / 'lib_api.cc']
    for file in files:
        if not file.is_file():
            raise BuildError(f'this MXNet comes without {file}')
    return ['-I', str(include), '-iquote', str(package), '-iquote', str(_SOURCES)], files


def _key(compiler, version, files):
    """A hash of everything that the library depends on; it does not depend on the folders that the files are in."""
    digest = hashlib.sha256()
    for part in [mx.__version__, platform.machine(), version] + compiler + sum(_flag_sets(version), []):
        digest.update(part.encode('utf-8') + b'\0')
    for file in sorted(_SOURCES.iterdir()) + files:
        if file.suffix in ('.h', '.cc'):
            digest.update(file.name.encode('utf-8') + b'\0' + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sealed(content):
    """Whether a library is complete, so that it ends with the hash of the bytes before the hash.

    The system's loader of libraries ignores the hash. Loading a library that was cut off would kill the process.
    """
    return len(content) > 32 and hashlib.sha256(content[:-32]).digest() == content[-32:]


def _compile_all(command, includes, folder, output):
    """Compile the sources, several at a time, and link them."""
    sources = sorted(_SOURCES.glob('*.cc'))
    objects = [str(folder / (source.stem + '.o')) for source in sources]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_run, [command + includes + ['-c', str(source), '-o', target]
                             for source, target in zip(sources, objects)]))
    _run(command + ['-shared'] + objects + ['-o', str(output)])


def _probe(command, folder):
    """Compile and load a library of one line; raises where the compiler or the folder cannot serve."""
    source, output = folder / 'probe.cc', folder / 'probe.so'
    source.write_text(_PROBE, encoding='ascii')
    _run(command + ['-shared', str(source), '-o', str(output)])
    # Where the file is still in use, NFS cannot delete its folder.
    _ctypes.dlclose(ctypes.CDLL(str(output))._handle)


def _usable(compiler, version, folder):
    """The compiler with the best flags by which it makes a library that can be loaded."""
    flags = _flag_sets(version)
    for attempt in flags:
        try:
            _probe(compiler + attempt, folder)
            return compiler + attempt
        except (BuildError, OSError):
            if attempt is flags[-1]:
                raise


def _compile(compiler, version, includes, target):
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='build-', dir=str(target.parent)) as folder:
        command = _usable(compiler, version, Path(folder))
        _LOGGER.warning('compiling native operators, once, to %s', target)    # a warning, because it takes a while
        output = Path(folder) / target.name
        try:
            _compile_all(command, includes, Path(folder), output)
            content = output.read_bytes()
            output.write_bytes(content + hashlib.sha256(content).digest())
        except (BuildError, OSError) as error:
            raise CompilationError(str(error)) from error
        # Other processes see the whole library or none. If several processes compile it, the last one replaces an
        # equal library.
        output.replace(target)


def library():
    """The path of the library, which is compiled if it is not in the cache.

    Raises
    ------
    BuildError, OSError
        If the library cannot be made.
    """
    compiler, version = _compiler()
    includes, files = _includes()
    target = cache_folder() / f'native-{_key(compiler, version, files)}.so'
    if not (target.is_file() and _sealed(target.read_bytes())):
        _compile(compiler, version, includes, target)
    return target
