# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command line of mnist.py."""
import argparse
import math
import os
import re

from example import checked, count, seed      # before mxnet

import mxnet as mx
from mxnet import nd


def reason(error):
    return (str(error).splitlines() or [repr(error)])[-1]       # MXNet's messages start with a C++ traceback


def context(text):
    match = re.fullmatch(r'(cpu|gpu)(?:\((\d{1,3})\))?', text)
    if not match:
        raise argparse.ArgumentTypeError(f'must be like cpu, cpu(0), gpu or gpu(0) (saw: {text!r})')
    ctx = mx.Context(match.group(1), int(match.group(2) or 0))
    try:
        nd.zeros((1,), ctx=ctx).wait_to_read()
    except mx.MXNetError as error:
        raise argparse.ArgumentTypeError(f'must be usable by this MXNet (saw: {text!r}; {reason(error)})') from None
    return ctx


def parse_arguments(description):
    positive = checked(float, lambda value: 0 < value < math.inf, 'a positive, finite number')
    fraction = checked(float, lambda value: 0 < value < 1, 'a number between 0 and 1, both excluded')
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,  # the Makefile looks for them
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--quick', action='store_true', help='less of everything: a few seconds, for a first look')
    add('--hidden-layers', type=count, default=2, metavar='N', help='default %(default)s')
    add('--hidden-units', type=count, metavar='N', help='units of each hidden layer; default 400, with --quick 50')
    add('--batch-size', type=count, default=128, metavar='N', help='default %(default)s')
    add('--epochs', type=count, metavar='N', help='default 10, with --quick 3')
    add('--lr', type=positive, default=1e-3, metavar='X', help="Adam's learning rate; default %(default)s")
    add('--num-samples', type=count, default=1, metavar='N', help='draws of the weights per step; default %(default)s')
    add('--draws', type=count, metavar='N', help='draws of the Monte Carlo prediction; default 32, with --quick 4')
    add('--prior', choices=['scale_mixture', 'gaussian'], default='scale_mixture', help='default %(default)s')
    add('--pi', type=fraction, metavar='X', help="weight of the mixture's first component; default 0.5")
    add('--sigma1', type=positive, metavar='X', help="standard deviation of the mixture's first component, default "
                                                     '0.75, or of the gaussian prior, default 1.0')
    add('--sigma2', type=positive, metavar='X', help="... of the mixture's second component; default 0.01")
    add('--seed', type=seed, default=0, metavar='N', help='also splits the default data; default %(default)s')
    add('--ctx', type=context, default=mx.cpu(), help='cpu, cpu(0), gpu, gpu(1), ...; default %(default)s')
    add('--no-hybridize', action='store_true', help='run operator by operator, not as one graph')
    add('--data', metavar='DIR', help='folder of the four idx files of MNIST or Fashion-MNIST, gzipped or not')
    add('--output', metavar='DIR', help='folder for the results, made if missing; default results/mnist, but with '
                                        '--load none, and then figures are drawn only if a folder is given')
    add('--overwrite', action='store_true', help='accept an --output that is not empty: replaces files of the same '
                                                 'names, and leaves others alone')
    add('--resume', action='store_true', help='go on after the last epoch of which --output has the checkpoint; all '
                                              'arguments but --epochs as they were. From the start if there is none')
    add('--load', metavar='FILE', help='do not train: evaluate and prune the parameters in this file; needs '
                                       '--hidden-layers, --hidden-units, --data and --seed as they were in training')
    args = parser.parse_args()
    for name, usual, quick in ('hidden_units', 400, 50), ('epochs', 10, 3), ('draws', 32, 4):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else usual)
    if args.prior == 'gaussian' and (args.pi or args.sigma2):
        parser.error('--pi and --sigma2 belong to --prior scale_mixture (saw: --prior gaussian)')
    if args.resume and (args.overwrite or args.load is not None):
        parser.error('--resume goes with neither --overwrite nor --load')
    if args.output is None and args.load is None:
        args.output = os.path.join('results', 'mnist')
    return args
