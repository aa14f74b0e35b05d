# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pruning by signal-to-noise ratio."""
import math

import numpy as np
from mxnet import ndarray

from . import collect, posterior
from .checks import check_fraction

__all__ = ['signal_to_noise', 'prune']


def signal_to_noise(net):
    r"""Signal-to-noise ratio of every weight, biases included.

    .. math:: \frac{|\mu|}{\sigma}

    Parameters
    ----------
    net : Block

    Returns
    -------
    dict
        Name of the Parameter mu, as in ``net.collect_params()`` -> NDArray in its shape; 0 where the weight is
        pruned. Parameters that layers share appear once.

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, or a mu or sigma is NaN.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, section 5.1.
    """
    return {rho.mu.name: ndarray.array(ratio, dtype=ratio.dtype) for rho, ratio in _ratios(net).items()}


def prune(net, fraction):
    """Prune the ``fraction`` of all weights, ranked together, that have the lowest signal-to-noise ratio.

    This changes ``net``: pruned weights are exactly 0 in predict mode and in every draw, get no gradient and add
    nothing to the KL divergence, also after saving and loading. Optimizers that rewrite rho whatever its gradient (Ftrl,
    FTML, LAMB, LARS, RMSProp with ``clip_weights``) do not keep this. Exactly floor(n * fraction) of the n weights are
    pruned afterwards; weights that were pruned before come first. Equal ratios are pruned in the order of the
    Parameters.

    Parameters
    ----------
    net : Block
    fraction : float
        Between 0 and 1, both included, and no less than what is pruned already: pruning forgets mu and sigma.

    Returns
    -------
    int
        The number of weights that are pruned now.

    Raises
    ------
    ValueError
        If ``fraction`` is outside its range, ``net`` has no Bayesian layer, or a mu or sigma is NaN. Nothing is
        changed then.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    fraction = check_fraction('fraction', fraction, closed=True)
    ratios = _ratios(net)
    alive = {rho: posterior.kept(_host(rho)).asnumpy().astype(bool).ravel() for rho in ratios}
    everything = np.concatenate([np.where(alive[rho], ratio.ravel(), -1) for rho, ratio in ratios.items()])
    # 1e-9: 0.29 * 100 is 28.999999999999996
    count = int(math.floor(everything.size * fraction + 1e-9))
    already = int((everything < 0).sum())
    if count < already:
        raise ValueError('fraction must be at least %d / %d, the weights of net that are pruned already (saw: %r)' % (
            already, everything.size, fraction))
    pruned = np.zeros(everything.size, bool)
    pruned[np.argsort(everything, kind='stable')[:count]] = True
    start = 0
    for rho, ratio in ratios.items():
        mask = pruned[start:start + ratio.size].reshape(ratio.shape)
        start += ratio.size
        for param, value in ((rho.mu, 0.), (rho, posterior.PRUNED_RHO)):
            values = _host(param).asnumpy()
            values[mask] = value
            param.set_data(ndarray.array(values, dtype=values.dtype))
    return count


def _host(param):
    """The value of ``param`` on its first context."""
    return param.data(param.list_ctx()[0])


def _ratios(net):
    """rho -> |mu| / sigma as numpy array."""
    ratios = {}
    for rho in collect.bayesian(net):
        mu, sigma = (value.asnumpy() for value in posterior.moments(_host(rho.mu), _host(rho)))
        if np.isnan(mu).any() or np.isnan(sigma).any():
            raise ValueError('Parameters %s and %s must not be NaN' % (rho.mu.name, rho.name))
        ratios[rho] = np.divide(abs(mu), sigma, out=np.zeros_like(mu), where=sigma > 0)
    return ratios
