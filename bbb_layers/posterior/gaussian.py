# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The mean-field Gaussian posterior: sigma from rho, one draw, one KL term.

Every formula of the posterior is written here once, for NDArrays and Symbols. The formulas of the priors are in
:mod:`bbb_layers.posterior.priors`.
"""
import enum
import math

import numpy as np
from mxnet import autograd, ndarray, symbol

from .._mxnet.operators import operator
from .._mxnet.precision import widened

__all__ = ['PRUNED_RHO', 'ENTROPY_CONSTANT', 'rho_from_sigma', 'sigma_from_rho', 'kept', 'noise_like', 'mean',
           'moments', 'draw', 'split_draw', 'spread', 'Kind', 'kl_term', 'negative_entropy']

#: The value of rho that marks a pruned weight. It is finite, because formulas multiply it by 0, and ``0 * -inf`` is
#: NaN. It is so low that no training step ends there. :mod:`bbb_layers.posterior.updates` keeps it.
PRUNED_RHO = -1e30
_PRUNED_BELOW = PRUNED_RHO / 10
#: The smallest normal float32. For a smaller sigma, log(sigma) would be -inf.
_SIGMA_FLOOR = 1.1754944e-38
ENTROPY_CONSTANT = 0.5 * math.log(2 * math.pi * math.e)


def rho_from_sigma(sigma):
    """Inverse of the softplus, for a float or a numpy array: ``log(exp(sigma) - 1)``, without overflow."""
    return sigma + np.log(-np.expm1(-sigma))


def sigma_from_rho(F, rho):
    """Standard deviation ``softplus(rho)``, with a relative error below 1e-5 from rho = -80 up.

    The formula is max(rho, 0) + log1p(exp(-|rho|)). |rho| is written as 2 max(rho, 0) - rho, because ``abs`` and
    ``relu`` both have the derivative 0 at 0, and with both of them a rho of exactly 0 would get no gradient.
    """
    positive = F.relu(rho)
    sigma = positive + F.log1p(F.exp(rho - positive - positive))
    return F.maximum(sigma, _SIGMA_FLOOR)


def kept(rho):
    """1 where the weight is alive and 0 where it was pruned, in the shape and dtype of rho.

    A weight with a rho of NaN counts as alive, so that its draw stays NaN.
    """
    return 1 - (rho < _PRUNED_BELOW)


def _train_switch(F, like):
    """1 in train mode and 0 in predict mode, shape (1,), in the dtype and on the context of ``like``.

    A graph is traced once for both modes, so the switch must be an operator that looks at the mode when it runs:
    Dropout of the number 1 gives 0 or 2 in train mode, and 1 in predict mode.
    """
    # In a graph, slice would raise "dimensions are invalid" after a 3D convolution: a reshape in place leaves an array
    # of five axes in oneDNN's blocked layout, and slice is an operator of oneDNN. slice_axis is MXNet's own operator
    # and is safe.
    one = F.ones_like(F.slice_axis(F.reshape(F.BlockGrad(like), shape=(-1,)), axis=0, begin=0, end=1))
    return F.abs(F.Dropout(one, p=0.5) - 1)


def noise_like(F, like):
    """Standard normal noise in the shape, in the dtype and on the context of ``like``, without gradient.

    For NDArrays the result is always noise; for Symbols it is 0 when the graph runs in predict mode. The noise is made
    from uniform numbers by the transform of Box and Muller (1958), which MXNet's operators compute in a third of the
    time of ``random.normal``. Shapes may still be unknown while a graph is traced. Therefore the uniform numbers take
    their shape from every second row of ``like``, each pair of them gives two normal numbers, and the surplus row is
    cut off where the number of rows is odd.
    """
    like = F.BlockGrad(like)
    half = F.slice(like, begin=(None,), end=(None,), step=(2,))
    # MXNet's uniform float32 numbers can be exactly 0 and exactly 1.
    square = -2 * F.log(F.random.uniform_like(half, low=2. ** -33))
    if F is symbol:
        square = F.broadcast_mul(square, _train_switch(F, like))
    radius = F.sqrt(square)
    angle = F.random.uniform_like(half, high=2 * math.pi)
    noise = F.concat(radius * F.cos(angle), radius * F.sin(angle), dim=0)
    return F.BlockGrad(F.slice_like(noise, like, axes=(0,)))


def mean(mu, rho):
    """The posterior mean as an NDArray: mu, and 0 where the weight was pruned."""
    return mu * kept(rho).astype(mu.dtype, copy=False)


def moments(mu, rho):
    """The posterior's mean and standard deviation as NDArrays without gradient.

    Both are 0 where the weight was pruned, and both have the dtype of rho.
    """
    with autograd.pause():
        return mean(widened(mu), rho), sigma_from_rho(ndarray, rho) * kept(rho)


def draw(F, mu, rho, prior=None, noise=None):
    r"""One draw of the weights, and its KL term if ``prior`` is given.

    .. math:: w = m \odot (\mu + \sigma \odot \epsilon), \quad \epsilon \sim N(0, I)

    Here m is the mask of :func:`kept`, and epsilon is ``noise``, by default the result of :func:`noise_like`.

    Returns
    -------
    w : in the shape of mu
    kl : shape (1,), nats, or None
    """
    sigma, alive = sigma_from_rho(F, rho), kept(rho)
    # ``mu + ...`` would be wrong. If one summand is a Parameter whose grad_req is 'add' in a graph, or 'null' in a
    # static graph, MXNet 1.9.1 gives a wrong gradient to the other summand, and so to rho.
    weight = F.add_n(mu, sigma * (noise_like(F, mu) if noise is None else noise)) * alive
    return weight, None if prior is None else kl_term(F, prior, mu, sigma, weight, alive)


def split_draw(F, mu, rho, prior=None):
    """One draw of the weights as its two parts, and its KL term if ``prior`` is given.

    Returns
    -------
    (mean, deviation) : each in the shape of mu; their sum is a draw
    kl : shape (1,), nats, or None
    """
    sigma, alive = sigma_from_rho(F, rho), kept(rho)
    parts = mu * alive, sigma * noise_like(F, mu) * alive
    return parts, None if prior is None else kl_term(F, prior, mu, sigma, parts[0] + parts[1], alive)


def spread(F, mu, rho, prior=None):
    """The posterior's mean and variance, both 0 where the weight was pruned, and its KL term if ``prior`` is given.

    The KL term of a prior without a closed form needs a draw, which is made only for this term.

    Returns
    -------
    (mean, variance) : each in the shape of mu
    kl : shape (1,), nats, or None
    """
    sigma, alive = sigma_from_rho(F, rho), kept(rho)
    parts = mu * alive, F.square(sigma) * alive
    if prior is None:
        return parts, None
    weight = None if prior.closed_form else mu + sigma * noise_like(F, mu)
    return parts, kl_term(F, prior, mu, sigma, weight, alive)


class Kind(enum.Enum):
    """The form in which a layer needs the posterior of a Parameter; the value is the native operator's name for it.

    DRAW is made by :func:`draw`, SPLIT by :func:`split_draw`, and SPREAD by :func:`spread`.
    """
    DRAW = 'draw'
    SPLIT = 'split'
    SPREAD = 'spread'

    def make(self, F, mu, rho, prior=None):
        """The result of this kind's function for mu and rho, and its KL term if ``prior`` is given."""
        return {'draw': draw, 'split': split_draw, 'spread': spread}[self.value](F, mu, rho, prior)


def kl_term(F, prior, mu, sigma, weight, alive):
    """KL divergence of the posterior from ``prior``, summed over the weights that are alive: shape (1,), nats.

    FullyConnected computes the sum of each row, and ``sum`` then adds the totals of the rows. FullyConnected takes a
    sixth of the time of ``sum``, but its sum of millions of numbers at once would be wrong by several per cent.
    """
    # Where a weight is pruned, the prior gets a posterior for which every formula is finite. Its value and gradient are
    # multiplied by 0 later, and 0 * inf would be NaN.
    pruned = 1 - alive
    kl = prior.kl(mu * alive, sigma + pruned, None if weight is None else weight + pruned) * alive
    rows = F.reshape(kl, shape=(-1, 0), reverse=True)
    ones = F.BlockGrad(F.ones_like(F.slice_axis(rows, axis=0, begin=0, end=1)))
    totals = operator(F, 'FullyConnected')(rows, ones, num_hidden=1, no_bias=True, flatten=False)
    return F.reshape(F.sum(totals), shape=(1,))


def negative_entropy(F, sigma):
    """Expected log density of the posterior under itself, element by element: -log(sigma) - log(2 pi e) / 2."""
    return -F.log(sigma) - ENTROPY_CONSTANT
