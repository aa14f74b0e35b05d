# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks in float16, and the check before a network changes its dtype.

A float16 layer keeps mu in float16. The rest of a posterior is float32, because the range of float16 is too small for
it: rho, the Parameters of priors, the noise, sigma, the draw until the layer's operator receives it, and the KL
divergence. (Gluon's BatchNorm keeps its Parameters in float32 too.) In float16 the mark of a pruned weight, -1e30, and
a sigma of 1e-6 would be lost, and the squares in a KL divergence would overflow for weights of 256 and more.

On the CPU, MXNet 1.9.1 has few float16 operators. It has neither products nor convolutions there, not even for plain
Gluon layers.
"""
import functools

import numpy as np
from mxnet import ndarray
from mxnet.context import num_gpus
from mxnet.gluon import Block

__all__ = ['computed_in', 'widened', 'check_float16', 'check_casts_first']

_FLOAT16_MAX = 65504.


def computed_in(dtype):
    """The dtype of rho, of a draw and of its KL term for a mu in ``dtype``."""
    return np.dtype('float32') if np.dtype(dtype) == np.float16 else np.dtype(dtype)


def widened(array):
    """``array`` in float32 if it is an NDArray in 16 bits: float16, or the bfloat16 of ``mx.contrib.amp``.

    Lists and tuples are converted element by element. Every other value is returned unchanged.
    """
    if isinstance(array, (list, tuple)):
        return type(array)(map(widened, array)) if type(array) in (list, tuple) else array
    if isinstance(array, ndarray.NDArray):
        dtype = np.dtype(array.dtype)
        if dtype == np.float16 or dtype.names == ('bfloat16',):
            return array.astype('float32')
    return array


def check_float16(layer, param, lacking):
    """ValueError if ``param``, or the ``layer`` that has it, cannot be float16.

    Parameters
    ----------
    layer : Block
    param : Parameter
        A mu.
    lacking : str or None
        The operator of the layer that CPUs do not have in float16; None if CPUs have all of its operators.
    """
    if lacking and _may_only_be_on_cpu(param):
        raise ValueError(
            f'dtype of a Bayesian layer must be float32 or float64 on a CPU if it is a {type(layer).__name__}, since '
            f'MXNet 1.9.1 has no {lacking} in float16 there (saw: float16 for {layer.name})')
    for array in param._data or ():
        most = array.as_nd_ndarray().abs().max().astype('float32').asscalar() if array.size else 0.
        if np.isfinite(most) and most > _FLOAT16_MAX:
            raise ValueError('weights must be between -65504 and 65504 to be cast to float16 '
                             f'(saw: {most:g} in Parameter {param.name})')


def _may_only_be_on_cpu(param):
    try:
        contexts = param.list_ctx()
    except RuntimeError:    # an uninitialized Parameter can go to any processor of the machine
        return num_gpus() == 0
    return any(context.device_type.startswith('cpu') for context in contexts)


def check_casts_first():
    """Make ``Block.cast`` of every network check all of its layers before it changes the first one.

    Gluon casts block by block. A layer that cannot change its dtype would leave half of the network in the old dtype
    and half in the new one, with the weights of the layers before it already rounded. The parents of this layer are
    plain Gluon blocks, which know nothing of the check, so the check must be added to Gluon's own method. After the
    check, the method does the same as before.
    """
    plain_cast = Block.cast
    if getattr(plain_cast, '_checks_first', False):
        return

    @functools.wraps(plain_cast)
    def cast(self, dtype):
        todo, seen = [self], set()
        while todo:
            block = todo.pop()
            if id(block) not in seen:
                seen.add(id(block))
                todo.extend(block._children.values())
                getattr(block, '_check_cast', check_nothing)(dtype)
        plain_cast(self, dtype)

    cast._checks_first = True   # type: ignore[attr-defined]
    Block.cast = cast


def check_nothing(dtype):
    """The check of a block that takes every dtype that Gluon takes."""
