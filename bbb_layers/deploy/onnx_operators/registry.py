# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The table of the operators of MXNet that have a counterpart in ONNX."""
from typing import Callable, Dict, List, Union

from ..onnx_graph import Graph
from ..trace import Node

__all__ = ['TRANSLATIONS', 'Translation', 'translates']

#: Adds the nodes for one operator to a graph, and returns the names of its outputs.
Translation = Callable[[Graph, Node], Union[str, List[str]]]

#: MXNet's name of an operator without the underscores at its start -> its translation.
TRANSLATIONS: Dict[str, Translation] = {}


def translates(*ops: str) -> Callable[[Translation], Translation]:
    """Enter a function into the table as the translation of the operators with these names."""
    def enter(function: Translation) -> Translation:
        for op in ops:
            TRANSLATIONS[op] = function
        return function
    return enter
