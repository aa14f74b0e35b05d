# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Updates by optimizers, which leave pruned weights pruned.

The mark of a pruned weight is a value of rho, :data:`~bbb_layers.posterior.gaussian.PRUNED_RHO`. Momentum moves a mu
that was set to 0, so mu is set to 0 again after each update. Most optimizers add a number to each rho, and the mark is
so large that it does not change. The other optimizers write a new rho whatever its gradient (Ftrl, FTML, RMSProp with
``clip_weights``), compute the norm of all rho (LAMB, LARS), or are unknown. They update a copy of rho that has 0 in
place of the marks. Afterwards, the values of the living weights are taken from the copy.
"""
import contextlib
import functools
from typing import Any, Iterator

from mxnet import autograd, ndarray, optimizer as optimizers
from mxnet.optimizer import Updater

from .._mxnet.arrays import as_kind_of, value_of
from .gaussian import PRUNED_RHO, kept
from .rho import RhoParameter

__all__ = ['keep_pruned']

#: Optimizers that add a number to each weight, as long as they have no weight decay. FusedAdam says so itself.
_ADDING = (optimizers.SGD, optimizers.NAG, optimizers.SGLD, optimizers.DCASGD, optimizers.Adam, optimizers.Nadam,
           optimizers.AdaGrad, optimizers.AdaDelta, optimizers.RMSProp)


def keep_pruned() -> None:
    """Make every update by a Trainer leave pruned weights pruned.

    Trainers and local kvstores call optimizers through MXNet's Updater, so the change must be made to its own methods.
    For Parameters without pruned weights they do the same as before.
    """
    plain_init, plain_call = (getattr(method, '_plain', method) for method in (Updater.__init__, Updater.__call__))

    @functools.wraps(plain_init)
    def init(self, optimizer):
        plain_init(self, optimizer)
        # The Parameters of this Trainer. If another Trainer gets the same optimizer, it replaces ``param_dict``.
        self._params_of_trainer = getattr(optimizer, 'param_dict', None)

    @functools.wraps(plain_call)
    def call(self, index, grad, weight):
        several = isinstance(index, (list, tuple))
        arrays = list(weight) if several else [weight]
        with contextlib.ExitStack() as stack:
            params = getattr(self, '_params_of_trainer', None) or {}
            for place, each in enumerate(index if several else [index]):
                param = params.get(each)
                rho = getattr(param, '_rho', param)
                if isinstance(rho, RhoParameter) and rho.is_pruned and arrays[place].shape == rho.shape:
                    arrays[place] = stack.enter_context(_kept(self.optimizer, param, rho, arrays[place]))
            plain_call(self, index, grad, arrays if several else arrays[0])

    for plain, method in ((plain_init, init), (plain_call, call)):
        vars(method)['_plain'] = plain
        setattr(Updater, plain.__name__, method)


@contextlib.contextmanager
def _kept(optimizer: Any, param: Any, rho: RhoParameter, array: Any) -> Iterator[Any]:
    """The array to update in place of ``array``, which has the values of ``param`` on one context.

    When the context is left, ``array`` has the values of the update where weights are alive, and 0 or the mark where
    they are pruned.
    """
    adds, stored = _adds(optimizer, rho), array.as_nd_ndarray()
    if param is not rho:
        context = stored.context if stored.context in rho.list_ctx() else None
        with autograd.pause():
            alive = kept(value_of(rho, context)).as_in_context(stored.context).astype(stored.dtype, copy=False)
        try:
            yield array
        finally:
            with autograd.pause():
                if adds:
                    ndarray.elemwise_mul(stored, alive, out=stored)     # five times as fast as where
                else:
                    ndarray.where(alive, stored, alive, out=stored)     # alive is 0 where a weight is pruned
    elif adds:
        yield array
    else:
        with autograd.pause():
            alive = kept(stored)
            copy = ndarray.where(alive, stored, alive)
        yield as_kind_of(array, copy)
        with autograd.pause():
            ndarray.where(alive, copy, (1 - alive) * PRUNED_RHO, out=stored)


def _adds(optimizer, rho):
    """Whether the optimizer adds a finite number to each rho, which leaves the mark as it is."""
    kind = type(optimizer)
    return ((kind in _ADDING or vars(kind).get('_adds', False)) and not getattr(optimizer, 'clip_weights', None)
            and not optimizer.wd * rho.wd_mult
            # Without it, 0 / 0 is added where there never was a gradient.
            and all(getattr(optimizer, name, 1) > 0 for name in ('epsilon', 'float_stable_eps')))
