# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Virtual environments for the contenders, since no single one could hold all of them.

Standard library only.
"""
import subprocess
import sys
from pathlib import Path

__all__ = ['ROOT', 'ENVIRONMENTS', 'PACKAGES', 'python_of', 'build']

ROOT = Path(__file__).resolve().parent.parent.parent

# Name -> what pip installs into it. The versions are those with which the contenders were written; a CPU build of
# torch serves, if pip is configured to find one.
ENVIRONMENTS = {
    'gluon': ['--editable', str(ROOT)],
    'torch': ['torch==2.13.0', 'numpy'],
    'jax': ['jax==0.10.2', 'optax==0.2.8']}

# What only one contender needs, environment and its pip arguments. What else these ask for, torchvision and such, is
# for models that are not used here, and would bring a torch of its own.
PACKAGES = {
    'torchbnn': ('torch', ['--no-deps', 'torchbnn==1.2']),
    'blitz': ('torch', ['--no-deps', 'blitz-bayesian-pytorch==0.2.8']),
    'bayesian-torch': ('torch', ['--no-deps', 'bayesian-torch==0.5.0'])}


def python_of(folder):
    return str(folder / 'bin' / 'python')


def run(*command):
    """Run a command; the reason why it failed in one line, or None."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith('ERROR')]
    return None if done.returncode == 0 else (errors or lines or ['exit status %d' % done.returncode])[-1]


def install(folder, arguments, stamp):
    """Install once: ``stamp`` is a file that says what has been installed. The reason why it failed, or None."""
    wanted = '\n'.join(arguments) + '\n'
    if stamp.exists() and stamp.read_text(encoding='utf-8') == wanted:
        return None
    failure = run(python_of(folder), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *arguments)
    if failure is None:
        stamp.write_text(wanted, encoding='utf-8')
    return failure


def build(folder, names, packages=(), say=print):
    """Build the environments ``names`` and install ``packages`` into them, as far as they are not there already.

    Parameters
    ----------
    folder : Path
        Gets a folder for each environment.
    names, packages : sequences of keys of ``ENVIRONMENTS`` and ``PACKAGES``
    say : function of a string
        Is told what is going on.

    Returns
    -------
    dict of name -> reason why this environment or package cannot be had
    """
    failures = {}
    for name in names:
        home = folder / name
        say(f'environment {home}')
        failure = None if (home / 'bin' / 'python').exists() else run(sys.executable, '-m', 'venv', str(home))
        failure = failure or install(home, ENVIRONMENTS[name], home / 'installed')
        if failure:
            failures[name] = failure
    for package in packages:
        name, arguments = PACKAGES[package]
        failure = failures.get(name) or install(folder / name, arguments, folder / name / ('installed-' + package))
        if failure:
            failures[package] = failure
    for name, failure in failures.items():
        say(f'{name} cannot be had: {failure}')
    return failures
