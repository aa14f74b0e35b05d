# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the example scripts share. Import it before mxnet."""
import argparse
import io
import os

# On x86 MXNet takes half of the logical processors, unless this is set before it is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count() or 1))

import matplotlib
from bbb_layers.checkpoint import write_atomically
import mxnet as mx
import numpy as np


matplotlib.use('Agg')       # pictures go to files: no display is needed

__all__ = ['parser', 'seed_all', 'save_figure']


def parser(description, output):
    """A parser of the arguments that all examples take; ``output`` is the name of their folder in results/."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('--quick', action='store_true', help='less of everything: a few seconds, for a first look')
    made.add_argument('--seed', type=_seed, default=0, metavar='N', help='default %(default)s')
    made.add_argument('--output', default=os.path.join('results', output), metavar='DIR',
                      help='folder for pictures; default %(default)s')
    return made


def _seed(text):
    if not (text.isdigit() and int(text) < 2 ** 31):
        raise argparse.ArgumentTypeError('must be a whole number from 0 to 2147483647 (saw: %r)' % text)
    return int(text)


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
    print('Written: %s' % path)
