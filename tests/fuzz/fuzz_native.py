# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The target ``native``: wrong attributes and wrong arrays for the native operators."""
import re

import mxnet as mx
import numpy as np
from fuzz_worker import Outcome
from mxnet import autograd, nd

from bbb_layers import native

__all__ = ['run', 'valid']

#: The most that each attribute may be which is a whole number.
MOST = {'parameters': 2 ** 20, 'weights': 2 ** 20, 'components': 2 ** 20, 'step': 10 ** 18 - 1, 'switched': 1}
CHOICES = {'kind': ('draw', 'split', 'spread'), 'prior': ('none', 'gaussian', 'pair', 'mixture')}
TEXTS = ['', ' ', '0', '1', '2', '3', '5', ' 1', '1 ', '+1', '-1', '-0', '1.0', '1e3', '0x1', '00001', '01', '9' * 18,
         '9' * 19, '1' + '0' * 17, '0' * 18 + '1', '9' * 1000, '1048576', '1048577', '65536', '2147483647',
         '2147483648', '4294967296', '4294967297', '9223372036854775807', '9223372036854775808',
         '18446744073709551615', '429496730',
         '\uff11', '1\0', '\0', '\0001', '1\n', '1,2', '(1,)', 'None', 'True', 'draw', 'draw ', 'Draw', 'split',
         'spread', 'none', 'gaussian', 'pair', 'mixture', 'x' * 100000, '\u6f22', '\U0001f600', '%s%n',
         '00000000', '0000803f',
         '0000803F', '0000803g', '0' * 24, '0' * 40, '0' * 56, '0000c07f', '0' * 7, '0' * 9, '0x000000', 'f' * 8,
         'ffffffff' * 5, '0' * 8000000]


def run(case):
    """Call an operator, and compare what happens with what its attributes and arrays say."""
    random = case.random
    if not native.available():
        raise RuntimeError('the native operators are not available')
    name = random.choice(['draw', 'draw', 'draw', 'adam', 'adam', 'adam_settle', 'noise'])
    attributes, arrays = good(random, name)
    for _ in range(random.choice([0, 1, 1, 1, 1, 2])):
        damage_attributes(random, attributes)
    damaged_too = random.random() < 0.3
    if damaged_too:
        damage_arrays(random, arrays)
    route = random.choice(['nd', 'nd', 'nd', 'backward', 'symbol', 'shapes'])
    expected = valid(name, attributes, arrays)
    before, findings, results = [bits(array) for array in arrays], [], None
    try:
        results = ROUTES[route](name, attributes, arrays, case.number)
        outcome, error = 'accepted', None
    except Exception as caught:
        outcome, error = 'refused', caught
    nd.waitall()
    if outcome == 'refused':
        if not isinstance(error, (mx.MXNetError, UnicodeEncodeError)) or not str(error):
            findings.append(f'the error must be an MXNetError: {type(error).__name__}: {error}')
        if expected:
            findings.append(f'this is valid, and was refused: {error}')
        if [bits(array) for array in arrays] != before:
            findings.append(f'an array changed, and then came an error: {error}')
        if not valid_attributes(name, attributes) and not damaged_too and route != 'shapes' and not says(error):
            findings.append(f'the error must name an attribute: {error}')
    elif expected is False and route != 'shapes':       # the shapes depend on some of the attributes alone
        findings.append('this is not valid, and was accepted')
    elif expected and results is not None:
        findings += wrong_results(name, attributes, arrays, route, results, before, case.number)
    if findings:
        shown = {key: value if len(value) < 200 else f'{value[:100]}... ({len(value)} letters)'
                 for key, value in attributes.items()}
        findings.append(f'{name} {route} {ascii(shown)} '
                        f'{[(array.shape, np.dtype(array.dtype).name, array.stype) for array in arrays]}')
    return Outcome(outcome, findings)


