# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian networks out of trained plain ones."""
import warnings
from typing import Callable, Optional

import numpy as np
from mxnet import autograd, ndarray
from mxnet.gluon import Block

from .._mxnet.arrays import set_value, value_of
from .._mxnet.checks import check_positive, is_one_of
from .._mxnet.tree import copy_block, own_parameters, walk, walk_with_paths
from ..layers import linear
from ..posterior import gaussian
from ..posterior.parameters import posterior_parameters
from ..posterior.priors import Prior, check_prior
from .inventory import plain_weights
from .network_priors import posterior_of, replace_priors
from .own_blocks import BAYESIAN, bayesian_class

__all__ = ['to_bayesian']

#: So many layers are named in a warning.
_MOST = 20


def to_bayesian(net: Block, prior: Optional[Prior] = None, bias_prior: Optional[Prior] = None, sigma: float = 0.05,
                fraction: Optional[float] = None, floor: float = 1e-3, estimator: str = 'sample', kl: str = 'auto',
                where: Optional[Callable[[str, Block], bool]] = None, own_blocks: bool = False) -> Block:
    r"""A Bayesian network out of a trained plain one, with the trained weights as the posterior's mean mu.

    .. math:: q(w) = N(w_0, \sigma^2), \quad \text{or with a fraction } \delta: \quad
        q(w) = p(w) = N(w_0, \max(\delta |w_0|, \text{floor})^2)

    A copy in which Dense, convolutions, transposed convolutions, Embedding and the recurrent layers and cells of Gluon
    are the Bayesian layers of this package, where they stand: children, attributes and aliases, with their prefixes and
    names. ``net`` is not changed, and may have run hybridized.

    Layers of other classes stay as they are, and a warning names those that hold a Parameter of two or more dimensions
    which learns. With ``own_blocks``, blocks of other classes become Bayesian too, if they take their Parameters as
    arguments of ``hybrid_forward``: classes derived from Gluon's layers, ``LayerNorm``, ``PReLU``, attention cells,
    position embeddings of one's own. Each class gets a Bayesian one, as ``class BayesX(BayesBlock, X)`` would be; what
    is not a layer of this package's, or computes its output in another way than this, has only the estimator 'sample'.
    :func:`posterior_summary` lists what has a posterior.

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
        Whether ``layer`` becomes Bayesian; asked for each layer that can, and for those that the warning would name.
        ``name`` is its path, as the names of ``save_parameters`` have it (``'features.0'``), empty for ``net`` itself.
    own_blocks : bool, default False
        Whether blocks of other classes than Gluon's layers become Bayesian too. Their Parameters with ``grad_req``
        'null' count as constants, which have no posterior; those of Gluon's layers count as frozen means. ``BatchNorm``
        and the classes derived from it never become Bayesian.

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

    Warns
    -----
    UserWarning
        Once, if layers without a posterior hold weights: their paths and classes. With ``own_blocks`` also those whose
        Parameters have one dimension, but for BatchNorm. Layers that ``where`` leaves out are not named.

    References
    ----------
    Krishnan, Subedar, Tickoo: Specifying Weight Priors in Bayesian Deep Neural Networks with Empirical Bayes. AAAI
    2020, section 3.
    """
    if not isinstance(net, Block):
        raise TypeError(f'net must be a Gluon block (saw: {net!r})')
    for name, value in (('prior', prior), ('bias_prior', bias_prior)):
        check_prior(name, value)
    if where is not None and not callable(where):
        raise TypeError(f'where must be a function of name and layer (saw: {where!r})')
    sigma = check_positive('sigma', sigma)
    if fraction is not None:
        fraction, floor = check_positive('fraction', fraction), check_positive('floor', floor)
        if bias_prior is not None and prior is None:
            raise ValueError('bias_prior needs a prior with fraction, which else sets all priors (saw: prior=None)')
    if not is_one_of(estimator, linear.BayesLinear._estimators):
        raise ValueError('estimator must be one of {} (saw: {!r})'.format(
            ', '.join(map(repr, linear.BayesLinear._estimators)), estimator))
    chosen, plain = {}, []
    for path, block in walk_with_paths(net):
        cls, weights = bayesian_class(block, own_blocks), plain_weights(block, 1 if own_blocks else 2)
        if cls is not None:     # what else it holds than its attributes gets no posterior
            weights = [name for name in weights if name not in block._reg_params]
        if (cls is not None or weights) and (where is None or where(path, block)):
            if cls is not None:
                chosen[block] = cls
            if weights:
                plain.append('{} ({}: {})'.format(path or 'net itself', type(block).__name__, _listed(weights, ', ', 3)))
    if not chosen:
        saw = 'a network that is Bayesian already' if posterior_parameters(net) else repr(net)
        raise ValueError(f'net must hold at least one layer to become Bayesian, such as nn.Dense (saw: {saw})')
    _check_weights(net, chosen)
    memo = {}
    new = copy_block(net, memo)
    for block, cls in chosen.items():
        cls._make_bayesian(
            memo[id(block)], constants=type(block) not in BAYESIAN, prior=prior, bias_prior=bias_prior,
            initial_sigma=sigma, kl=kl, estimator=estimator if estimator in cls._estimators else 'sample')
    if fraction is not None:
        _set_fraction([memo[id(block)] for block in chosen], new, fraction, floor, prior is None)
    if plain:
        warnings.warn(
            'to_bayesian leaves weights without a posterior in %d layer%s: %s. %s Leave out by where= what is meant to '
            'stay plain; posterior_summary lists all' % (
                len(plain), 's' * (len(plain) > 1), _listed(plain, '; ', _MOST),
                'They do not take their Parameters as arguments of hybrid_forward, or have a name of a Bayesian '
                "layer's, such as prior, for something else." if own_blocks else
                'own_blocks=True makes blocks Bayesian that take their Parameters as arguments of hybrid_forward.'),
            UserWarning, stacklevel=2)
    return new


def _listed(texts, separator, most):
    return separator.join(texts[:most] + (['and %d more' % (len(texts) - most)] if len(texts) > most else []))


def _check_weights(net, chosen):
    params = {param for block in chosen for param in block._reg_params.values()}
    for param in params:
        if not np.isfinite(value_of(param).copy().asnumpy()).all():
            raise ValueError(f'Parameter {param.name} must be finite (saw: NaN or infinite values)')
    for block in walk(net):
        for param in own_parameters(block):
            if block not in chosen and param in params:
                raise ValueError(f'where must choose all layers that share Parameter {param.name}, or none (saw: not {block.name})')


def _set_fraction(blocks, net, fraction, floor, set_priors):
    priors = {}
    for rho in {rho: None for block in blocks for rho in block._rhos.values()}:
        mu = value_of(rho.mu)
        sigma = np.maximum(fraction * abs(mu.asnumpy().astype('float64')), floor)
        with autograd.pause():
            set_value(rho, ndarray.array(gaussian.rho_from_sigma(sigma), dtype=rho.dtype))
        if set_priors:
            priors[rho] = posterior_of(rho)
    replace_priors(net, priors)
