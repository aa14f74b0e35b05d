# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Parameter rho, which follows its mu and knows their prior."""
from mxnet import initializer
from mxnet.gluon import Parameter
from mxnet.gluon.utils import shape_is_known

from .posterior import rho_from_sigma

__all__ = ['RhoParameter']


class RhoParameter(Parameter):
    """rho of the posterior of one Parameter, mu; sigma = softplus(rho).

    It takes its shape from mu as soon as mu has one, also when mu is loaded from the file of a plain network, and it
    is initialized at the latest when mu is. It is not weight-decayed: decay would pull sigma towards log 2.

    Parameters
    ----------
    mu : Parameter
    sigma : float
        Standard deviation at the start.
    prior : Prior
        Prior of the weights. It stands here and not with a layer, since layers that share the Parameters share it.
    """

    def __init__(self, mu, sigma, prior):
        self.mu = mu
        self.prior = prior
        super(RhoParameter, self).__init__(
            mu.name + '_rho', shape=mu.shape, dtype=mu.dtype, wd_mult=0.,
            init=initializer.Constant(rho_from_sigma(sigma)), allow_deferred_init=True)

    @property
    def shape(self):
        own = Parameter.shape.fget(self)
        if own is None or not shape_is_known(own):
            return self.mu.shape
        return own

    @shape.setter
    def shape(self, shape):
        Parameter.shape.fset(self, shape)

    def _follow_mu(self):
        if self._data is not None or self.mu._data is None:
            return
        if self._deferred_init:
            self._finish_deferred_init()
        else:
            self._dtype = self.mu.dtype
            self.initialize(ctx=self.mu.list_ctx())

    def data(self, ctx=None):
        self._follow_mu()
        return super(RhoParameter, self).data(ctx)

    def list_data(self):
        self._follow_mu()
        return super(RhoParameter, self).list_data()

    def grad(self, ctx=None):
        self._follow_mu()
        return super(RhoParameter, self).grad(ctx)

    def list_grad(self):
        self._follow_mu()
        return super(RhoParameter, self).list_grad()

    def list_ctx(self):
        self._follow_mu()
        return super(RhoParameter, self).list_ctx()