def bits(array):
    return array.shape, np.dtype(array.dtype).name, array.stype, array.asnumpy().tobytes()


# ---- what is valid

def number(attributes, name):
    """A whole number among the attributes; None if it is not valid."""
    text = c_text(attributes.get(name))
    if text is None or not re.fullmatch('[0-9]{1,18}', text, re.ASCII) or int(text) > MOST[name]:
        return None
    return None if int(text) == 0 and name in ('parameters', 'weights', 'components') else int(text)


def c_text(text):
    """What is left of a text in C, where NUL ends it."""
    return None if text is None else text.split('\0')[0]


def floats_are_valid(attributes, name, count):
    text = c_text(attributes.get(name))
    return text is not None and len(text) == 8 * count and re.fullmatch('[0-9a-f]*', text, re.ASCII) is not None


def valid_attributes(name, attributes):
    """Whether the attributes that an operator reads are valid."""
    if name == 'noise':
        return True
    if name == 'adam':
        count = number(attributes, 'parameters')
        return (count is not None and number(attributes, 'step') is not None and
                floats_are_valid(attributes, 'lrs', count) and floats_are_valid(attributes, 'wds', count) and
                floats_are_valid(attributes, 'settings', 5))
    if name == 'adam_settle':
        return number(attributes, 'weights') is not None and number(attributes, 'step') is not None
    kind, prior = (c_text(attributes.get(key)) for key in ('kind', 'prior'))
    if kind not in CHOICES['kind'] or prior not in CHOICES['prior'] or number(attributes, 'switched') is None:
        return False
    if prior == 'none':
        return True
    if prior == 'gaussian':
        return floats_are_valid(attributes, 'numbers', 3)
    count = number(attributes, 'components')
    return (count is not None and (prior == 'mixture' or count == 2) and
            floats_are_valid(attributes, 'numbers', 2 * count + 3))


def valid(name, attributes, arrays):
    """Whether a call is valid. Which arrays are valid is not said for the two operators that read none: then None."""
    if not valid_attributes(name, attributes):
        return False
    count = {'noise': lambda: 1, 'adam': lambda: 5 * number(attributes, 'parameters'),
             'adam_settle': lambda: number(attributes, 'weights'),
             'draw': lambda: 2 + number(attributes, 'switched')}[name]()
    if len(arrays) != count:
        return False
    if not arrays or any(0 in array.shape for array in arrays):
        return None
    if name == 'adam_settle' or name == 'noise':
        return None if any(array.dtype != np.float32 or array.stype != 'default' for array in arrays) else True
    if any(array.dtype != np.float32 or array.stype != 'default' for array in arrays):
        return False
    if name == 'adam':
        return all(array.shape == arrays[place - place % 5].shape for place, array in enumerate(arrays))
    return arrays[0].shape == arrays[1].shape and all(array.shape == (1,) for array in arrays[2:])


def says(error):
    """Whether an error names an attribute, or the number of inputs, which MXNet itself compares."""
    names = ('kind', 'prior', 'switched', 'components', 'numbers', 'parameters', 'step', 'lrs', 'wds', 'settings',
             'weights', 'num_inputs', 'argument', 'surrogates')
    return any(name in str(error) for name in names)


# ---- calls

def operator(F, name):
    return native.operator(F, f'_bbb_layers_{name}')


def as_list(results):
    return list(results) if isinstance(results, (list, tuple)) else [results]


def through_nd(name, attributes, arrays, seed):
    mx.random.seed(seed % 2 ** 31)
    # Without an output, the second of Adam's operators returns memory that nobody has set.
    out = {'out': [array.copy() for array in arrays]} if name == 'adam_settle' else {}
    results = as_list(operator(nd, name)(*arrays, **out, **attributes))
    nd.waitall()
    found = [bits(result) for result in results]
    if name == 'adam':      # new values of a weight that came as two arrays must not wait for another case
        weights = [array.copy() for array in arrays[::5]]
        operator(nd, 'adam_settle')(*weights, out=weights, weights=len(weights), step=attributes['step'])
        nd.waitall()
    return found


