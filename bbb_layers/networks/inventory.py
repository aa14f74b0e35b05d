# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What in a network has a posterior, and what has none."""
import math
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

from mxnet.gluon import Block
from mxnet.gluon.nn.basic_layers import _BatchNorm
from mxnet.gluon.utils import shape_is_known

from .._mxnet.tree import walk_with_paths
from ..posterior.priors import Prior

__all__ = ['posterior_summary', 'PosteriorSummary', 'SummaryRow', 'plain_weights']


class SummaryRow(NamedTuple):
    """One Parameter of a network.

    Attributes
    ----------
    name : str
        Path of the layer and name of its attribute; the global name of a Parameter that is no attribute.
    layer : str
        Class of the layer.
    shape : tuple of int, or None
        0 or -1 stands for a size that is not known yet.
    size : int or None
        Number of its weights; None if the shape is not known yet.
    prior : Prior or None
        The prior, if the Parameter has a posterior.
    learns : bool
        Whether it has a gradient; always True with a posterior, whose mean can be frozen.
    """
    name: str
    layer: str
    shape: Optional[Tuple[int, ...]]
    size: Optional[int]
    prior: Optional[Prior]
    learns: bool

    @property
    def kind(self) -> str:
        """'posterior', 'plain' or 'constant'."""
        return 'posterior' if self.prior is not None else 'plain' if self.learns else 'constant'


@dataclass(frozen=True)
class PosteriorSummary:
    """What :func:`posterior_summary` returns; ``str`` is its table.

    Attributes
    ----------
    rows : list of SummaryRow
        One for each Parameter, in the order of the layers.
    """
    rows: List[SummaryRow]

    def count(self, kind: str) -> int:
        """Number of weights of one kind, without those of Parameters whose shape is not known yet.

        Parameters
        ----------
        kind : {'posterior', 'plain', 'constant'}
            With a posterior; without, but learnable; without, and not learnable.
        """
        if kind not in _KINDS:
            raise ValueError('kind must be one of {} (saw: {!r})'.format(', '.join(map(repr, _KINDS)), kind))
        return sum(row.size or 0 for row in self.rows if row.kind == kind)

    def __str__(self):
        table = [('Parameter', 'layer', 'shape', 'weights', 'posterior')]
        for row in self.rows:
            shape = 'x'.join(str(size) if size > 0 else '?' for size in row.shape) if row.shape is not None else '?'
            table.append((row.name, row.layer, shape, '?' if row.size is None else f'{row.size:,}',
                          {'posterior': f'prior {row.prior!r}', 'plain': 'none', 'constant': 'none, no gradient'}[
                              row.kind]))
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        lines = ['  '.join(text.rjust(width) if column == 3 else text.ljust(width)
                           for column, (text, width) in enumerate(zip(line, widths))).rstrip() for line in table]
        lines.insert(1, '-' * max(map(len, lines)))
        lines.append(lines[1])
        for kind, text in _KINDS.items():
            rows = [row for row in self.rows if row.kind == kind]
            unknown = sum(row.size is None for row in rows)
            lines.append('%s: %s weights in %d Parameter%s%s' % (
                text, f'{self.count(kind):,}', len(rows), 's' * (len(rows) != 1),
                ', %d of unknown shape' % unknown if unknown else ''))
        return '\n'.join(lines)

    def __repr__(self):
        return 'PosteriorSummary({})'.format(', '.join('%s=%d' % (kind, self.count(kind)) for kind in _KINDS))


_KINDS = {'posterior': 'With a posterior', 'plain': 'Without, learnable', 'constant': 'Without, no gradient'}


def posterior_summary(net: Block) -> PosteriorSummary:
    """Print a table of a network's Parameters, with and without a posterior, and their numbers of weights.

    Each Parameter has one row, however many layers share it. The Parameters rho, and those of learnable priors, belong
    to the row of their mean. A Parameter that has neither a posterior nor a gradient (its ``grad_req`` is 'null')
    counts as a constant, as the running statistics of BatchNorm do.

    Parameters
    ----------
    net : Block
        Bayesian or plain, initialized or not.

    Returns
    -------
    PosteriorSummary
        The table as data: ``rows``, and ``count('posterior')``, ``count('plain')``, ``count('constant')``.

    Raises
    ------
    TypeError
        If ``net`` is no block.
    """
    if not isinstance(net, Block):
        raise TypeError(f'net must be a Gluon block (saw: {net!r})')
    rows, seen = [], set()
    for path, block in walk_with_paths(net):
        rhos = getattr(block, '_rhos', {})
        for name, param in _own_parameters(block):
            if id(param) in seen:
                continue
            seen.add(id(param))
            rho = rhos.get(name)
            known = param.shape is not None and shape_is_known(param.shape)
            rows.append(SummaryRow(
                f'{path}.{name}' if path and name in block._reg_params else name, type(block).__name__,
                param.shape, math.prod(param.shape) if known else None, rho and rho.prior,
                rho is not None or param.grad_req != 'null'))
    summary = PosteriorSummary(rows)
    print(summary)
    return summary


def plain_weights(block: Block, dimensions: int) -> List[str]:
    """The names of a block's own Parameters that learn without a posterior and have so many dimensions or more.

    BatchNorm has none that count.
    """
    if isinstance(block, _BatchNorm):
        return []
    rhos = getattr(block, '_rhos', {})
    return [name for name, param in _own_parameters(block)
            if name not in rhos and param.grad_req != 'null' and len(param.shape or ()) >= dimensions]


def _own_parameters(block):
    """(name, Parameter) of what ``block`` itself holds, without rho and the Parameters of priors.

    A Parameter that is no attribute, as ``params.get`` alone leaves it, has its global name.
    """
    rhos = getattr(block, '_rhos', {})
    ours = {id(param) for rho in rhos.values() for param in [rho] + list(rho.prior_parameters.values())}
    held = {id(param) for param in block._reg_params.values()}
    for name, param in block._reg_params.items():
        if id(param) not in ours:
            yield name, param
    for name, param in block._params.items():       # not params: that of a ResidualCell is its base cell's
        if id(param) not in held and id(param) not in ours:
            yield name, param
