# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Updates by optimizers, which leave pruned weights pruned.

The mark of a pruned weight is a value of rho, :data:`~bbb_layers.posterior.gaussian.PRUNED_RHO`. Some optimizers write
a new rho whatever its gradient (Ftrl, FTML, RMSProp with ``clip_weights``), some compute the norm of all rho (LAMB,
LARS), and momentum moves a mu that was set to 0. Therefore rho has 0 in place of the mark while an optimizer updates
it, and afterwards rho has its marks again, and mu has 0 wherever its weight is pruned.
"""
import contextlib
import functools
from typing import Any, Iterator

from mxnet import autograd, ndarray
from mxnet.optimizer import Updater

from .gaussian import PRUNED_RHO
from .rho import RhoParameter

__all__ = ['keep_pruned']


def keep_pruned() -> None:
    """Make every update by an optimizer leave pruned weights pruned.

    Trainers and kvstores call optimizers through MXNet's Updater, so the change must be made to its own method. For
    Parameters without pruned weights the method does the same as before.
    """
    plain_call = Updater.__call__
    if getattr(plain_call, '_keeps_pruned', False):
        return

    @functools.wraps(plain_call)
    def call(self, index, grad, weight):
        with contextlib.ExitStack() as stack:
            params = getattr(self.optimizer, 'param_dict', None)
            if params:
                several = isinstance(index, (list, tuple))
                for each, array in zip(index if several else [index], weight if several else [weight]):
                    param = params.get(each)
                    rho = getattr(param, '_rho', param)
                    if isinstance(rho, RhoParameter) and rho.mask is not None:
                        stack.enter_context(_kept(rho.mask, array, 0. if rho is not param else PRUNED_RHO))
            plain_call(self, index, grad, weight)

    call._keeps_pruned = True   # type: ignore[attr-defined]
    Updater.__call__ = call


@contextlib.contextmanager
def _kept(mask: Any, array: Any, value: float) -> Iterator[None]:
    """``array`` has 0 where a weight is pruned inside this context manager, and ``value`` there afterwards."""
    array = array.as_nd_ndarray()
    with autograd.pause():
        alive = mask.on(array.context).astype(array.dtype, copy=False)
        ndarray.where(alive, array, alive, out=array)       # alive is 0 where a weight is pruned
    try:
        yield
    finally:
        with autograd.pause():
            ndarray.where(alive, array, (1 - alive) * value, out=array)