def through_backward(name, attributes, arrays, seed):
    if name != 'draw':
        return through_nd(name, attributes, arrays, seed)
    mx.random.seed(seed % 2 ** 31)
    inputs = [array.copy() for array in arrays]
    for array in inputs:
        array.attach_grad()
    with autograd.record():
        results = as_list(operator(nd, name)(*inputs, **attributes))
        total = sum((result.sum() for result in results[:-1]), nd.zeros(1))
    total.backward()
    nd.waitall()
    return [bits(result) for result in results] + [bits(array.grad) for array in inputs[:2]]


def symbol_of(name, attributes, arrays):
    inputs = [mx.sym.Variable(f'in{place}') for place in range(len(arrays))]
    return operator(mx.sym, name)(*inputs, **attributes)


def through_symbol(name, attributes, arrays, seed):
    # Symbol.eval takes neither inputs that are changed, nor outputs, nor less than all inputs.
    if name.startswith('adam') or len(arrays) < {'draw': 2, 'noise': 1}[name] + (attributes.get('switched') == '1'):
        return through_nd(name, attributes, arrays, seed)
    mx.random.seed(seed % 2 ** 31)
    results = symbol_of(name, attributes, arrays).eval(
        mx.cpu(), **{f'in{place}': array.copy() for place, array in enumerate(arrays)})
    nd.waitall()
    return [bits(result) for result in results]


def through_shapes(name, attributes, arrays, seed):
    symbol = symbol_of(name, attributes, arrays)
    # All shapes are known. MXNet 1.9.1 itself writes beyond its memory, before it calls any library's operator, if the
    # shape of an input is not known; bbb_layers/forward/draw.py makes no such graph.
    shapes = {f'in{place}': array.shape for place, array in enumerate(arrays)}
    symbol.infer_shape_partial(**shapes)
    symbol.infer_shape(**shapes)
    for known in (0, len(arrays) - 1, len(arrays)):
        types = {f'in{place}': array.dtype for place, array in enumerate(arrays[:max(0, known)])}
        for function in (symbol.infer_type_partial, symbol.infer_type):
            try:
                function(**types)
            except mx.MXNetError:
                if known == len(arrays):
                    raise
    symbol.list_auxiliary_states()
    symbol.tojson()
    return None


ROUTES = {'nd': through_nd, 'backward': through_backward, 'symbol': through_symbol, 'shapes': through_shapes}


def wrong_results(name, attributes, arrays, route, results, before, seed):
    """Compare with the same call with attributes as the package writes them, on copies of the first values."""
    clean = {key: str(number(attributes, key)) if key in MOST and number(attributes, key) is not None else c_text(value)
             for key, value in attributes.items() if key in read_by(name, attributes)}
    copies, made = [], {}
    for array, (shape, dtype, _, content) in zip(arrays, before):
        if id(array) not in made:
            made[id(array)] = nd.array(np.frombuffer(content, dtype).reshape(shape), dtype=dtype)
        copies.append(made[id(array)])
    again = ROUTES[route](name, clean, copies, seed)
    wrong = []
    if again != results:
        wrong.append('the results are not those of the same attributes as the package writes them')
    if [bits(array) for array in copies] != [bits(array) for array in arrays]:
        wrong.append('the arrays are not those of the same attributes as the package writes them')
    if name == 'adam':
        if any(after[3] == old[3] and np.isfinite(np.frombuffer(old[3], np.float32)).all()
               for after, old in list(zip([bits(array) for array in arrays], before))[4::5]):
            wrong.append('Adam changed no variance')
    elif [bits(array) for array in arrays] != before:
        wrong.append('the inputs changed')
    return wrong


