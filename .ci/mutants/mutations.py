# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The mutants of a file: copies of it with one small fault, such as ``+`` in place of ``-``.

There are six kinds of faults, for Python and for C++: another arithmetic operator, another comparison, another
constant, an early return, ``and`` in place of ``or``, and a call that is left out. mutmut and cosmic-ray know neither
early returns nor calls that are left out, and no C++.

Code that can only change the text of an error has no mutants: all that follows ``raise``, and texts. Annotations have
none either.
"""
import ast
import builtins
import hashlib
import re
from dataclasses import dataclass

KINDS = ('arithmetic', 'comparison', 'constant', 'early return', 'and/or', 'call left out')

_ARITHMETIC = {ast.Add: ('+', '-'), ast.Sub: ('-', '+'), ast.Mult: ('*', '/'), ast.Div: ('/', '*'),
               ast.FloorDiv: ('//', '*'), ast.Mod: ('%', '*'), ast.Pow: ('**', '*'), ast.BitAnd: ('&', '|'),
               ast.BitOr: ('|', '&')}
_COMPARISONS = {ast.Lt: ('<', ['<=', '>=']), ast.LtE: ('<=', ['<', '>']), ast.Gt: ('>', ['>=', '<=']),
                ast.GtE: ('>=', ['>', '<']), ast.Eq: ('==', ['!=']), ast.NotEq: ('!=', ['==']),
                ast.Is: ('is', ['is not']), ast.IsNot: ('is not', ['is']), ast.In: ('in', ['not in']),
                ast.NotIn: ('not in', ['in'])}
#: Where these are left out, the type of the value stays. Without another builtin function, every test would fail.
_BUILTINS_THAT_KEEP_TYPES = {'abs', 'float', 'int', 'max', 'min', 'reversed', 'round', 'sorted'}
#: Modules whose functions are left out in favour of their first argument.
_MODULES = {'F', 'nd', 'ndarray', 'np', 'math', 'gaussian', 'densities', 'arrays', 'symbol', 'sym'}
#: Methods that are left out in favour of their object.
_METHODS = {'abs', 'as_in_context', 'as_nd_ndarray', 'as_np_ndarray', 'astype', 'copy', 'detach', 'exp', 'expand_dims',
            'log', 'mean', 'reshape', 'sum', 'swapaxes', 'transpose'}
#: Statements before which a function cannot return early, or where nothing follows that would be missed.
_NO_RETURN_BEFORE = (ast.FunctionDef, ast.ClassDef, ast.Return, ast.Raise, ast.Pass, ast.Continue, ast.Break,
                     ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


@dataclass(frozen=True)
class Mutant:
    """One fault: the bytes from ``start`` to ``end`` of ``file`` become ``replacement``.

    ``key`` stays the same as long as the line and the function around it do, wherever they move in the file.
    """
    file: str
    kind: str
    place: str
    start: int
    end: int
    replacement: str
    key: str

    def applied(self, source):
        """The bytes of the file with the fault."""
        return source[:self.start] + self.replacement.encode() + source[self.end:]

    def line(self, source):
        """The number of the line in which the fault begins."""
        return source.count(b'\n', 0, self.start) + 1


def mutants(file, source):
    """All mutants of the file of this name with these bytes, in the order of the file."""
    faults = _cplusplus(source) if file.endswith(('.cc', '.h')) else _python(source)
    seen, found = {}, []
    for kind, place, start, end, replacement in sorted(faults, key=lambda fault: fault[2:]):
        first = source.rfind(b'\n', 0, start) + 1
        line = source[first:source.find(b'\n', start)].strip()
        parts = (file, kind, place, line.decode(), source[start:end].decode(), replacement)
        seen[parts] = seen.get(parts, 0) + 1
        key = hashlib.sha256(repr((parts, seen[parts])).encode()).hexdigest()[:12]
        found.append(Mutant(file, kind, place, start, end, replacement, key))
    return found


def _python(source):
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    plain = ast.dump(ast.parse(source))
    for fault in finder.faults:
        _, _, start, end, replacement = fault
        try:
            if ast.dump(ast.parse(source[:start] + replacement.encode() + source[end:])) != plain:
                yield fault
        except SyntaxError:     # such as a return inside of a line
            pass


class _Finder(ast.NodeVisitor):

    def __init__(self, source):
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.names, self.functions, self.faults = [], 0, []

    def span(self, node):
        return (self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset)

    def add(self, kind, start, end, replacement):
        self.faults.append((kind, '.'.join(self.names), start, end, replacement))

    def between(self, kind, left, right, symbol, replacements):
        """Other operators in place of ``symbol`` between two nodes."""
        start, end = self.span(left)[1], self.span(right)[0]
        # The operator is the first text that is not a parenthesis, a space or a comment.
        match = re.match(rb'(?:[\s()\\]|#[^\n]*\n)*', self.source[start:end])
        place = start + match.end()
        length = re.match(r'\s+'.join(map(re.escape, symbol.split())).encode(), self.source[place:end])
        if length:
            for replacement in replacements:
                self.add(kind, place, place + length.end(), replacement)

    def visit_body(self, body):
        for statement in body:
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if self.functions and not text and not isinstance(statement, _NO_RETURN_BEFORE):
                start = self.span(statement)[0]
                self.add('early return', start, start, 'return\n' + ' ' * statement.col_offset)
            if not text:
                self.visit(statement)

    def generic_visit(self, node):
        for name, value in ast.iter_fields(node):
            if name in ('annotation', 'returns', 'decorator_list'):
                continue
            if name in ('body', 'orelse', 'finalbody') and isinstance(value, list):
                self.visit_body(value)
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)

    def visit_FunctionDef(self, node):
        self.names.append(node.name)
        self.visit(node.args)
        self.functions += 1
        self.visit_body(node.body)
        self.functions -= 1
        self.names.pop()

    def visit_ClassDef(self, node):
        # A class inside a function begins anew: its own statements cannot return.
        functions, self.functions = self.functions, 0
        self.names.append(node.name)
        self.visit_body(node.body)
        self.names.pop()
        self.functions = functions

    def visit_Raise(self, node):
        pass

    def visit_JoinedStr(self, node):
        pass

    def visit_Assert(self, node):
        self.visit(node.test)

    def visit_BinOp(self, node):
        symbols = _ARITHMETIC.get(type(node.op))
        if symbols and not any(map(_is_sequence, (node.left, node.right))):
            self.between('arithmetic', node.left, node.right, symbols[0], [symbols[1]])
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        symbols = _ARITHMETIC.get(type(node.op))
        if symbols and not _is_sequence(node.value):
            self.between('arithmetic', node.target, node.value, symbols[0] + '=', [symbols[1] + '='])
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        start = self.span(node)[0]
        if isinstance(node.op, ast.USub):
            self.add('arithmetic', start, start + 1, '')
        elif isinstance(node.op, ast.Not):
            self.add('and/or', start, start + len('not'), '')
        self.generic_visit(node)

    def visit_Compare(self, node):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            symbol, others = _COMPARISONS[type(operator)]
            self.between('comparison', left, right, symbol, others)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        symbol, other = ('and', 'or') if isinstance(node.op, ast.And) else ('or', 'and')
        for left, right in zip(node.values, node.values[1:]):
            self.between('and/or', left, right, symbol, [other])
        self.generic_visit(node)

    def visit_Constant(self, node):
        value, span = node.value, self.span(node)
        if isinstance(value, bool):
            self.add('constant', *span, str(not value))
        elif isinstance(value, int):
            for other in [value + 1] + [value - 1] * (value > 0):
                self.add('constant', *span, str(other))
        elif isinstance(value, float):
            self.add('constant', *span, repr(2 * value if value else 1.))

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call):
            function = node.value.func
            if not (isinstance(function, ast.Attribute) and function.attr == '__init__'):
                self.add('call left out', *self.span(node), 'pass')
            self.call_parts(node.value)
        else:
            self.visit(node.value)

    def call_parts(self, node):
        """Faults inside of a call."""
        self.visit(node.func)
        for argument in [*node.args, *[keyword.value for keyword in node.keywords]]:
            self.visit(argument)

    def visit_Call(self, node):
        instead = None
        function, argument = node.func, node.args[0] if node.args else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, (ast.Name, ast.Attribute)):
            owner = function.value.id if isinstance(function.value, ast.Name) else function.value.attr
            if owner in _MODULES:
                instead = argument
            elif function.attr in _METHODS:
                instead = function.value
        elif isinstance(function, ast.Attribute) and function.attr in _METHODS:
            instead = function.value
        elif isinstance(function, ast.Name):
            own = function.id.islower() and not hasattr(builtins, function.id)
            if own or function.id in _BUILTINS_THAT_KEEP_TYPES:
                instead = argument
        if instead is not None and not isinstance(instead, (ast.Starred, ast.Constant, ast.GeneratorExp)):
            start, end = self.span(instead)
            self.add('call left out', *self.span(node), f'({self.source[start:end].decode()})')
        self.call_parts(node)


def _is_sequence(node):
    """Whether an operand is a text or a list, where other operators than ``+`` and ``*`` would fail in every test."""
    return isinstance(node, (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple, ast.Dict, ast.Set)) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))) or (
        isinstance(node, ast.BinOp) and (_is_sequence(node.left) or _is_sequence(node.right)))


#: Each is (kind, pattern, replacements); the first group of the pattern is replaced.
_CPLUSPLUS = [
    *[('arithmetic', rf'(?<=[\w\])]) ({re.escape(symbol)})(?= [\w(\-*&!])', [other])
      for symbol, other in [('+', '-'), ('-', '+'), ('*', '/'), ('/', '*'), ('%', '*'), ('+=', '-='), ('-=', '+='),
                            ('*=', '/='), ('<<', '>>'), ('>>', '<<'), ('&', '|'), ('|', '&'), ('^', '&')]],
    ('arithmetic', r'(?<=[(,=] )(-)(?=[a-zA-Z(])', ['']),
    *[('comparison', rf'(?<=[\w\])]) ({symbol})(?= [\w(\-*&!])', others)
      for symbol, others in [('<', ['<=', '>=']), ('<=', ['<', '>']), ('>', ['>=', '<=']), ('>=', ['>', '<']),
                             ('==', ['!=']), ('!=', ['=='])]],
    ('and/or', r' (&&) ', ['||']), ('and/or', r' (\|\|) ', ['&&']), ('and/or', r'(!)(?=[a-z])', ['']),
    ('call left out', r'(?<=[ (=])((?:std::)?(?:abs|at_least|at_most|ceil|clipped|exp|exponential|fabs|floor|fmax|fmin|'
     r'log|log1p|max|min|round|sqrt)(?:<\w+>)?)(?=\()', ['']),
]
_NUMBER = re.compile(r'(?<![\w.])(\d+\.\d*(?:e[+-]?\d+)?f?|\d+e[+-]?\d+f?|\d+(?:u|ull|ll)?|0x[0-9a-fA-F]+\w*)(?![\w.])')
#: A call that is a statement.
_STATEMENT = re.compile(r'^( +)(?!return\b|throw\b|case\b|using\b|const\b|static\b)([\w:.<>\[\]*-]+\([^\n{}]*\);) *$',
                        re.MULTILINE)
#: The beginning of a statement, or of a block.
_SIMPLE = re.compile(r'^( {2,})(?!return\b|throw\b|case\b|using\b|public\b|private\b|default\b|break\b|continue\b|'
                     r'explicit\b|BBB_INLINE\b|template\b|friend\b|static_assert\b|//|}|\))[\w*(+-].*[;{] *$',
                     re.MULTILINE)


def _cplusplus(source):
    code = _without_comments(source.decode('ascii'))
    for kind, pattern, replacements in _CPLUSPLUS:
        for match in re.finditer(pattern, code):
            for replacement in replacements:
                yield kind, _function(code, match.start(1)), *match.span(1), replacement
    for match in _NUMBER.finditer(code):
        yield 'constant', _function(code, match.start()), *match.span(), _other_number(match.group())
    for match in _STATEMENT.finditer(code):
        start = match.end(1)
        if _function(code, start):
            yield 'call left out', _function(code, start), start, match.end(2), ';'
    for match in _SIMPLE.finditer(code):
        start = match.end(1)
        if _function(code, start):
            # It fits every type; in a function without a result it does not compile, and the plain return does.
            yield 'early return', _function(code, start), start, start, 'return {}; '
            yield 'early return', _function(code, start), start, start, 'return; '


def _without_comments(code):
    """The code, of the same length, with spaces in place of comments, texts, and lines of the preprocessor."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#[^\n]*'
    return re.sub(pattern, lambda match: re.sub(r'[^\n]', ' ', match.group()), code, flags=re.DOTALL | re.MULTILINE)


def _function(code, place):
    """The name of the function around a place: the last one above that begins, if nothing ends between."""
    above = list(re.finditer(r'^(?:  )?[\w:<>*&~, \[\]]*?(\w+)\([^;]*?\{\n|^\}', code[:place], re.MULTILINE))
    return above[-1].group(1) or '' if above else ''


def _other_number(text):
    value, suffix = re.fullmatch(r'(0x[0-9a-fA-F]+|[\d.]+(?:e[+-]?\d+)?)(\w*)', text).groups()
    if value.startswith('0x'):
        return hex(int(value, 16) + 1) + suffix
    if re.fullmatch(r'\d+', value):
        return str(int(value) + 1) + suffix
    number = float(value)
    return repr(2 * number if number else 1.) + suffix
