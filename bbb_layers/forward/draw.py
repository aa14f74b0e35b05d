# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Draws of the weights: by the native operator where it can make them, and by MXNet's operators elsewhere.

The functions of :mod:`bbb_layers.posterior.gaussian` are the reference. The results of the native operator differ from
them only in the random numbers and in rounding. The native operator cannot make draws for

- dtypes other than float32, contexts other than CPU, and computers without a compiler;
- graphs that are traced before the shape of mu is known, since MXNet cannot infer shapes through an operator of a
  library.
"""
import collections
import itertools
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Dict, Iterable, Optional

import numpy as np
from mxnet import ndarray, symbol
from mxnet.gluon.utils import shape_is_known
from mxnet.symbol import Symbol

from .. import native
from .._mxnet.operators import operator
from .._mxnet.precision import computed_in
from ..posterior import gaussian
from ..posterior.gaussian import Kind
from ..posterior.rho import RhoParameter

__all__ = ['Request', 'Switch', 'settings_of', 'shapes_are_known', 'uses_elsewhere']

_SERIAL = itertools.count()
_WITHOUT_PRIOR = {'prior': 'none', 'components': 0, 'numbers': ''}


class Switch:
    """The Symbol that tells the operators of one graph in which mode they run. It is made at the first request."""

    def __init__(self) -> None:
        self._symbol: Optional[Symbol] = None

    def __call__(self, F: ModuleType) -> Optional[Symbol]:
        """A Symbol, shape (1,), that is 1 exactly in predict mode; None for NDArrays, which are drawn in train mode."""
        if F is symbol and self._symbol is None:
            self._symbol = F.Dropout(operator(F, '_ones')(shape=(1,)), p=0.5)
        return self._symbol


@dataclass
class Request:
    """A draw of one Parameter's weights, as a layer or a loss asks for it.

    Attributes
    ----------
    F : mxnet.ndarray or mxnet.symbol
    rho : RhoParameter
        The posterior.
    mu_value, rho_value : NDArray or Symbol
    prior_values : dict
        Name -> NDArray or Symbol, of the prior's Parameters.
    kind : Kind
        What the layer needs of the posterior.
    portable : bool
        Whether only MXNet's own operators may be used, because the graph may be loaded where no others exist.
    """
    F: ModuleType
    rho: RhoParameter
    mu_value: Any
    rho_value: Any
    prior_values: Dict[str, Any] = field(default_factory=dict)
    kind: Kind = Kind.DRAW
    portable: bool = False

    @property
    def context(self):
        """The context of the NDArrays; None for Symbols."""
        return None if self.F is symbol else self.mu_value.ctx

    def make(self, with_term: bool, switch: Optional[Switch] = None, guarded: bool = False) -> Any:
        """The result for the ``kind`` of this request, and its KL term, which is None unless ``with_term``.

        Parameters
        ----------
        with_term : bool
        switch : Switch
            The switch of the graph, for Symbols.
        guarded : bool
            Whether the gradients may have to be added to other gradients. False is for a graph that is traced again
            when :func:`settings_of` changes, and in which the Parameters have no other uses.
        """
        prior = self.rho.bound_prior(self.prior_values) if with_term else None
        if self.portable:
            return self.kind.make(self.F, self.mu_value, self.rho_value, prior)
        dtype = np.dtype(self.rho.mu.dtype)
        if dtype == computed_in(dtype):
            return self._drawn(self.mu_value, prior, switch, guarded)
        # Everything is computed in float32. Only the results for the layer's operator are cast.
        parts, kl = self._drawn(self.F.cast(self.mu_value, dtype='float32'), prior, switch, guarded)
        if self.kind is Kind.DRAW:
            return self.F.cast(parts, dtype='float16'), kl
        return tuple(self.F.cast(part, dtype='float16') for part in parts), kl

    def _drawn(self, mu_value, prior, switch, guarded):
        F, rho, kind, rho_value = self.F, self.rho, self.kind, self.rho_value
        if not _serves(F, rho, mu_value):
            return kind.make(F, mu_value, rho_value, prior)
        if guarded or 'add' in (rho.mu._grad_req, rho._grad_req):
            mu_value, rho_value = _guarded(F, mu_value), _guarded(F, rho_value)
        form = None if prior is None else prior.native_form
        parts, kl = _native_draw(F, kind, mu_value, rho_value, form, switch)
        if prior is not None and form is None:
            kl = _kl_term(F, kind, prior, mu_value, rho_value, parts, switch)
        return (parts[0] if kind is Kind.DRAW else parts), (None if prior is None else kl)


def shapes_are_known(rhos: Iterable[RhoParameter]) -> bool:
    """Whether the shapes of all mu are known."""
    return all(rho.mu.shape is not None and shape_is_known(rho.mu.shape) for rho in rhos)


def settings_of(rhos: Iterable[RhoParameter]) -> list:
    """The settings on which the draws in a traced graph depend.

    Gluon does not trace the graph again when they change, so they must be compared before each call.
    """
    return [(rho.mu._grad_req, rho._grad_req, rho.mu.dtype) for rho in rhos]


def uses_elsewhere(graph: Symbol) -> bool:
    """Whether a Parameter is an input of a native draw in ``graph`` and also of another operator."""
    nodes = json.loads(graph.tojson())['nodes']
    uses = collections.Counter(entry[0] for node in nodes for entry in node['inputs'])
    return any(uses[entry[0]] > 1 for node in nodes if node['op'] == '_bbb_layers_draw' for entry in node['inputs'][:2])


def _serves(F, rho, mu_value):
    """Whether the native operator can make a draw of ``rho``."""
    if F is ndarray:
        return (mu_value.dtype == np.float32 and mu_value.context.device_type.startswith('cpu')
                and native.available())
    if not shapes_are_known([rho]) or computed_in(rho.mu.dtype) != np.float32:
        return False
    if not (_symbol_has_shape(rho.mu) and _symbol_has_shape(rho)):
        return False
    try:
        return _on_cpu(rho.mu) and native.available()
    except RuntimeError:    # an uninitialized network is traced only to get its graph
        return False


def _symbol_has_shape(param):
    """Whether the Symbol of ``param`` has its shape: a Symbol keeps the shape that was known when it was made."""
    return param._var is not None and param._var.attr('__shape__') == str(param.shape)


def _on_cpu(param):
    return all(context.device_type.startswith('cpu') for context in param.list_ctx())


def _guarded(F, value):
    """``value`` behind an identity operator, so that its gradient can be added to others.

    With ``grad_req='add'``, or where MXNet sums up the gradients of several uses in place, an operator must add to a
    gradient. MXNet does not tell this to an operator of a library, but it does tell it to identity.
    """
    if F is ndarray:
        return F.identity(value)
    # MXNet would merge several identities of one Parameter if they did not differ in an attribute.
    return F.identity(value, attr={'__bbb_layers_draw__': str(next(_SERIAL))})


def _native_draw(F, kind, mu, rho, form, switch):
    """The parts of a draw by the native operator, and its KL term if the prior has a native ``form``."""
    switch = switch(F) if switch is not None else None
    inputs = [mu, rho] + ([] if switch is None else [switch])
    outputs = native.operator(F, '_bbb_layers_draw')(
        *inputs, kind=kind.value, switched=len(inputs) - 2, **(_encoded(form) if form else _WITHOUT_PRIOR))
    outputs = [outputs[i] for i in range(len(outputs))] if F is symbol else outputs
    return tuple(outputs[:-2]), outputs[-2]


def _encoded(form):
    """The attributes that pass the ``form`` of a prior to the native operator."""
    return {'prior': form.name, 'components': form.components, 'numbers': native.floats(form.numbers)}


def _kl_term(F, kind, prior, mu, rho, parts, switch):
    """The KL term of a prior that has no form for the native operator."""
    if prior.closed_form:
        weight = None
    elif kind is Kind.SPREAD:
        weight = _native_draw(F, Kind.DRAW, mu, rho, None, switch)[0][0]
    else:
        weight = sum(parts[1:], parts[0])
    return gaussian.kl_term(F, prior, mu, gaussian.sigma_from_rho(F, rho), weight, gaussian.kept(rho))
