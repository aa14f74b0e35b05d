# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Parameter rho, which follows its mu, holds the prior of the weights, and knows which weights are pruned."""
import weakref
from typing import Any, Dict, Optional

import numpy as np
from mxnet import autograd, initializer
from mxnet.context import Context
from mxnet.gluon import Block, Parameter
from mxnet.gluon.utils import shape_is_known

from .._mxnet.arrays import gluon_kind, value_of
from .._mxnet.precision import computed_in
from .gaussian import kept, rho_from_sigma

__all__ = ['RhoParameter', 'MaskParameter']


class _Value(initializer.Initializer):
    """Initializes a Parameter with an array."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def _init_weight(self, _, arr):
        arr[:] = self.value

    def dumps(self):
        return repr(self)


class _FollowsMu(Parameter):
    """A Parameter that is initialized no later than another Parameter, ``self.mu``.

    It has the dtype of mu, or float32 if mu is float16.
    """

    def _follow_mu(self):
        if self._data is not None or self.mu._data is None:
            return
        self._dtype = _dtype_beside(self.mu.dtype)
        if self._deferred_init:
            self._finish_deferred_init()
        else:
            self.initialize(ctx=self.mu.list_ctx())

    def data(self, ctx=None):
        self._follow_mu()
        return super().data(ctx)

    def list_data(self):
        self._follow_mu()
        return super().list_data()

    def grad(self, ctx=None):
        self._follow_mu()
        return super().grad(ctx)

    def list_grad(self):
        self._follow_mu()
        return super().list_grad()

    def set_data(self, data):
        self._follow_mu()
        super().set_data(data)

    def reset_ctx(self, ctx):
        self._follow_mu()
        super().reset_ctx(ctx)

    def list_ctx(self):
        self._follow_mu()
        return super().list_ctx()

    def cast(self, dtype):
        super().cast(_dtype_beside(dtype))


def _dtype_beside(dtype):
    """``dtype``, as it was written, or float32 if ``dtype`` is float16."""
    return dtype if computed_in(dtype) == np.dtype(dtype) else 'float32'


class _PriorParameter(_FollowsMu):
    """A Parameter of the prior of ``mu``."""

    def __init__(self, mu, name, value, learnable):
        self.mu = mu
        super().__init__(
            f'{mu.name}_{name}', shape=value.shape, dtype=_dtype_beside(mu.dtype), wd_mult=0., init=_Value(value),
            grad_req='write' if learnable else 'null', differentiable=learnable)


class MaskParameter(Parameter):
    """The mask of one posterior: 1 where a weight is alive, and 0 where it is pruned. It has no gradient.

    It follows from the marks of pruned weights in rho at the moment when it is made. It is no input of any layer, so
    ``net.collect_params()`` and files do not have it.
    """

    def __init__(self, rho, alive):
        super().__init__(f'{rho.mu.name}_mask', shape=rho.shape, dtype=rho.dtype, grad_req='null', differentiable=False)
        self._load_init(gluon_kind(alive), rho.list_ctx())


class _Record:
    """The history of a posterior in one process. A copy or a pickle of a network starts with an empty record.

    Attributes
    ----------
    owners : WeakSet of Block
        The layers that have the Parameter, in all networks.
    terms : dict
        Context -> the entry of :mod:`bbb_layers.forward.frames` for the latest forward there.
    """

    def __init__(self) -> None:
        self.owners: 'weakref.WeakSet[Block]' = weakref.WeakSet()
        self.terms: Dict[Context, Any] = {}

    def __reduce__(self):
        return _Record, ()


class RhoParameter(_FollowsMu):
    """rho of the posterior of one Parameter, mu; sigma = softplus(rho).

    It takes its shape from mu as soon as mu has a shape, also when mu is loaded from the file of a plain network. It is
    initialized no later than mu. It has no weight decay, because decay would pull sigma towards log 2.

    Parameters
    ----------
    mu : Parameter
    sigma : float
        Standard deviation at the start.
    prior : Prior
        Prior of the weights. It is stored here and not in a layer, because layers that share the Parameters share the
        prior too.
    sampled_kl : bool
        Whether the KL divergence is sampled even if it has a closed form.
    is_bias : bool
        Whether mu is a bias, which can have a prior of its own.

    Attributes
    ----------
    prior_parameters : dict
        Name, such as ``prior_mu`` -> Parameter of the prior.
    record : _Record
        The layers that have this Parameter, and the KL terms of its latest forwards.
    recorded_alone : int
        How often the KL divergence was recorded for gradients outside of a forward.
    """

    #: Whether a weight is pruned; None before somebody asks, and after rho is set to other values.
    _is_pruned: Optional[bool] = None

    def __init__(self, mu, sigma, prior, sampled_kl, is_bias):
        self.mu = mu
        self.record = _Record()
        self.recorded_alone = 0
        self.is_bias = is_bias
        self.sampled_kl = sampled_kl
        self.set_prior(prior)
        super().__init__(
            mu.name + '_rho', shape=mu.shape, dtype=_dtype_beside(mu.dtype), wd_mult=0.,
            init=initializer.Constant(rho_from_sigma(sigma)), allow_deferred_init=True)

    @property
    def is_pruned(self) -> bool:
        """Whether a weight is pruned. Marks count that were there, or came through ``set_data``, before the question.
        """
        if self._is_pruned is None and self._data is not None:
            with autograd.pause():
                self._is_pruned = bool((kept(value_of(self)).asnumpy() == 0).any())
        return bool(self._is_pruned)

    @property
    def mask(self) -> Optional[MaskParameter]:
        """A Parameter that is 1 where a weight is alive and 0 where it is pruned; None if no weight is pruned."""
        self._forget_marks()
        if not self.is_pruned:
            return None
        with autograd.pause():
            return MaskParameter(self, kept(value_of(self)))

    def _forget_marks(self):
        """Look for the marks of pruned weights again, because rho is set to other values."""
        self.__dict__.pop('_is_pruned', None)

    def _init_impl(self, data, ctx_list):
        super()._init_impl(data, ctx_list)
        self._forget_marks()

    def set_data(self, data):
        super().set_data(data)
        self._forget_marks()

    def cast(self, dtype):
        super().cast(dtype)
        self._forget_marks()

    def __getstate__(self):
        # A copy looks for itself.
        return {name: value for name, value in vars(self).items() if name != '_is_pruned'}

    def _finish_deferred_init(self):
        super()._finish_deferred_init()
        self.forget_symbols()

    def forget_symbols(self):
        """Discard the Symbols of mu, rho and the prior's Parameters; new Symbols get the present shapes."""
        for param in [self, self.mu] + list(self.prior_parameters.values()):
            param._var = None

    def follow(self, mu):
        """Use ``mu`` as the mean from now on, if this Parameter has replaced the previous mean."""
        if mu is not self.mu:
            for param in self.prior_parameters.values():
                param.mu = mu
            self.mu = mu
            mu._rho = self

    @property
    def hands_out_another_mu(self):
        """Whether a layer receives other values than mu stores, such as its values after weight dropout."""
        return type(self.mu).data is not Parameter.data

    def check_prior(self, prior):
        """ValueError if ``prior`` is for weights of another shape."""
        for value, _ in prior.parameters().values():
            if value.shape not in ((1,), self.mu.shape):
                raise ValueError(f'a prior for Parameter {self.mu.name} must be a number or have its shape '
                                 f'{self.mu.shape} (saw: {value.shape})')

    def set_prior(self, prior):
        """Give the weights another prior, with new Parameters."""
        self.check_prior(prior)
        self.prior = prior
        self.prior_parameters = {}
        for name, (value, learnable) in prior.parameters().items():
            self.prior_parameters[name] = _PriorParameter(self.mu, name, value, learnable)

    @property
    def has_closed_form(self):
        """Whether the KL divergence does not depend on a draw."""
        return self.prior.closed_form and not self.sampled_kl

    def bound_prior(self, values):
        """The prior with ``values`` of its Parameters."""
        return self.prior.bind(values, self.sampled_kl)

    @property
    def shape(self):
        own = Parameter.shape.fget(self)
        if own is None or not shape_is_known(own):
            return self.mu.shape
        return own

    @shape.setter
    def shape(self, shape):
        Parameter.shape.fset(self, shape)
