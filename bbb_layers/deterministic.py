# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Plain Gluon networks out of Bayesian ones: the posterior mean, or one draw."""
import copy

import numpy as np
from mxnet import autograd, ndarray

from . import collect, posterior

__all__ = ['to_deterministic', 'draw', 'PlainCopy']


def to_deterministic(net):
    """A plain Gluon network with the posterior means as weights.

    A copy in which every Bayesian layer, wherever it stands, is the Gluon layer that it derives from: a ``BayesDense``
    an ``nn.Dense``. The Parameters mu keep their names; rho and the priors' Parameters are gone. Outputs are those of
    ``net`` in predict mode; those of transposed convolutions but for rounding, as they run another operator. So
    ``export``, ``hybridize``, ``summary``, ``save_parameters`` and the rest of MXNet do as ever. ``net`` stays as it is.

    Parameters
    ----------
    net : Block

    Returns
    -------
    Block of the same structure, hybridized if ``net`` is

    Raises
    ------
    TypeError
        If a Bayesian layer derives from other classes than BayesBlock and one Gluon layer.
    ValueError
        If ``net`` has no Bayesian layer, or a mu or sigma is not finite.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    plain = PlainCopy(net)
    plain.set_mean()
    return plain.net


def draw(net):
    """A plain Gluon network with one draw from the posterior as weights, for instance for Thompson sampling.

    Like :func:`to_deterministic`, but for the weights. The draw comes from MXNet's random numbers (``mx.random.seed``)
    and is the same on all contexts; Parameters that layers share have one.

    Parameters
    ----------
    net : Block

    Returns
    -------
    Block of the same structure, hybridized if ``net`` is

    Raises
    ------
    As :func:`to_deterministic`.
    """
    plain = PlainCopy(net)
    plain.set_draw()
    return plain.net


class PlainCopy(object):
    """A copy of a network without Bayesian layers, whose weights can be set again and again.

    Attributes
    ----------
    net : Block
        The copy. Its weights have no meaning until one of the methods has set them.
    """

    def __init__(self, net):
        self.source = net
        rhos = collect.bayesian(net)
        for rho in rhos:
            _check_finite(rho)
        layers = [block for block in collect.walk(net) if hasattr(block, '_rhos')]
        for layer in layers:
            layer._plain_class()
        memo = {}
        self.net = collect.copy_block(net, memo)
        self._weights = [(rho, memo[id(rho.mu)]) for rho in rhos]
        bayesian = {param for layer in layers for param in layer._reg_params.values()
                    if layer._belongs_to_rho(param)}.union(rho.mu for rho in rhos)
        self._others = [(param, memo[id(param)]) for param in _parameters(net) if param not in bayesian]
        for layer in layers:
            memo[id(layer)]._make_plain()
        self.context = rhos[0].mu.list_ctx()[0]
        self._made_for = self._state()

    def _state(self):
        return [(param, param.dtype, tuple(param.list_ctx())) for param in _parameters(self.source)]

    def fits(self):
        """Whether the network still has the same Parameters, of the same dtypes and on the same contexts."""
        return self._state() == self._made_for

    def __deepcopy__(self, memo):
        return PlainCopy(copy.deepcopy(self.source, memo))

    def set_mean(self):
        """Set the weights to the posterior means."""
        self._set(lambda rho, mu_value, rho_value: posterior.mean(mu_value, rho_value))

    def set_draw(self, generator=None):
        """Set the weights to a draw: by MXNet's random numbers, or from a numpy Generator."""
        def value(rho, mu_value, rho_value):
            noise = None if generator is None else ndarray.array(
                generator.standard_normal(mu_value.shape, dtype=np.dtype(mu_value.dtype)), mu_value.ctx, mu_value.dtype)
            return posterior.draw(ndarray, mu_value, rho_value, noise=noise)[0]
        self._set(value)

    def copy_others(self):
        """Copy what is not drawn, such as the running means of BatchNorm, anew from the network."""
        for source, param in self._others:
            param.set_data(source.data(source.list_ctx()[0]))

    def _set(self, value):
        with autograd.pause():
            for rho, param in self._weights:
                context = rho.mu.list_ctx()[0]
                param.set_data(value(rho, rho.mu.data(context), rho.data(context)))


def _parameters(net):
    """All Parameters of ``net``, each once."""
    return list({param: None for block in collect.walk(net) for param in block._reg_params.values()})


def _check_finite(rho):
    context = rho.mu.list_ctx()[0]
    for name, values in zip(('mu', 'sigma'), posterior.moments(rho.mu.data(context), rho.data(context))):
        if not np.isfinite(values.asnumpy()).all():
            raise ValueError('%s of Parameter %s must be finite (saw: NaN or infinite ones)' % (name, rho.mu.name))
