# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reading Markdown pages: their snippets, links, anchors, and what an index leads to."""
import importlib.util
import json
import re

from subprocesses import ROOT

DOCS = ROOT / 'docs'
#: What a page may be written in, and an index leads to.
SOURCES = ('.md', '.ipynb', '.rst')
FENCE = re.compile(r'^( *)(`{3,}|~{3,}|:{3,})(.*)$')


def names(*suffixes):
    """Paths below ROOT, with slashes, of the files of the documentation that end in one of ``suffixes``."""
    return sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob('*')
                  if path.suffix in suffixes and not any(part.startswith('.') for part in path.parts))


def read(page):
    return (ROOT / page).read_text(encoding='utf-8')


def markdown(page):
    """The Markdown of ``page``; of a notebook that of its cells."""
    if page.endswith('.ipynb'):
        return '\n\n'.join(''.join(cell['source']) for cell in json.loads(read(page))['cells']
                           if cell['cell_type'] == 'markdown')
    return read(page)


def blocks(text):
    """(number of the line before it, what stands behind the fence, indentation, content) of each fenced block.

    Directives with colons are looked into: their content is text of the page.
    """
    found, inside = [], None
    for number, line in enumerate(text.split('\n'), 1):
        fence = FENCE.match(line)
        if inside:
            if fence and fence.group(2).startswith(inside[0]) and not fence.group(3).strip():
                found.append((inside[1], inside[2], inside[3], '\n'.join(inside[4]) + '\n'))
                inside = None
            else:
                inside[4].append(line)
        elif fence and not fence.group(2).startswith(':'):
            inside = fence.group(2), number, fence.group(3).strip(), len(fence.group(1)), []
    assert inside is None, f'line {inside[1]}: a block that has no end'
    return found


def prose(text):
    """``text`` without fenced blocks, comments and code, which have no links."""
    lines, end = text.split('\n'), 0
    for start, _, _, content in blocks(text):
        end = start + content.count('\n')
        lines[start - 1:end + 1] = [''] * (end + 2 - start)
    return re.sub(r'<!--.*?-->|`[^`\n]+`', '', '\n'.join(lines), flags=re.DOTALL)


def links(text):
    """The targets of links and pictures, with or without a title, and of definitions such as [1]: page.md."""
    return re.findall(r'(?:\]\(\s*|^ {0,3}\[[^\]\n]+\]: *)<?([^)\s>]+)', prose(text), re.MULTILINE)


def anchors(text):
    """What can stand behind the # of a link: headings as GitHub and MyST write them, and labels."""
    found = set(re.findall(r'^\(([^)\s]+)\)=$', text, re.MULTILINE))
    for heading in re.findall(r'^#+ +(.*?) *$', prose_with_code(text), re.MULTILINE):
        heading = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
        slug = re.sub(r'[^\w\- ]', '', heading).replace(' ', '-')
        found.add(slug if slug not in found else slug + '-1')
    return found


def prose_with_code(text):
    """``text`` without fenced blocks."""
    lines = text.split('\n')
    for start, _, _, content in blocks(text):
        end = start + content.count('\n')
        lines[start - 1:end + 1] = [''] * (end + 2 - start)
    return '\n'.join(lines)


def snippets(page):
    """(number of the line before it, code) of each snippet of Python, in order; of a notebook those of its cells."""
    text = read(page)
    if page.endswith('.ipynb'):
        return [(0, ''.join(cell['source'])) for cell in json.loads(text)['cells'] if cell['cell_type'] == 'code']
    found = []
    for number, info, indentation, content in blocks(text):
        if re.match(r'(python|py|pycon|\{code-cell\}.*|\{code-block\} *python.*)$', info, re.IGNORECASE):
            assert info == 'python' or info.startswith('{code-cell}'), (
                f'{page}:{number}: a snippet must begin with ```python, to be run (saw: {info})')
            assert not indentation, f'{page}:{number}: a snippet must not be indented, to be run'
            found.append((number, content))
    return found


def is_notebook(page):
    """Whether the build of the documentation runs ``page``."""
    return page.endswith('.ipynb') or bool(re.match(r'---\n.*?^kernelspec:', read(page), re.DOTALL | re.MULTILINE))


def run(page):
    """Run the snippets of ``page`` from top to bottom, in one namespace, which is returned."""
    namespace = {'__name__': 'page'}
    for number, code in snippets(page):
        if importlib.util.find_spec('onnx') is None:      # the extra 'onnx' is not installed
            code = re.sub(r'^export_onnx\(.*$', '', code, flags=re.MULTILINE)
        code = re.sub(r'^%.*$', '', code, flags=re.MULTILINE)       # IPython's own, such as %matplotlib
        # With its line numbers, for the traceback.
        exec(compile('\n' * number + code, page, 'exec'), namespace)
    return namespace


def reachable(page):
    """All pages that the table of contents of ``page``, and of what it leads to, names."""
    found, todo = set(), [page]
    while todo:
        page = todo.pop()
        if page in found:
            continue
        found.add(page)
        todo += list(children(page))
    return found


def children(page):
    """The pages in the tables of contents of ``page``."""
    if page.endswith('.ipynb'):
        return
    text = read(page)
    if page.endswith('.md'):
        contents = [content for _, info, _, content in blocks(text) if info == '{toctree}']
    else:
        contents = re.findall(r'^\.\. toctree::\n((?:(?: +.*)?\n)+)', text + '\n', re.MULTILINE)
    for content in contents:
        for line in content.splitlines():
            entry = re.sub(r'.*<(.*)>', r'\1', line.strip())
            if entry and not entry.startswith(':') and entry != 'self':
                yield source(DOCS / entry[1:] if entry.startswith('/') else (ROOT / page).parent / entry)


def source(path):
    """The page at ``path``, which may lack its suffix."""
    for suffix in ('',) + SOURCES:
        file = path.with_name(path.name + suffix).resolve()
        if file.is_file():
            return file.relative_to(ROOT).as_posix()
    raise AssertionError(f'no page: {path}')
