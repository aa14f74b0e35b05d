# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian networks out of trained plain ones."""
from typing import Callable, Optional

import numpy as np
from mxnet import autograd, ndarray
from mxnet.gluon import Block, nn, rnn

from . import collect, layers, np_recurrent, posterior, recurrent
from .arrays import set_value, value_of
from .checks import check_positive, is_one_of
from .priors import Prior, check_prior
from .set_prior import posterior_of, replace_priors

__all__ = ['to_bayesian']

#: Gluon's layer -> the Bayesian one.
BAYESIAN = {getattr(module, name): getattr(ours, 'Bayes' + name) for module, ours, names in (
    (nn, layers, ('Dense', 'Conv1D', 'Conv2D', 'Conv3D', 'Conv1DTranspose', 'Conv2DTranspose', 'Conv3DTranspose',
                  'Embedding')),
    (rnn, recurrent, np_recurrent.__all__), (np_recurrent, recurrent, np_recurrent.__all__)) for name in names}


def to_bayesian(net: Block, prior: Optional[Prior] = None, bias_prior: Optional[Prior] = None, sigma: float = 0.05,
                fraction: Optional[float] = None, floor: float = 1e-3, estimator: str = 'sample', kl: str = 'auto',
                where: Optional[Callable[[str, Block], bool]] = None) -> Block:
    r"""A Bayesian network out of a trained plain one, with the trained weights as the posterior's mean mu.

    .. math:: q(w) = N(w_0, \sigma^2), \quad \text{or with a fraction } \delta: \quad
        q(w) = p(w) = N(w_0, \max(\delta |w_0|, \text{floor})^2)

    A copy in which Dense, convolutions, transposed convolutions, Embedding and the recurrent layers and cells of Gluon
    are the Bayesian layers of this package, where they stand: children, attributes and aliases, with their prefixes and
    names. Layers of classes derived from these stay as they are. ``net`` is not changed, and may have run hybridized.

    Parameters
    ----------
    net : Block
    prior : Prior, default ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01), or as ``fraction`` has it
    bias_prior : Prior, default that of the weights
        Prior of the Parameters that are attributes whose names end in ``bias``.
    sigma : float, default 0.05
        Standard deviation of the posterior at the start. Not used with ``fraction``.
    fraction : float, default None
        Standard deviation of each weight's posterior as a fraction delta of its absolute value (MOPED). Unless a
        ``prior`` is given, each weight's prior is its posterior at the start, and so the KL divergence 0; a
        ``bias_prior`` then needs a ``prior``.
    floor : float, default 1e-3
        The smallest standard deviation with ``fraction``, so that a weight of 0 has one.
    estimator : {'sample', 'local', 'flipout'}, default 'sample'
        Of the layers that have it; the others take 'sample'.
    kl : {'auto', 'sample'}, default 'auto'
    where : function of (name, layer), default all
        Whether ``layer`` becomes Bayesian; asked for each layer that can. ``name`` is its path, as the names of
        ``save_parameters`` have it (``'features.0'``), empty for ``net`` itself.

    Returns
    -------
    Block of the same structure, hybridized if ``net`` is

    Raises
    ------
    TypeError
        If ``net`` is no block, a prior is not a Prior, or ``where`` not callable.
    ValueError
        If no layer becomes Bayesian, one that does is Bayesian already or has a weight that is not finite or sparse
        gradients, a Parameter is shared with a layer that does not, or an argument is outside its range.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.

    References
    ----------
    Krishnan, Subedar, Tickoo: Specifying Weight Priors in Bayesian Deep Neural Networks with Empirical Bayes. AAAI
    2020, section 3.
    """
    if not isinstance(net, Block):
        raise TypeError('net must be a Gluon block (saw: %r)' % (net,))
    for name, value in (('prior', prior), ('bias_prior', bias_prior)):
        check_prior(name, value)
    if where is not None and not callable(where):
        raise TypeError('where must be a function of name and layer (saw: %r)' % (where,))
    sigma = check_positive('sigma', sigma)
    if fraction is not None:
        fraction, floor = check_positive('fraction', fraction), check_positive('floor', floor)
        if bias_prior is not None and prior is None:
            raise ValueError('bias_prior needs a prior with fraction, which else sets all priors (saw: prior=None)')
    if not is_one_of(estimator, layers.BayesLinear._estimators):
        raise ValueError('estimator must be one of %s (saw: %r)' % (
            ', '.join(map(repr, layers.BayesLinear._estimators)), estimator))
    chosen = {block: cls for name, block, cls in _convertible(net) if where is None or where(name, block)}
    if not chosen:
        raise ValueError('net must hold at least one layer to become Bayesian, such as nn.Dense (saw: %r)' % (net,))
    _check_weights(net, chosen)
    memo = {}
    new = collect.copy_block(net, memo)
    for block, cls in chosen.items():
        cls._make_bayesian(
            memo[id(block)], constants=False, prior=prior, bias_prior=bias_prior, initial_sigma=sigma, kl=kl,
            estimator=estimator if estimator in cls._estimators else 'sample')
    if fraction is not None:
        _set_fraction([memo[id(block)] for block in chosen], new, fraction, floor, prior is None)
    return new


def _convertible(net):
    """(path, block, Bayesian class) of each layer that can become Bayesian, each once."""
    todo, seen = [('', net)], set()
    while todo:
        path, block = todo.pop(0)
        if block in seen:
            continue
        seen.add(block)
        if type(block) in BAYESIAN:
            yield path, block, BAYESIAN[type(block)]
        todo.extend((path + '.' * bool(path) + name, child) for name, child in block._children.items())


def _check_weights(net, chosen):
    params = {param for block in chosen for param in block._reg_params.values()}
    for param in params:
        if not np.isfinite(value_of(param).asnumpy()).all():
            raise ValueError('Parameter %s must be finite (saw: NaN or infinite values)' % param.name)
    for block in collect.walk(net):
        for param in block._reg_params.values():
            if block not in chosen and param in params:
                raise ValueError('where must choose all layers that share Parameter %s, or none (saw: not %s)' % (
                    param.name, block.name))


def _set_fraction(blocks, net, fraction, floor, set_priors):
    priors = {}
    for rho in {rho: None for block in blocks for rho in block._rhos.values()}:
        mu = value_of(rho.mu)
        sigma = np.maximum(fraction * abs(mu.asnumpy().astype('float64')), floor)
        with autograd.pause():
            set_value(rho, ndarray.array(posterior.rho_from_sigma(sigma), dtype=rho.dtype))
        if set_priors:
            priors[rho] = posterior_of(rho)
    replace_priors(net, priors)
