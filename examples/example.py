# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the example scripts share. Import it before mxnet."""
import argparse
import io
import os
import tempfile

# On x86 MXNet takes half of the logical processors, unless this is set before it is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count() or 1))

import matplotlib
from bbb_layers.checkpoint import write_atomically
import mxnet as mx
import numpy as np


matplotlib.use('Agg')       # pictures go to files: no display is needed

__all__ = ['checked', 'count', 'seed', 'make_folder', 'parser', 'seed_all', 'save_figure']


def checked(convert, holds, constraint):
    """A type for argparse, which puts the flag before the message."""
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f'must be {constraint} (saw: {text!r})')
        return value
    return parse


count = checked(int, lambda value: value >= 1, 'a whole number of at least 1')
seed = checked(int, lambda value: 0 <= value < 2 ** 31, 'a whole number from 0 to 2147483647')


def make_folder(path):
    """Make a folder for results, if it is missing; raises OSError if no file can be written there."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError('must be a folder, to be made or there, that files can be written to '
                      f'(saw: {path}; {error.strerror})') from None


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args=None, namespace=None):
        """The folder is made once all arguments are right, and before any work is done that it could lose."""
        parsed = super().parse_args(args, namespace)
        try:
            make_folder(parsed.output)
        except OSError as error:
            self.error(f'argument --output: {error}')
        return parsed


def parser(description, output):
    """A parser of the arguments that all examples take; ``output`` is the name of their folder in results/.

    Its ``parse_args`` makes that folder.
    """
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('--quick', action='store_true', help='less of everything: a few seconds, for a first look')
    made.add_argument('--seed', type=seed, default=0, metavar='N', help='default %(default)s')
    made.add_argument('--output', default=os.path.join('results', output), metavar='DIR',
                      help='folder for pictures, made if missing; pictures of the same names are replaced; default '
                           '%(default)s')
    return made


def seed_all(seed):
    mx.random.seed(seed)
    np.random.seed(seed)


def save_figure(figure, folder, name):
    """Write a picture, whole or not at all, into a folder that is made if it is missing."""
    os.makedirs(folder, exist_ok=True)
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=80)
    path = os.path.join(folder, name + '.png')
    write_atomically(path, stream.getvalue())
    print(f'Written: {path}')