def read_by(name, attributes):
    return {'noise': (), 'adam': ('parameters', 'step', 'lrs', 'wds', 'settings'), 'adam_settle': ('weights', 'step'),
            'draw': ('kind', 'switched', 'prior') + {'none': (), 'gaussian': ('numbers',)}.get(
                c_text(attributes.get('prior')), ('components', 'numbers'))}[name]


# ---- attributes and arrays

def good(random, name):
    """Valid attributes, as texts, and arrays for them."""
    rng = np.random.RandomState(random.randrange(2 ** 31))
    shape = random.choice([(3,), (2, 3), (1,), (2, 1, 3), (40, 50)])

    def array(of=shape):
        return nd.array(rng.randn(*of))

    if name == 'noise':
        return {}, [array()]
    if name == 'adam_settle':
        count = random.choice([1, 2, 3])
        return {'weights': str(count), 'step': '7'}, [array() for _ in range(count)]
    if name == 'adam':
        count, arrays = random.choice([1, 1, 2, 3]), []
        for _ in range(count):
            weight = array()
            arrays += [weight, weight, array() + 3, array(), array().abs()]
        return {'parameters': str(count), 'step': '7', 'lrs': native.floats([0.1] * count),
                'wds': native.floats([0.] * count),
                'settings': native.floats([0.9, 0.5, 1e-8, 1., -1.])}, arrays
    prior, switched = random.choice(CHOICES['prior']), random.choice([0, 0, 1])
    components = {'pair': 2, 'mixture': random.choice([1, 2, 3, 5])}.get(prior, 0)
    count = {'none': 0, 'gaussian': 3}.get(prior, 2 * components + 3)
    arrays = [array(), array()] + [nd.array([random.choice([0., 1., 2.])])] * switched
    return {'kind': random.choice(CHOICES['kind']), 'switched': str(switched), 'prior': prior,
            'components': str(components), 'numbers': native.floats(rng.rand(count))}, arrays


def damage_attributes(random, attributes):
    names = list(attributes) + ['junk']
    name, kind = random.choice(names), random.randrange(8)
    value = attributes.get(name, '')
    if kind == 0:
        attributes.pop(name, None)
    elif kind == 1 and value:
        place = random.randrange(len(value))
        attributes[name] = value[:place] + chr(random.choice([0, 32, 43, 45, 48, 57, 71, 97, 103, 127, 233, 0x6f22]))\
            + value[place + 1:]
    elif kind == 2 and value:
        place = random.randrange(len(value))
        attributes[name] = value[:place] + value[place + random.choice([1, 2, 8]):]
    elif kind == 3:
        attributes[name] = value + random.choice([value, '0', '00', '00000000', ' ', '\0', 'x'])
    elif kind == 4:
        attributes[name] = ''.join(chr(random.randrange(1, 0xd7ff)) for _ in range(random.choice([1, 3, 30])))
    elif kind == 5:
        attributes[name] = str(random.randrange(10 ** random.choice([1, 3, 7, 10, 19, 25])))
    else:
        attributes[name] = random.choice(TEXTS)


def damage_arrays(random, arrays):
    place, kind = random.randrange(len(arrays)), random.randrange(6)
    old = arrays[place]
    if kind == 0:
        del arrays[place]
    elif kind == 1:
        arrays.insert(place, nd.ones(random.choice([(1,), (3,), (2, 3)])))
    elif kind == 2:
        arrays[place] = old.astype(random.choice(['float64', 'float16', 'int32', 'int8', 'uint8', 'int64']))
    elif kind == 3:
        arrays[place] = nd.ones(random.choice([(1,), (3,), (2, 3), (3, 2), (6,), (1, 1), (2, 1, 3), (2, 3, 1), (100,)]))
    elif kind == 4 and old.ndim == 2:
        arrays[place] = old.tostype(random.choice(['row_sparse', 'csr']))
    else:
        arrays[place] = old.reshape((1,) + old.shape)
