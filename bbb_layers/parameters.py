# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Parameters of a network's posteriors, for a Trainer's multipliers, for freezing, for a Trainer of its own."""
from mxnet.gluon import Block, ParameterDict

from . import collect

__all__ = ['mu_params', 'rho_params']


def mu_params(net: Block) -> ParameterDict:
    """The posterior means mu of all Bayesian layers of a network.

    Parameters that have no posterior, such as those of BatchNorm or of a plain ``nn.Dense``, are not among them. With
    ``collect_params('.*weight')`` they would be, and each ``weight_rho`` too, since Gluon matches the beginning of a
    name.

    Parameters
    ----------
    net : Block

    Returns
    -------
    ParameterDict
        Global name -> Parameter; each is the network's own. ``setattr`` of it changes all of them.

    Raises
    ------
    TypeError
        If ``net`` is no block.
    ValueError
        If ``net`` has no Bayesian layer.
    """
    return _dict_of(net, (rho.mu for rho in collect.bayesian(net)))


def rho_params(net: Block) -> ParameterDict:
    r"""The Parameters rho of all Bayesian layers of a network, which carry :math:`\sigma = \log(1 + e^\rho)`.

    Parameters
    ----------
    net : Block

    Returns
    -------
    ParameterDict
        Global name -> Parameter; each is the network's own. ``setattr`` of it changes all of them.

    Raises
    ------
    TypeError
        If ``net`` is no block.
    ValueError
        If ``net`` has no Bayesian layer.
    """
    return _dict_of(net, collect.bayesian(net))


def _dict_of(net, params):
    found = ParameterDict(net.prefix)
    for param in params:
        found.update({param.name: param})
    return found
