# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Draws by the native operator where it serves, and by MXNet's operators elsewhere.

The functions of :mod:`bbb_layers.posterior` are the reference; what the native operator makes of a draw differs from
them in nothing but its random numbers and rounding. It does not serve

- dtypes but float32, contexts but CPU, and where there is no compiler;
- graphs that are traced before the shape of mu is known, since MXNet cannot infer shapes through an operator of a
  library.
"""
import collections
import itertools
import json

import numpy as np
from mxnet import ndarray, symbol
from mxnet.gluon.utils import shape_is_known

from .. import native, posterior
from .._mxnet import operators
from .._mxnet.precision import computed_in

__all__ = ['Switch', 'make', 'state_of', 'shapes_are_known', 'forget_shapes']

_KINDS = {posterior.draw: 'draw', posterior.split_draw: 'split', posterior.spread: 'spread'}
_SERIAL = itertools.count()
_WITHOUT_PRIOR = {'prior': 'none', 'components': 0, 'numbers': ''}


class Switch(object):
    """What tells the operators of one graph the mode they run in, made when it is first asked for."""

    def __init__(self):
        self._symbol = None

    def __call__(self, F):
        """A Symbol, shape (1,), that is 1 exactly in predict mode; None for NDArrays, which are drawn in train mode."""
        if F is symbol and self._symbol is None:
            self._symbol = F.Dropout(operators.operator(F, '_ones')(shape=(1,)), p=0.5)
        return self._symbol


def shapes_are_known(rhos):
    """Whether the shapes of all mu are known."""
    return all(rho.mu.shape is not None and shape_is_known(rho.mu.shape) for rho in rhos)


def forget_shapes(rhos):
    """Let the Symbols of the Parameters be made anew, with the shapes that they have now."""
    for rho in rhos:
        for param in [rho, rho.mu] + list(rho.prior_parameters.values()):
            param._var = None


def _symbol_has_shape(param):
    """Whether the Symbol of ``param`` was made when its shape was known: it keeps the one that it was made with."""
    return param._var is not None and param._var.attr('__shape__') == str(param.shape)


def state_of(rhos):
    """What a traced graph depends on, and Gluon does not trace anew for: compare it before each call."""
    return [(rho.mu._grad_req, rho._grad_req, rho.mu.dtype) for rho in rhos]


def _on_cpu(param):
    return all(context.device_type.startswith('cpu') for context in param.list_ctx())


def _serves(F, rho, mu_value):
    if F is ndarray:
        return (mu_value.dtype == np.float32 and mu_value.context.device_type.startswith('cpu')
                and native.available())
    if not shapes_are_known([rho]) or computed_in(rho.mu.dtype) != np.float32:
        return False
    if not (_symbol_has_shape(rho.mu) and _symbol_has_shape(rho)):
        return False
    try:
        return _on_cpu(rho.mu) and native.available()
    except RuntimeError:    # not initialized: traced for its graph alone
        return False


def uses_elsewhere(graph):
    """Whether a Parameter goes into a native draw of ``graph`` and somewhere else too."""
    nodes = json.loads(graph.tojson())['nodes']
    uses = collections.Counter(entry[0] for node in nodes for entry in node['inputs'])
    return any(uses[entry[0]] > 1 for node in nodes if node['op'] == '_bbb_layers_draw' for entry in node['inputs'][:2])


def _guarded(F, value):
    """``value`` in such a way that its gradient can be added to others.

    MXNet does not tell an operator of a library that it must add to a gradient, for ``grad_req='add'`` or where it
    sums up the gradients of several uses in place; it does tell identity.
    """
    if F is ndarray:
        return F.identity(value)
    # MXNet would make one of several identities of a Parameter, if they did not differ in an attribute.
    return F.identity(value, attr={'__bbb_layers_draw__': str(next(_SERIAL))})


def make(F, kind, rho, mu_value, rho_value, prior=None, switch=None, guarded=False):
    """What ``kind``, a function of :mod:`bbb_layers.posterior`, makes of the Parameters, and its KL term.

    Parameters
    ----------
    rho : RhoParameter
    mu_value, rho_value : NDArray or Symbol
    prior : bound prior, or None
    switch : Switch
        That of the graph, for Symbols.
    guarded : bool
        Whether the gradients may have to be added to others. False is for a graph that is traced anew when
        :func:`state_of` changes, and in which the Parameters have no other uses.
    """
    if np.dtype(rho.mu.dtype) != computed_in(rho.mu.dtype):
        return _narrowed(F, kind, rho, mu_value, rho_value, prior, switch, guarded)
    return _make(F, kind, rho, mu_value, rho_value, prior, switch, guarded)


def _narrowed(F, kind, rho, mu_value, *args):
    """:func:`make` for a float16 mu: all is float32, but the parts that are handed to the layer's operator."""
    parts, kl = _make(F, kind, rho, F.cast(mu_value, dtype='float32'), *args)
    if kind is posterior.draw:
        return F.cast(parts, dtype='float16'), kl
    return tuple(F.cast(part, dtype='float16') for part in parts), kl


def _make(F, kind, rho, mu_value, rho_value, prior, switch, guarded):
    if not _serves(F, rho, mu_value):
        return kind(F, mu_value, rho_value, prior)
    if guarded or 'add' in (rho.mu._grad_req, rho._grad_req):
        mu_value, rho_value = _guarded(F, mu_value), _guarded(F, rho_value)
    form = None if prior is None else prior.native_form
    parts, kl = _draw(F, _KINDS[kind], mu_value, rho_value, form, switch)
    if prior is not None and form is None:
        kl = _kl_term(F, kind, prior, mu_value, rho_value, parts, switch)
    return (parts[0] if kind is posterior.draw else parts), (None if prior is None else kl)


def _draw(F, kind, mu, rho, form, switch):
    switch = switch(F) if switch is not None else None
    inputs = [mu, rho] + ([] if switch is None else [switch])
    outputs = native.operator(F, '_bbb_layers_draw')(
        *inputs, kind=kind, switched=len(inputs) - 2, **(form or _WITHOUT_PRIOR))
    outputs = [outputs[i] for i in range(len(outputs))] if F is symbol else outputs
    return tuple(outputs[:-2]), outputs[-2]


def _kl_term(F, kind, prior, mu, rho, parts, switch):
    """The KL term of a prior that the native operator does not have."""
    if prior.closed_form:
        weight = None
    elif kind is posterior.spread:
        weight = _draw(F, 'draw', mu, rho, None, switch)[0][0]
    else:
        weight = sum(parts[1:], parts[0])
    return posterior.kl_term(F, prior, mu, posterior.sigma_from_rho(F, rho), weight, posterior.kept(rho))
