# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Plain Gluon networks out of Bayesian ones: the posterior mean, or one draw."""
import numpy as np
from mxnet import autograd, ndarray
from mxnet.gluon import Block

from .._mxnet.arrays import set_value, value_of
from .._mxnet.precision import widened
from .._mxnet.tree import copy_block, own_parameters, walk
from ..posterior import gaussian
from ..posterior.parameters import bayesian

__all__ = ['to_deterministic', 'draw', 'PlainCopy', 'check_posterior']


def to_deterministic(net: Block) -> Block:
    """A plain Gluon network with the posterior means as weights.

    A copy in which every Bayesian layer, wherever it stands, is the Gluon layer that it derives from: a ``BayesDense``
    an ``nn.Dense`` (under ``npx.set_np()``, recurrent layers and cells are of a subclass that takes np arrays). The
    Parameters mu keep their names; rho and the priors' Parameters are gone. Outputs are those of ``net`` in predict
    mode; those of transposed convolutions but for rounding, as they run another operator. So ``export``, ``hybridize``,
    ``summary``, ``save_parameters`` and the rest of MXNet do as ever. ``net`` stays as it is.

    Parameters
    ----------
    net : Block

    Returns
    -------
    Block of the same structure, hybridized if ``net`` is

    Raises
    ------
    TypeError
        If a Bayesian layer derives from other classes than BayesBlock and one Gluon layer, or overrides methods of
        that.
    ValueError
        If ``net`` has no Bayesian layer, or a mu or sigma is not finite.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    plain = PlainCopy(net)
    plain.set_mean()
    return plain.net


def draw(net: Block) -> Block:
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
    ValueError
        If a drawn Parameter is shared with a layer that is not Bayesian.
    TypeError, ValueError, DeferredInitializationError, RuntimeError
        As :func:`to_deterministic`.
    """
    plain = PlainCopy(net)
    plain.set_draw()
    return plain.net


class PlainCopy:
    """A copy of a network without Bayesian layers, whose weights can be set again and again.

    Attributes
    ----------
    net : Block
        The copy. Its weights have no meaning until one of the methods has set them.
    """

    def __init__(self, net):
        rhos = bayesian(net)
        for block in walk(net):
            if hasattr(block, '_draws'):
                raise TypeError(f'net must be the network itself (saw: {type(block).__name__}, which draws by itself)')
        for rho in rhos:
            check_posterior(rho)
        layers = [block for block in walk(net) if hasattr(block, '_rhos')]
        for layer in layers:
            layer._plain_class()
        memo = {}
        self.net = copy_block(net, memo)
        self._weights = [(rho, memo[id(rho.mu)]) for rho in rhos]
        for layer in layers:
            memo[id(layer)]._make_plain()
        self.context = rhos[0].mu.list_ctx()[0]
        users = {param: block for block in walk(net) if block not in layers
                 for param in own_parameters(block)}
        self._mixed = next(((rho.mu, users[rho.mu]) for rho in rhos if rho.mu in users), None)

    def set_mean(self):
        """Set the weights to the posterior means."""
        self._set(lambda rho, mu_value, rho_value: gaussian.mean(mu_value, rho_value))

    def set_draw(self):
        """Set the weights to a draw by MXNet's random numbers."""
        self._set_draw(None)

    def draws(self, count, seed=None):
        """Set the weights to one draw after the other; yields the number of each, from 0.

        Parameters
        ----------
        count : int
        seed : int, optional
            By which numpy makes the draws, the same ones each time. Without it MXNet's random numbers make them.
        """
        for number in range(count):
            self._set_draw(None if seed is None else np.random.Generator(np.random.SFC64([seed, number])))
            yield number

    def _set_draw(self, generator):
        if self._mixed:
            raise ValueError('net must not share Parameter %s, which is drawn, with a layer that is not Bayesian '
                             '(saw: %r)' % (self._mixed[0].name, self._mixed[1]))

        def value(rho, mu_value, rho_value):
            noise = None if generator is None else ndarray.array(
                generator.standard_normal(mu_value.shape, dtype=np.dtype(rho_value.dtype)), mu_value.ctx,
                rho_value.dtype)
            return gaussian.draw(ndarray, widened(mu_value), rho_value, noise=noise)[0]
        self._set(value)

    def _set(self, value):
        with autograd.pause():
            for rho, param in self._weights:
                context = rho.mu.list_ctx()[0]
                drawn = value(rho, value_of(rho.mu, context), value_of(rho, context))
                set_value(param, drawn.astype(param.dtype, copy=False))


def check_posterior(rho):
    for name, values in zip(('mu', 'sigma'), gaussian.moments(value_of(rho.mu), value_of(rho))):
        # Not asnumpy: to copy a large array MXNet starts threads of the caller's, and with more threads than processors
        # OpenMP's wait less eagerly for work, so that all later operators would be slower.
        if (values * 0).sum().asscalar() != 0:
            raise ValueError(f'{name} of Parameter {rho.mu.name} must be finite (saw: NaN or infinite ones)')
