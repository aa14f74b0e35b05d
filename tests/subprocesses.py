# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Processes of Python that tests start, and the folders of the repository."""
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXAMPLES = ROOT / 'examples'


def start(*arguments, environment=None, **kwargs):
    """A new process of this Python with these arguments, such as a script and its flags, or '-c' and code.

    It finds the package where these tests do. The variables in ``environment`` are set, and removed where they are
    None; ``kwargs`` are of ``subprocess.Popen``. What it writes is text, for ``finish`` to read.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    variables = {**os.environ, 'PYTHONPATH': path, **(environment or {})}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    return subprocess.Popen([sys.executable, *map(str, arguments)],
                            env={name: value for name, value in variables.items() if value is not None},
                            **{**options, **kwargs})


def finish(process, limit=300, check=True):
    """Wait for ``process``, at most ``limit`` seconds, and return it as a ``subprocess.CompletedProcess``.

    All that it wrote is printed, so that pytest shows it where the test fails. With ``check`` the process must end
    with exit status 0.
    """
    with process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException:
            process.kill()
            print(*process.communicate())
            raise
    print(output, errors)
    assert not check or process.returncode == 0, f'exit status {process.returncode}: {errors}'
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(*arguments, limit=300, check=True, **kwargs):
    """``finish`` of a process that is started here."""
    return finish(start(*arguments, **kwargs), limit, check)
