# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks in float16, and the check before a network changes its dtype.

A float16 layer keeps mu in float16. All else of a posterior, which float16 has not the range for, is float32: rho, the
Parameters of priors, the noise, sigma, the draw until it is handed to the layer's operator, and the KL divergence. (So
does Gluon's BatchNorm with its own.) A pruned weight's mark, -1e30, and a sigma of 1e-6 would be lost in float16, and
the squares in a KL divergence overflow from weights of 256 up.

The CPU has few float16 operators: MXNet 1.9.1 has neither products nor convolutions there, for plain Gluon either.
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
    """``array`` in float32 if it is an NDArray in 16 bits, float16 or the bfloat16 of ``mx.contrib.amp``; lists of
    arrays array by array. All else as it is."""
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
        The operator of the layer's that CPUs do not have in float16.
    """
    if lacking and _may_only_be_on_cpu(param):
        raise ValueError(
            f'dtype of a Bayesian layer must be float32 or float64 on a CPU if it is a {type(layer).__name__}, since MXNet 1.9.1 has no {lacking} '
            f'in float16 there (saw: float16 for {layer.name})')
    for array in param._data or ():
        most = array.as_nd_ndarray().abs().max().astype('float32').asscalar() if array.size else 0.
        if np.isfinite(most) and most > _FLOAT16_MAX:
            raise ValueError(f'weights must be between -65504 and 65504 to be cast to float16 (saw: {most:g} in Parameter {param.name})')


def _may_only_be_on_cpu(param):
    try:
        contexts = param.list_ctx()
    except RuntimeError:    # not initialized: it can still go wherever there is
        return num_gpus() == 0
    return any(context.device_type.startswith('cpu') for context in contexts)


def check_casts_first():
    """Let ``Block.cast`` of every network check all of its layers before it changes the first.

    Gluon casts block by block, so a layer that cannot follow would leave the network half in one dtype and half in the
    other, and what was in the layers before it rounded. Its parents, plain Gluon blocks, know nothing of it: there is
    no other place for this than Gluon's own method, which then does what it always did.
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
    """The check of a block that takes whatever Gluon does."""
