# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The names by which checkpoints refer to classes, and the attributes of objects that JSON can hold."""
import contextlib
import importlib
import inspect
from typing import Any, Dict, Set

import numpy as np
from mxnet.optimizer import Optimizer

__all__ = ['MEANS', 'class_name', 'same_class', 'plain', 'same', 'what_json_holds', 'attributes',
           'arguments']

#: Attributes of an optimizer that decide how an update is computed, but do not change its result.
MEANS = ('aggregate_num', 'allow_np_array')
#: Module of version 0.1 by which a file can name a class -> the module by which :func:`class_name` names it now. Any
#: block of this package can be a part of a user's likelihood.
_MODULES_OF_0_1 = dict(
    {f'bbb_layers.{module}': 'bbb_layers' for module in (
        'layers', 'likelihoods', 'loss', 'monte_carlo', 'optimizer', 'recurrent', 'sparse')},
    **{'bbb_layers.np_recurrent': 'bbb_layers.layers.np_recurrent',
       'bbb_layers.own_blocks': 'bbb_layers.networks.own_blocks'})


def class_name(cls: type) -> str:
    """The public name of a class of this package; the full path of any other class."""
    # The package is not imported above, since it imports this module.
    package = importlib.import_module(__name__.partition('.')[0])
    if cls.__name__ in package.__all__ and getattr(package, cls.__name__) is cls:
        return f'{package.__name__}.{cls.__name__}'
    return f'{cls.__module__}.{cls.__qualname__}'


def same_class(saved: str, name: str) -> bool:
    """Whether ``saved``, from a file, and ``name``, from :func:`class_name`, are names of the same class.

    A class of a script that runs as ``__main__`` counts as the same as the class of the imported script.
    """
    module, _, last = saved.rpartition('.')
    if module in _MODULES_OF_0_1:
        saved = f'{_MODULES_OF_0_1[module]}.{last}'
    return saved == name or any(a.startswith('__main__.') and b.endswith(a[len('__main__'):])
                                for a, b in ((saved, name), (name, saved)))


def plain(name: str, value: Any) -> Any:
    """``value``, with NumPy's numbers as Python's; TypeError if JSON would not give it back unchanged."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        if isinstance(value, list):
            return [plain(f'{name}[{index}]', each) for index, each in enumerate(value)]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: plain(f'{name}[{key!r}]', each) for key, each in value.items()}
    except RecursionError:
        pass
    raise TypeError(f'{name} must be what JSON can hold: None, bool, int, float, str, list, or dict with keys that are '
                    f'str (saw: {value!r})')


def same(one: Any, other: Any) -> bool:
    """Whether two values from JSON are equal, where NaN counts as equal to NaN."""
    return one == other or (one != one and other != other)


def what_json_holds(values: Dict[str, Any]) -> Dict[str, Any]:
    """``values`` without those that JSON cannot hold, such as arrays and functions; a tuple becomes a list."""
    found = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError):
            found[name] = plain(name, list(value) if isinstance(value, tuple) else value)
    return found


def attributes(thing: object) -> Dict[str, Any]:
    """The attributes of an optimizer, of a schedule or of a loss that JSON can hold."""
    # The dicts of an optimizer have an entry for each Parameter, and are not saved as attributes.
    return what_json_holds({name: value for name, value in getattr(thing, '__dict__', {}).items()
                            if name not in MEANS and not (isinstance(thing, Optimizer) and isinstance(value, dict))})


def arguments(thing: object) -> Set[str]:
    """The names of all arguments that the constructors of an object's class and its base classes take."""
    return {name for base in type(thing).__mro__ if inspect.isfunction(vars(base).get('__init__'))
            for name in inspect.signature(vars(base)['__init__']).parameters}
