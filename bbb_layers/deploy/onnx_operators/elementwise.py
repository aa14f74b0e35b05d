# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Translations of operators that work value by value."""
import numpy as np

from .registry import translates

#: MXNet's name -> ONNX's name.
_UNARY = {
    'exp': 'Exp', 'log': 'Log', 'sqrt': 'Sqrt', 'abs': 'Abs', 'negative': 'Neg', 'reciprocal': 'Reciprocal',
    'ceil': 'Ceil', 'floor': 'Floor', 'sign': 'Sign', 'erf': 'Erf', 'sin': 'Sin', 'cos': 'Cos', 'tan': 'Tan',
    'arcsin': 'Asin', 'arccos': 'Acos', 'arctan': 'Atan', 'sinh': 'Sinh', 'cosh': 'Cosh', 'arcsinh': 'Asinh',
    'arccosh': 'Acosh', 'arctanh': 'Atanh', 'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh',
    'softsign': 'Softsign', 'copy': 'Identity', 'BlockGrad': 'Identity', 'make_loss': 'Identity',
    'MakeLoss': 'Identity'}
_ACTIVATIONS = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'softrelu': 'Softplus', 'softsign': 'Softsign'}
_ARITHMETIC = {'add': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div'}
_CHOICES = {'power': 'Pow', 'maximum': 'Max', 'minimum': 'Min'}
_WITH_SCALAR = {'plus': 'Add', 'minus': 'Sub', 'mul': 'Mul', 'div': 'Div', **_CHOICES}
#: Arithmetic of np arrays.
_NP = {'npi_add': 'Add', 'npi_subtract': 'Sub', 'npi_multiply': 'Mul', 'npi_true_divide': 'Div'}
_COMPARISONS = {'equal': 'Equal', 'not_equal': 'Equal', 'greater': 'Greater', 'greater_equal': 'GreaterOrEqual',
                'lesser': 'Less', 'lesser_equal': 'LessOrEqual'}
_LOGIC = {'logical_and': 'And', 'logical_or': 'Or', 'logical_xor': 'Xor'}


def _enter(op, translation):
    translates(op)(translation)


def _simple(op):
    return lambda graph, node: graph.add(op, *map(graph.of, node.inputs))


def _with_scalar(op, reverse=False):
    def translate(graph, node):
        operands = [graph.of(node.inputs[0]), _scalar_of(graph, node)]
        return graph.add(op, *(operands[::-1] if reverse else operands))
    return translate


def _scalar_of(graph, node):
    """The tensor of the attribute ``scalar``, in the type of the input."""
    value, dtype = node.get('scalar', 1.), node.inputs[0].dtype
    node.get('is_int', True)        # MXNet computes in the type of the input whether it is set or not
    if dtype.kind in 'iu' and value != int(value):
        node.refuse(f'scalar={value} for an input of type {dtype}')
    return graph.constant(value, dtype)


def _of_one_type(translation):
    """A translation that refuses arrays whose type changes, as np arrays do when they meet another type."""
    def translate(graph, node):
        types = sorted({str(array.dtype) for array in node.inputs + node.outputs})
        if len(types) > 1:
            node.refuse(f'arrays of {" and ".join(types)}')
        return translation(graph, node)
    return translate


def _comparison(name, op, scalar=False):
    def translate(graph, node):
        second = _scalar_of(graph, node) if scalar else graph.of(node.inputs[1])
        result = graph.add(op, graph.of(node.inputs[0]), second)
        if name == 'not_equal':
            result = graph.add('Not', result)
        return graph.cast(result, node.outputs[0].dtype)
    return translate


def _logic(op):
    def translate(graph, node):
        truths = [graph.cast(graph.of(array), bool) for array in node.inputs]
        return graph.cast(graph.add(op, *truths), node.outputs[0].dtype)
    return translate


for _name, _op in _UNARY.items():
    _enter(_name, _simple(_op))
for _name, _op in _ARITHMETIC.items():
    _enter(f'elemwise_{_name}', _simple(_op))
for _name, _op in _CHOICES.items():
    _enter(_name, _simple(_op))      # of arrays of one shape
for _name, _op in {**_ARITHMETIC, **_CHOICES}.items():
    _enter(f'broadcast_{_name}', _simple(_op))
for _name, _op in _WITH_SCALAR.items():
    _enter(f'{_name}_scalar', _with_scalar(_op))
for _name in ('minus', 'div', 'power'):
    _enter(f'r{_name}_scalar', _with_scalar(_WITH_SCALAR[_name], reverse=True))
for _name, _op in _NP.items():
    _enter(_name, _of_one_type(_simple(_op)))
    _enter(f'{_name}_scalar', _of_one_type(_with_scalar(_op)))
for _name in ('subtract', 'true_divide'):
    _enter(f'npi_r{_name}_scalar', _of_one_type(_with_scalar(_NP[f'npi_{_name}'], reverse=True)))
for _name, _op in _COMPARISONS.items():
    for _start in ('broadcast_', ''):
        _enter(_start + _name, _comparison(_name, _op))
    _enter(f'{_name}_scalar', _comparison(_name, _op, scalar=True))
for _name, _op in _LOGIC.items():
    _enter(f'broadcast_{_name}', _logic(_op))
_enter('add_n', _simple('Sum'))


@translates('logical_not')
def _translate_logical_not(graph, node):
    return graph.cast(graph.add('Not', graph.cast(graph.of(node.inputs[0]), bool)), node.outputs[0].dtype)


@translates('square')
def _translate_square(graph, node):
    x = graph.of(node.inputs[0])
    return graph.add('Mul', x, x)


@translates('rsqrt')
def _translate_rsqrt(graph, node):
    return graph.add('Reciprocal', graph.add('Sqrt', graph.of(node.inputs[0])))


@translates('log2', 'log10')
def _translate_log_with_base(graph, node):
    base = graph.constant(np.log(int(node.op[3:])), node.inputs[0].dtype)
    return graph.add('Div', graph.add('Log', graph.of(node.inputs[0])), base)


@translates('clip')
def _translate_clip(graph, node):
    dtype = node.inputs[0].dtype
    bounds = [node.get('a_min', None), node.get('a_max', None)]
    if None not in bounds and bounds[0] > bounds[1]:
        # MXNet takes a_min where x is below it, and ONNX takes a_max for every x.
        node.refuse(f'a_min={bounds[0]} above a_max={bounds[1]}')
    return graph.add('Clip', graph.of(node.inputs[0]), *(
        '' if bound is None else graph.constant(bound, dtype) for bound in bounds))


@translates('hard_sigmoid')
def _translate_hard_sigmoid(graph, node):
    return graph.add('HardSigmoid', graph.of(node.inputs[0]), alpha=float(node.get('alpha', 0.2)),
                     beta=float(node.get('beta', 0.5)))


@translates('Cast')
def _translate_cast(graph, node):
    node.get('dtype', None)
    return graph.cast(graph.of(node.inputs[0]), node.outputs[0].dtype)


@translates('where')
def _translate_where(graph, node):
    condition, first, second = node.inputs
    tensor = graph.cast(graph.of(condition), bool)
    if condition.ndim < first.ndim:     # MXNet takes one condition for each entry of the first axis
        tensor = graph.add('Unsqueeze', tensor, graph.constant(range(condition.ndim, first.ndim)))
    return graph.add('Where', tensor, graph.of(first), graph.of(second))


@translates('Activation')
def _translate_activation(graph, node):
    kind = node.get('act_type', None)
    if kind not in _ACTIVATIONS:
        node.refuse(f'act_type={kind}')
    return graph.add(_ACTIVATIONS[kind], graph.of(node.inputs[0]))


@translates('LeakyReLU')
def _translate_leaky_relu(graph, node):
    data, kind = node.inputs[0], node.get('act_type', 'leaky')
    x, slope = graph.of(data), float(node.get('slope', 0.25))
    if kind == 'leaky':
        return graph.add('LeakyRelu', x, alpha=slope)
    if kind == 'elu':
        return graph.add('Elu', x, alpha=slope)
    if kind == 'selu':
        return graph.add('Selu', x)
    if kind == 'prelu':
        alpha = graph.of(node.inputs[1])
        if data.ndim > 2:       # one slope for each channel
            alpha = graph.add('Unsqueeze', alpha, graph.constant(range(1, data.ndim - 1)))
        return graph.add('PRelu', x, alpha)
    if kind == 'gelu':
        half, one, root = (graph.constant(value, data.dtype) for value in (0.5, 1, np.sqrt(0.5)))
        erf = graph.add('Erf', graph.add('Mul', x, root))
        return graph.add('Mul', graph.add('Mul', x, half), graph.add('Add', erf, one))
    node.refuse(f'act_type={kind}')


