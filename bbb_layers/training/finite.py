# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whether losses stay finite, and which layer it is if they do not, without waiting for the losses.

MXNet runs behind Python: to read a number at each step would make every step wait. So the KL terms of each step are
copied, a few numbers in one array, and only every ``EVERY`` steps they are read, as far as they are ``LAG`` steps old,
and so done by then. If one is not finite, the copies tell in which step, and with which Parameter, it began.
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

#: So often, in calls of the loss, numbers are read.
EVERY = 16
#: So many calls old they are then. Python is rarely that far ahead of MXNet, and need not be: there is work queued.
LAG = 8
#: So many layers are named.
_MOST = 5


class _Call:
    """The NLL and the KL terms of one call."""
    __slots__ = ('number', 'nll', 'groups')

    def __init__(self, number, terms):
        self.number = number
        self.nll: Any = None
        # Without a term a Parameter took no part: its KL divergence comes from the Parameters themselves.
        terms = [(rho, term) for rho, term in terms.items() if term is not None]
        # Copies: a static graph writes its next terms over these; nor must what is recorded be kept alive.
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
    """``terms`` sorted by what can be copied at once: nearly always all of them, which are one array."""
    arrays = {id(term.array): term.array for _, term in terms}
    if len(arrays) == 1:        # to ask an array for its dtype takes as long as all else here
        return [terms]
    kinds, groups = {key: (array.dtype, array.context) for key, array in arrays.items()}, {}
    for rho, term in terms:
        groups.setdefault(kinds[id(term.array)], []).append((rho, term))
    return groups.values()


def _copy(terms):
    """([(rho, place)], copy of the arrays of ``terms``, one after the other)."""
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
        # The text of the warning, from the first call that was not finite until calls are finite again.
        self._warning: Optional[str] = None

    def begin(self, terms):
        """Take note of the KL ``terms``, rho -> Term or None, of a call; returns what :meth:`end` takes."""
        return _Call(self._count + 1, terms)

    def end(self, net, call, nll):
        """Take note of the NLL of ``call``, detached. Now and then warn, if an earlier call was not finite."""
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
        """FloatingPointError if the last call on a context was not finite, or a Parameter is not."""
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
        """What is not finite, from which call after number ``since``, and in which layers."""
        calls, names, parts = list(self._calls), _names(net), []
        first = next((i for i, call in enumerate(calls) if call.number > since and not call.is_finite()), None)
        if first is not None:
            kl = calls[first].kl()
            wrong = [rho for rho in kl if not np.isfinite(kl[rho])]
            what = ['NLL'] * (not np.isfinite(calls[first].nll.asnumpy()).all())
            what += [f'KL divergence of {names[rho.mu]} ({kl[rho]})' for rho in wrong]
            parts.append('first not finite in call %d of the loss in train mode: %s' % (
                calls[first].number, _listed(what)))
            # Where it is all of them at once, the call before tells more.
            last = calls[first - 1].kl() if first and len(wrong) == len(kl) else kl
            sizes = {rho: last[rho] / rho.mu.data(rho.mu.list_ctx()[0]).size for rho in last if np.isfinite(last[rho])}
            if sizes:
                most = max(sizes, key=lambda rho: sizes[rho])
                parts.append(f'largest finite KL divergence: that of {names[most.mu]}, {sizes[most]:.3g} nats per weight')
        broken = {param: _count_not_finite(param) for param in names}
        if any(broken.values()):
            parts.append('not finite now: {}'.format(_listed(
                '%s (%d values)' % (names[param], count) for param, count in broken.items() if count)))
        return ('{}: {}. Is the learning rate too high, are there data that are not finite, or labels that '
                'are no class, for which CategoricalNLLLoss has ignore_label?'.format(net.name, '; '.join(parts)))

    def __deepcopy__(self, memo):
        return Watch()


def _callers_level():
    """The ``stacklevel`` with which the function that asks for it warns beside the user's line that led to it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get('__name__', '').partition('.')[0] in ('bbb_layers', 'mxnet'):
        level, frame = level + 1, frame.f_back
    return level


def _names(net):
    """Parameter -> how it is named in a message, of all that have a value."""
    return {param: f'layer {block.name} ({name})' for block in walk(net)
            for name, param in block._reg_params.items() if param._data is not None}


def _listed(texts):
    texts = list(texts)
    return ', '.join(texts[:_MOST]) + (' and %d more' % (len(texts) - _MOST) if len(texts) > _MOST else '')


def _count_not_finite(param):
    """The number of values that are not finite, on the context that has most of them."""
    if param._stype != 'default':
        return 0
    return max(int((1 - ndarray.contrib.isfinite(values.as_nd_ndarray())).sum().asscalar())
               for values in param.list_data())


def _all_finite(calls):
    """Whether all of many calls are finite, at the price of about one."""
    kinds = {}
    for call in calls:
        for array in call.arrays():
            kinds.setdefault((array.dtype, array.context), []).append(array.as_nd_ndarray())
    return all(np.isfinite(ndarray.concat(*arrays, dim=0).asnumpy()).all() for arrays in kinds.values())
