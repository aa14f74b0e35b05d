# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks whether losses stay finite, and finds the layer at fault if they do not, without waiting for the losses.

MXNet computes asynchronously, behind Python: reading a number at each step would make every step wait. The KL terms of
each step are therefore copied, a few numbers in one array, and the copies are read only once in ``EVERY`` steps. Then
only copies that are at least ``LAG`` steps old are read, because MXNet has computed them by this time. If a number is
not finite, the copies tell in which step, and with which Parameter, the problem began.
"""
import collections
import itertools
import sys
import warnings
from typing import Any, Optional

import numpy as np
from mxnet import autograd, ndarray

from .._mxnet.tree import walk

__all__ = ['Watch']

#: The numbers are read once in this many calls of the loss.
EVERY = 16
#: Numbers are read when they are at least this many calls old. Python is rarely that far ahead of MXNet; where it is,
#: a short wait does no harm, because this many calls are still queued.
LAG = 8
#: A message names at most this many layers.
_MOST = 5


class _Call:
    """The NLL and the KL terms of one call."""
    __slots__ = ('number', 'nll', 'groups')

    def __init__(self, number, terms):
        self.number = number
        self.nll: Any = None
        # A Parameter without a term took no part in the forward: its KL divergence is computed from its mu and rho.
        terms = [(rho, term) for rho, term in terms.items() if term is not None]
        # The terms are copied because a static graph overwrites them with its next terms, and because keeping the terms
        # themselves would keep the recorded graph alive.
        with autograd.pause():
            self.groups = [_copy(group) for group in _groups(terms)]

    def arrays(self):
        return [copy for _, copy in self.groups] + [self.nll]

    def is_finite(self):
        return all(np.isfinite(array.asnumpy()).all() for array in self.arrays())

    def kl(self):
        """rho -> KL term."""
        return {rho: values[place] for places, copy in self.groups for values in [copy.asnumpy()]
                for rho, place in places}


def _groups(terms):
    """``terms`` in groups that can be copied at once. There is nearly always one group, as all terms are one array."""
    arrays = {id(term.array): term.array for _, term in terms}
    if len(arrays) == 1:        # asking an array for its dtype would take as long as the rest of this function
        return [terms]
    kinds, groups = {key: (array.dtype, array.context) for key, array in arrays.items()}, {}
    for rho, term in terms:
        groups.setdefault(kinds[id(term.array)], []).append((rho, term))
    return groups.values()


def _copy(terms):
    """([(rho, place)], array): one array with copies of the arrays of ``terms``, and where each term is in it."""
    starts, arrays, size = {}, [], 0
    for _, term in terms:
        if id(term.array) not in starts:
            starts[id(term.array)] = size
            arrays.append(term.array.as_nd_ndarray())
            size += term.count
    return [(rho, starts[id(term.array)] + term.place) for rho, term in terms], ndarray.concat(*arrays, dim=0)


class Watch:
    """The latest calls of a loss in train mode."""

    def __init__(self) -> None:
        self._calls: Any = collections.deque(maxlen=EVERY + LAG)
        self._count = 0         # calls so far
        self._seen = 0          # number of the last call that was looked at
        # The text of the warning. It is kept until calls are finite again, so that the warning comes only once.
        self._warning: Optional[str] = None

    def begin(self, terms):
        """Copy the KL ``terms``, rho -> Term or None, of a call; returns the record of the call for :meth:`end`."""
        return _Call(self._count + 1, terms)

    def end(self, net, call, nll):
        """Add ``nll``, detached, to the record ``call``; once in ``EVERY`` calls, warn if earlier ones are not finite.
        """
        call.nll = nll
        self._count += 1
        self._calls.append(call)
        if self._count % EVERY == 0:
            self.look(net, self._count - LAG)

    def look(self, net, last=None):
        """Wait for the calls up to number ``last``, by default all, and warn once if they are not finite."""
        last, since = self._count if last is None else last, self._seen
        calls = [call for call in self._calls if since < call.number <= last]
        if not calls:
            return
        self._seen = last
        if _all_finite(calls):
            self._warning = None
        elif self._warning is None:
            self._warning = self._explain(net, since)
            warnings.warn(self._warning, RuntimeWarning, stacklevel=_callers_level())

    def check(self, net):
        """Raise FloatingPointError if the last call on a context was not finite, or if a Parameter is not finite."""
        since, forgotten = self._count, False
        for context in {call.nll.context for call in self._calls}:
            calls = [call for call in reversed(self._calls) if call.nll.context == context]
            wrong = list(itertools.takewhile(lambda call: not call.is_finite(), calls))
            if wrong:
                since = min(since, wrong[-1].number - 1)
                forgotten = forgotten or len(wrong) == len(calls)
        if since < self._count or any(map(_count_not_finite, _names(net))):
            raise FloatingPointError(self._warning if forgotten and self._warning else self._explain(net, since))

    def _explain(self, net, since):
        """A message: what is not finite, since which call after number ``since``, and in which layers."""
        calls, names, parts = list(self._calls), _names(net), []
        first = next((i for i, call in enumerate(calls) if call.number > since and not call.is_finite()), None)
        if first is not None:
            kl = calls[first].kl()
            wrong = [rho for rho in kl if not np.isfinite(kl[rho])]
            what = ['NLL'] * (not np.isfinite(calls[first].nll.asnumpy()).all())
            what += [f'KL divergence of {names[rho.mu]} ({kl[rho]})' for rho in wrong]
            parts.append(f'first not finite in call {calls[first].number} of the loss in train mode: {_listed(what)}')
            # If all KL terms became not finite at once, the terms of the previous call tell more.
            last = calls[first - 1].kl() if first and len(wrong) == len(kl) else kl
            sizes = {rho: last[rho] / rho.mu.data(rho.mu.list_ctx()[0]).size for rho in last if np.isfinite(last[rho])}
            if sizes:
                most = max(sizes, key=lambda rho: sizes[rho])
                parts.append(f'largest finite KL divergence: that of {names[most.mu]}, '
                             f'{sizes[most]:.3g} nats per weight')
        broken = {param: _count_not_finite(param) for param in names}
        if any(broken.values()):
            listed = _listed(f'{names[param]} ({count} values)' for param, count in broken.items() if count)
            parts.append(f'not finite now: {listed}')
        return (f'{net.name}: {"; ".join(parts)}. Is the learning rate too high, are there data that are not finite, '
                'or labels that are no class, for which CategoricalNLLLoss has ignore_label?')

    def __deepcopy__(self, memo):
        return Watch()


def _callers_level():
    """The ``stacklevel`` with which a warning of the calling function points to the user's line that led to it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get('__name__', '').partition('.')[0] in ('bbb_layers', 'mxnet'):
        level, frame = level + 1, frame.f_back
    return level


def _names(net):
    """Parameter -> its name in messages, for all Parameters that have a value."""
    return {param: f'layer {block.name} ({name})' for block in walk(net)
            for name, param in block._reg_params.items() if param._data is not None}


def _listed(texts):
    texts = list(texts)
    return ', '.join(texts[:_MOST]) + (f' and {len(texts) - _MOST} more' if len(texts) > _MOST else '')


def _count_not_finite(param):
    """The number of values that are not finite, on the context where this number is largest."""
    if param._stype != 'default':
        return 0
    return max(int((1 - ndarray.contrib.isfinite(values.as_nd_ndarray())).sum().asscalar())
               for values in param.list_data())


def _all_finite(calls):
    """Whether all of many calls are finite, in about the time that one call takes to check."""
    kinds = {}
    for call in calls:
        for array in call.arrays():
            kinds.setdefault((array.dtype, array.context), []).append(array.as_nd_ndarray())
    return all(np.isfinite(ndarray.concat(*arrays, dim=0).asnumpy()).all() for arrays in kinds.values())
