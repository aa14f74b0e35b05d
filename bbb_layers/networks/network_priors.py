# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Priors for a whole network."""
from typing import Optional

from mxnet import autograd
from mxnet.gluon import Block, HybridBlock

from .._mxnet.arrays import value_of
from .._mxnet.tree import copy_block, walk
from ..posterior import gaussian
from ..posterior.parameters import bayesian
from ..posterior.priors import GaussianPrior, Prior, check_prior
from .plain import check_posterior

__all__ = ['set_prior', 'posterior_as_prior', 'replace_priors', 'posterior_of']


def set_prior(net: Block, prior: Prior, bias_prior: Optional[Prior] = None) -> None:
    """Give all weights of a network another prior.

    To be called before the Trainer is made, since a learnable prior brings Parameters of its own; apart from that at
    any time, initialized or not, hybridized or not. Cached graphs of ``net`` and of what it holds are cleared; a bigger
    hybridized block around ``net`` must be hybridized again.

    Parameters
    ----------
    net : Block
    prior : Prior
    bias_prior : Prior, default that of the weights
        Prior of the Parameters that are attributes whose names end in ``bias``.

    Raises
    ------
    TypeError
        If ``prior`` or ``bias_prior`` is not a Prior.
    ValueError
        If ``net`` has no Bayesian layer, a prior's array has not the shape of a weight, or a layer that is not in
        ``net`` shares Parameters with one that is. Nothing is changed then.
    RuntimeError
        If a Trainer was made for ``net``. Nothing is changed then.
    """
    if prior is None:
        raise TypeError('prior must be an instance of Prior (saw: None)')
    check_prior('prior', prior)
    check_prior('bias_prior', bias_prior)
    replace_priors(net, {rho: prior if bias_prior is None or not rho.is_bias else bias_prior for rho in bayesian(net)})


def posterior_as_prior(net: Block) -> Block:
    """A copy of a network whose prior is the posterior of ``net``, weight by weight.

    For continual learning, or to centre a prior on a trained network. The KL divergence of the copy is 0 at first.
    ``net`` is not changed. The prior's means and standard deviations are Parameters of the copy's layers, such as
    ``weight_prior_mu`` and ``weight_prior_sigma``, which are saved with it and get no gradient. Weights that are pruned
    stay so.

    Parameters
    ----------
    net : Block

    Returns
    -------
    Block of the same kind

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, or a mu or sigma is not finite.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    for rho in bayesian(net):
        check_posterior(rho)
    new = copy_block(net, {})
    replace_priors(new, {rho: posterior_of(rho) for rho in bayesian(new)})
    return new


def posterior_of(rho):
    """The posterior of the weights of ``rho`` as a prior."""
    mu_value, rho_value = value_of(rho.mu), value_of(rho)
    with autograd.pause():
        mean, sigma = gaussian.moments(mu_value, rho_value)
        return GaussianPrior(sigma + (1 - gaussian.kept(rho_value)), mean)     # any sigma serves where pruned


def replace_priors(net, priors):
    """Give each rho of the dict ``priors``, all in ``net``, its prior."""
    blocks = set(walk(net))
    for rho, prior in priors.items():
        if rho.mu._trainer is not None:
            raise RuntimeError(f'a prior must be set before the Trainer is made (saw: Parameter {rho.mu.name} with one)')
        for owner in set(rho.record.owners) - blocks:
            raise ValueError(f'net must hold all layers that share Parameter {rho.mu.name}, whose prior is set (saw: a net without '
                             f'{owner!r})')
        rho.check_prior(prior)
    layers = [(block, name) for block in walk(net) for name, rho in getattr(block, '_rhos', {}).items()
              if rho in priors]
    for block, name in layers:
        block._remove_prior_parameters(name)
    for rho, prior in priors.items():
        rho.set_prior(prior)
    for block, name in layers:
        block._add_prior_parameters(name)
    for block in walk(net):
        if isinstance(block, HybridBlock):
            block._clear_cached_op()
