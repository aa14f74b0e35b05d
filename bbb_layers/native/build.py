# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Compiles the native library at its first use, into a cache of the user's.

Not at installation: pip builds in an environment of its own, which does not have the user's MXNet, whose headers the
library needs; and a wheel built elsewhere would have to fit every compiler and MXNet. The headers used are those in
the MXNet that is imported.

The cache is the folder that the environment variable BBB_LAYERS_CACHE names, else bbb_layers in $XDG_CACHE_HOME, else
~/.cache/bbb_layers. A library's name has a hash of all that it is made of; old ones can be deleted at any time.
"""
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
#: Without -march=native: the instruction set is chosen at run time. Without -ffast-math, which would be wrong for NaN
#: and infinity; these two of its parts are what vectorized code needs. Without contraction to fused multiply-add, which
#: would make results depend on the instruction set.
_FLAGS = ['-O3', '-std=c++17', '-fPIC', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=off',
          '-fschedule-insns', '-fsched-pressure', '-Wno-psabi']
_COMPILERS = ['g++', 'clang++', 'c++']
_SECONDS = 600


class BuildError(RuntimeError):
    """Why there is no library."""


def cache_folder():
    """The folder for compiled libraries, which may not exist yet."""
    folder = os.environ.get('BBB_LAYERS_CACHE')
    if folder:
        return Path(folder).absolute()
    base = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(base):     # the XDG specification: relative ones are to be ignored
        base = os.path.expanduser('~/.cache')
    if not os.path.isabs(base):
        raise BuildError('there is no home directory for the cache; BBB_LAYERS_CACHE can name a folder')
    return Path(base) / 'bbb_layers'


def _run(command, **kwargs):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, errors='replace', timeout=_SECONDS, **kwargs)
    if done.returncode:
        raise BuildError(f'{command[0]} failed: {done.stdout.strip()[-1000:]}')
    return done.stdout


def _compiler():
    """The command of the C++ compiler, which may have arguments, and what it says of its version."""
    named = os.environ.get('CXX')
    for command in [shlex.split(named)] if named else [[name] for name in _COMPILERS]:
        if command and shutil.which(command[0]):
            return command, _run(command + ['--version'])
    raise BuildError('no C++ compiler among: %s' % (named or ', '.join(_COMPILERS)))


def _includes():
    """Arguments that find MXNet's lib_api.h and lib_api.cc, and these two files."""
    include = Path(libinfo.find_include_path())
    package = include.parent        # the wheel has src beside include, as the source tree has
    files = [include / 'mxnet' / 'lib_api.h', package / 'src' / 'lib_api.cc']
    for file in files:
        if not file.is_file():
            raise BuildError(f'this MXNet comes without {file}')
    return ['-I', str(include), '-iquote', str(package), '-iquote', str(_SOURCES)], files


def _key(compiler, version, includes, files):
    digest = hashlib.sha256()
    for part in [mx.__version__, platform.machine(), version] + compiler + _FLAGS + includes:
        digest.update(part.encode('utf-8') + b'\0')
    for file in sorted(_SOURCES.iterdir()) + files:
        if file.suffix in ('.h', '.cc'):
            digest.update(file.name.encode('utf-8') + b'\0' + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sealed(content):
    """Whether a library ends with the hash of what stands before that, which the loader of libraries does not look at.

    To load one that was cut off would kill the process.
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


def _compile(compiler, version, includes, target):
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='build-', dir=str(target.parent)) as folder:
        _LOGGER.warning('compiling native operators, once, to %s', target)    # it takes a while
        output = Path(folder) / target.name
        # MXNet's wheel runs on the system's libgomp. Clang would bring a second OpenMP into the process.
        attempts = [[]] if 'clang' in version.lower() else [['-fopenmp'], []]
        for openmp in attempts:
            try:
                _compile_all(compiler + _FLAGS + openmp, includes, Path(folder), output)
                break
            except BuildError:
                if openmp == attempts[-1]:
                    raise
        content = output.read_bytes()
        output.write_bytes(content + hashlib.sha256(content).digest())
        # Other processes see all of it or nothing, and who comes last replaces what is the same.
        os.replace(str(output), str(target))


def library():
    """The path of the library, compiled if the cache does not have it.

    Raises
    ------
    BuildError, OSError, subprocess.SubprocessError
        If there is none.
    """
    compiler, version = _compiler()
    includes, files = _includes()
    target = cache_folder() / (f'native-{_key(compiler, version, includes, files)}.so')
    if not (target.is_file() and _sealed(target.read_bytes())):
        _compile(compiler, version, includes, target)
    return target
