# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pruning by signal-to-noise ratio."""
import math
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

import numpy as np
from mxnet import autograd, ndarray
from mxnet.gluon import Block
from mxnet.ndarray import NDArray

from .._mxnet.arrays import gluon_kind, set_value, value_of
from .._mxnet.checks import check_fraction, check_not_negative
from .._mxnet.tree import copy_block
from ..posterior import gaussian
from ..posterior.parameters import bayesian

__all__ = ['signal_to_noise', 'prune', 'pruning_curve']


def signal_to_noise(net: Block) -> Dict[str, NDArray]:
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
    return gluon_kind({rho.mu.name: ndarray.array(ratio, dtype=ratio.dtype) for rho, ratio in _ratios(net).items()})


def prune(net: Block, fraction: Union[float, Dict[Block, float], None] = None,
          threshold: Optional[float] = None) -> int:
    """Prune the weights with the lowest signal-to-noise ratio.

    This changes ``net``. Pruned weights are exactly 0 in predict mode and in every draw, get no gradient and add
    nothing to the KL divergence, also after saving and loading. The training of ``net`` can go on with every optimizer,
    and updates leave the mu of pruned weights exactly 0. ``net[0].weight_rho.mask`` shows which weights are pruned.
    Of n weights exactly floor(n * fraction) are pruned afterwards, including all weights that were pruned before.
    Weights with equal ratios are pruned in the order of the Parameters.

    Parameters
    ----------
    net : Block
    fraction : float or dict
        Between 0 and 1, both included, and not less than the fraction that is pruned already, since mu and sigma of
        pruned weights are lost. With a float, all weights are ranked together. With a dict Block -> fraction, whose
        blocks are layers or bigger parts of ``net``, the weights of each block are ranked separately:
        ``prune(net, {net[0]: 0.9, net[1]: 0.5})``.
    threshold : float
        If it is given instead of ``fraction``, all weights with a lower ratio are pruned. Weights that were pruned
        before stay pruned.

    Returns
    -------
    int
        The number of weights that are pruned now, in the whole of ``net``.

    Raises
    ------
    TypeError
        Unless exactly one of ``fraction`` and ``threshold`` is given.
    ValueError
        If an argument is outside its range, ``net`` has no Bayesian layer, a block in ``fraction`` is not a part of
        ``net`` or shares Parameters with another block in ``fraction``, or a mu or sigma is NaN. Nothing is changed
        then.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    if (fraction is None) == (threshold is None):
        raise TypeError('prune takes either fraction or threshold '
                        f'(saw: fraction={fraction!r}, threshold={threshold!r})')
    ranks = _Ranks(net)
    if threshold is not None:
        threshold = check_not_negative('threshold', threshold)
        return ranks.prune(ranks.everything < threshold)
    pruned = ranks.everything < 0
    for index, share in ranks.parts(fraction):
        pruned[index] = ranks.lowest(index, share)
    return ranks.prune(pruned)


def pruning_curve(net: Block, fractions: Iterable[float], evaluate: Callable[[Block], Any]) -> List[Any]:
    """Evaluate copies of a network that are pruned by each of ``fractions``.

    Parameters
    ----------
    net : Block
        It is not changed.
    fractions : sequence of float
        Fractions of all weights ranked together, as in :func:`prune`.
    evaluate : function of a network
        It is called with a new copy for each fraction, so it may train this copy.

    Returns
    -------
    list
        What ``evaluate`` returned, in the order of ``fractions``.

    Raises
    ------
    TypeError, ValueError, DeferredInitializationError, RuntimeError
        As in :func:`prune`, and if one of ``fractions`` is not a number; they are raised before anything is evaluated.
    """
    fractions = [check_fraction('fractions', fraction, closed=True) for fraction in fractions]
    ranks = _Ranks(net)
    for fraction in fractions:
        for index, share in ranks.parts(fraction):
            ranks.lowest(index, share)
    values = []
    for fraction in fractions:
        new = copy_block(net, {})
        prune(new, fraction)
        values.append(evaluate(new))
    return values


class _Ranks:
    """The signal-to-noise ratios of all weights of a network in one array; -1 where a weight is pruned."""

    def __init__(self, net):
        self.net = net
        self.slices, parts, start = {}, [], 0
        for rho, ratio in _ratios(net).items():
            alive = gaussian.kept(value_of(rho)).asnumpy().astype(bool)
            parts.append(np.where(alive, ratio, -1).ravel())
            self.slices[rho] = slice(start, start + ratio.size)
            start += ratio.size
        self.everything = np.concatenate(parts)

    def parts(self, fraction):
        """List of (indices of weights that are ranked together, fraction of them to prune)."""
        if not isinstance(fraction, dict):
            return [(np.arange(self.everything.size), check_fraction('fraction', fraction, closed=True))]
        parts, seen = [], set()
        for block, share in fraction.items():
            rhos = bayesian(block)
            if not all(rho in self.slices for rho in rhos):
                raise ValueError(f'fraction must be of parts of net (saw: {block!r})')
            if not seen.isdisjoint(rhos):
                raise ValueError(f'fraction must be of parts that share no Parameter (saw: {block!r}, again)')
            seen.update(rhos)
            parts.append((np.concatenate([np.arange(self.everything.size)[self.slices[rho]] for rho in rhos]),
                          check_fraction('fraction', share, closed=True)))
        return parts

    def lowest(self, index, fraction):
        """Which of the weights ``index`` are in the lowest ``fraction`` of them."""
        ratios = self.everything[index]
        # 1e-9 undoes rounding errors: 0.29 * 100 is 28.999999999999996.
        count, already = int(math.floor(ratios.size * fraction + 1e-9)), int((ratios < 0).sum())
        if count < already:
            raise ValueError(f'fraction must be at least {already} / {ratios.size}, the weights of net that are pruned '
                             f'already (saw: {fraction!r})')
        chosen = np.zeros(ratios.size, bool)
        chosen[np.argsort(ratios, kind='stable')[:count]] = True
        return chosen

    def prune(self, pruned):
        """Prune the weights where the array ``pruned`` is True, and return their number."""
        for rho, where in self.slices.items():
            mask = pruned[where].reshape(rho.shape)
            for param, value in ((rho.mu, 0.), (rho, gaussian.PRUNED_RHO)):
                values = value_of(param).asnumpy()
                values[mask] = value
                with autograd.pause():
                    set_value(param, ndarray.array(values, dtype=values.dtype))
        return int(pruned.sum())


def _ratios(net):
    """rho -> |mu| / sigma as a numpy array."""
    ratios = {}
    for rho in bayesian(net):
        mu, sigma = (value.asnumpy() for value in gaussian.moments(value_of(rho.mu), value_of(rho)))
        if np.isnan(mu).any() or np.isnan(sigma).any():
            raise ValueError(f'Parameters {rho.mu.name} and {rho.name} must not be NaN')
        ratios[rho] = np.divide(abs(mu), sigma, out=np.zeros_like(mu), where=sigma > 0)
    return ratios
