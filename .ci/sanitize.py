# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Compiles the kernels of the native operators for the sanitizers of the compiler, and runs them without MXNet.

    python .ci/sanitize.py                      # AddressSanitizer with UndefinedBehaviorSanitizer, and ThreadSanitizer
    python .ci/sanitize.py --only thread --times 1000

For each instruction set of the processor, it runs the programs of tests/native: kernels.cc, whose results must be
the same on all of them, and sanitized.cc, which says what it does. Then the faults that sanitized.cc makes on purpose
must be noticed. Objects and programs are left in build/sanitize.

The compiler is the one that CXX names, otherwise g++, clang++ or c++. The exit status of
this script is 77 if there is no compiler, or
if what it makes for a sanitizer does not run.
"""
import argparse
import ast
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / 'bbb_layers' / 'native' / 'src'
TESTS = ROOT / 'tests' / 'native'
CANNOT = 77
#: The flags of each sanitizer. Conversions of floats that do not fit are not part of 'undefined'.
SANITIZERS = {
    'address': ['-fsanitize=address,undefined,float-cast-overflow', '-fno-sanitize-recover=all'],
    'thread': ['-fsanitize=thread'],
}
#: What each of them must notice: the argument of sanitized.cc, and a part of the report.
FAULTS = {
    'address': {'overrun': 'heap-buffer-overflow', 'overwrite': 'heap-buffer-overflow', 'misaligned': 'misaligned'},
    'thread': {'race': 'data race', 'shared': 'data race'},
}
REPORT = re.compile(r'Sanitizer|runtime error')


class Wrong(Exception):
    """A check has failed; the message is for the reader."""


class Cannot(Exception):
    """There is nothing to check with."""


def called(command, expected=True, **variables):
    """What a command prints; with ``expected`` it must end with exit status 0 and without a report."""
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, errors='replace', timeout=1800,
                          env={**os.environ, **variables})
    if expected and (done.returncode or REPORT.search(done.stdout)):
        raise Wrong(f'{" ".join(map(str, command))} ended with {done.returncode}:\n{done.stdout[:20000]}')
    return done.returncode, done.stdout


def flags(sanitizer, clang):
    """The flags of the library, read from its build.py, which would import MXNet; and those of the sanitizer."""
    tree = ast.parse((SOURCES.parent / 'build.py').read_text(encoding='utf-8'))
    found = {node.targets[0].id: node.value for node in tree.body
             if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    # -O1 is compiled much faster than -O3, and it leaves more of the code as it is written for the sanitizer. Clang
    # runs one thread in each operator, as it does in the library.
    return (ast.literal_eval(found['_FLAGS']) + SANITIZERS[sanitizer] + ['-O1', '-g1', '-pthread', '-Wall', '-Wextra']
            + ([] if clang else ['-fopenmp']))


def compiler():
    named = os.environ.get('CXX')
    for command in [shlex.split(named)] if named else [['g++'], ['clang++'], ['c++']]:
        if command and shutil.which(command[0]):
            return command
    raise Cannot(f'no C++ compiler among: {named or "g++, clang++, c++"}')


def starter(sanitizer):
    """How a program is started. The runtime of ThreadSanitizer fails where the kernel spreads addresses too far."""
    command = ['setarch', platform.machine(), '-R']
    if sanitizer == 'thread' and shutil.which('setarch'):
        if subprocess.run(command + ['true'], stderr=subprocess.DEVNULL).returncode == 0:
            return command
    return []


def build(sanitizer, folder):
    """Compile and link; returns the two programs."""
    command = compiler()
    clang = 'clang' in called(command + ['--version'])[1].lower()
    options = command + flags(sanitizer, clang)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / 'probe.cc'
    probe.write_text('int main() { return 0; }\n', encoding='ascii')
    try:
        called(options + [probe, '-o', folder / 'probe'])
        called(starter(sanitizer) + [folder / 'probe'])
    except Wrong as error:
        raise Cannot(f'programs for the sanitizer {sanitizer} cannot be made or run: {error}') from error

    # The two operators and library.cc need the headers of MXNet.
    sources = [path for path in sorted(SOURCES.glob('*.cc'))
               if not path.stem.endswith('_operator') and path.stem not in ('library', 'operators')]
    threads = sanitizer == 'thread' and not clang
    sources += [TESTS / f'{name}.cc' for name in ['kernels', 'sanitized'] + ['openmp'] * threads]
    objects = {path.stem: folder / f'{path.stem}.o' for path in sources}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda path: called(options + ['-iquote', SOURCES, '-c', path, '-o', objects[path.stem]]),
                      # The longest first.
                      sorted(sources, key=lambda path: not path.stem.startswith('draw_'))))
    programs = [objects.pop('kernels'), objects.pop('sanitized')]
    # openmp.cc takes the place of libgomp.
    link = [option for option in options if not (threads and option == '-fopenmp')]
    for program in programs:
        called(link + [program, *objects.values(), '-o', program.with_suffix('')])
    return [program.with_suffix('') for program in programs]


def check(sanitizer, folder, times):
    print(f'{sanitizer}: compiling', flush=True)
    kernels, sanitized = build(sanitizer, folder)
    start = starter(sanitizer)
    # Passive: threads that wait actively take the processors from the others.
    variables = {'OMP_WAIT_POLICY': 'passive', 'OMP_NUM_THREADS': '3', 'UBSAN_OPTIONS': 'print_stacktrace=1',
                 'TSAN_OPTIONS': 'halt_on_error=1'}
    arguments = ['edges'] if sanitizer == 'address' else ['threads', times]
    expected = None
    for instructions in ('sse2', 'avx2', 'avx512'):
        variables['BBB_LAYERS_ISA'] = instructions
        isa, *bits = called(start + [kernels], **variables)[1].splitlines()
        if isa != f'isa {instructions}':
            print(f'{sanitizer}, {instructions}: not run, because this processor does not have it', flush=True)
            continue
        if expected is None:
            expected = bits
            print('checksums that must be equal on all instruction sets:', *bits, sep='\n    ')
        if bits != expected:
            raise Wrong(f'{instructions} computes other bits: {bits}')
        called(start + [sanitized, *arguments], **variables)
        for fault, report in FAULTS[sanitizer].items():
            status, output = called(start + [sanitized, fault], expected=False, **variables)
            if not status or report not in output:
                raise Wrong(f'the fault {fault} was not noticed: exit status {status}\n{output[:20000]}')
        print(f'{sanitizer}, {instructions}: no fault was found; the faults that are made on purpose '
              f'({", ".join(FAULTS[sanitizer])}) were noticed', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=sorted(SANITIZERS), help='one of the two sanitizers')
    parser.add_argument('--output', type=Path, default=ROOT / 'build' / 'sanitize', help='folder for what is compiled')
    parser.add_argument('--times', type=int, default=200, help='how often two threads do their work (200)')
    args = parser.parse_args()
    try:
        for sanitizer in [args.only] if args.only else sorted(SANITIZERS):
            check(sanitizer, args.output / sanitizer, args.times)
    except Wrong as error:
        print(error)
        return 1
    except Cannot as error:
        print(error)
        return CANNOT
    return 0


if __name__ == '__main__':
    sys.exit(main())
