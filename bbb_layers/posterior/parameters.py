# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Parameters of a network's posteriors: all of them, or only mu or rho, for a Trainer or for freezing."""
from typing import List

from mxnet.gluon import Block, ParameterDict

from .._mxnet.tree import walk
from .rho import RhoParameter

__all__ = ['posterior_parameters', 'bayesian', 'mu_params', 'rho_params']


def posterior_parameters(net: Block) -> List[RhoParameter]:
    """The Parameters rho of all Bayesian layers in ``net``, each once, in the order of the layers.

    Each rho is connected to the mu that its layer has now, because weight dropout replaces Parameters of a finished
    layer.
    """
    found = {}
    for block in walk(net):
        for name, rho in getattr(block, '_rhos', {}).items():
            rho.follow(block._reg_params[name])
            found[rho] = None
    return list(found)


def bayesian(net: Block) -> List[RhoParameter]:
    """The result of :func:`posterior_parameters`, which must not be empty.

    TypeError if ``net`` is not a block, and ValueError if it has no Bayesian layer.
    """
    if not isinstance(net, Block):
        raise TypeError(f'net must be a Gluon block (saw: {net!r})')
    rhos = posterior_parameters(net)
    if not rhos:
        raise ValueError(f'net must hold at least one Bayesian layer, such as BayesDense (saw: {net!r})')
    return rhos


def mu_params(net: Block) -> ParameterDict:
    """The posterior means mu of all Bayesian layers of a network.

    Parameters without a posterior, such as the Parameters of BatchNorm or of a plain ``nn.Dense``, are left out.
    ``collect_params('.*weight')`` would include them, and each ``weight_rho`` too, because Gluon matches only the
    beginning of a name.

    Parameters
    ----------
    net : Block

    Returns
    -------
    ParameterDict
        Global name -> the network's own Parameter. ``setattr`` of the dict changes all of them.

    Raises
    ------
    TypeError
        If ``net`` is not a block.
    ValueError
        If ``net`` has no Bayesian layer.
    """
    return _dict_of(net, (rho.mu for rho in bayesian(net)))


def rho_params(net: Block) -> ParameterDict:
    r"""The Parameters rho of all Bayesian layers of a network, which carry :math:`\sigma = \log(1 + e^\rho)`.

    Parameters
    ----------
    net : Block

    Returns
    -------
    ParameterDict
        Global name -> the network's own Parameter. ``setattr`` of the dict changes all of them.

    Raises
    ------
    TypeError
        If ``net`` is not a block.
    ValueError
        If ``net`` has no Bayesian layer.
    """
    return _dict_of(net, bayesian(net))


def _dict_of(net, params):
    found = ParameterDict(net.prefix)
    for param in params:
        found.update({param.name: param})
    return found
