# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sphinx: the reference, out of the docstrings."""
import re

from bbb_layers import __version__

project = 'bbb_layers'
version = release = __version__
extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
html_theme = 'alabaster'
html_theme_options = {'description': 'Bayes by Backprop as layers for Apache MXNet Gluon', 'page_width': '1100px'}
html_show_copyright = False
html_copy_source = False

autodoc_member_order = 'bysource'
# Else MXNet's docstrings would stand where a method has none.
autodoc_inherit_docstrings = False
# The sections Parameters say more than the hints do.
autodoc_typehints = 'none'
# Types are sentences here ("shape (batch_size,), nats"), and not names to make links of.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = ['Inputs', 'Outputs']

nitpicky = True
# Other packages' names, which only their own references have, and those need the network.
nitpick_ignore_regex = [
    (r'py:.*', r'mxnet\..*'),
    (r'py:class', r'NDArray|numpy array'),
    (r'py:exc', r'DeferredInitializationError|MXNetError|subprocess\.SubprocessError'),
]


def gluon_sections(app, what, name, obj, options, lines):
    """Make Gluon's ``Inputs:`` and ``Outputs:``, each with an indented list, sections that napoleon knows."""
    result, inside = [], False
    for line in lines:
        heading = re.match(r'(Inputs|Outputs):$', line)
        if heading:
            result += [heading.group(1), '-' * len(heading.group(1)), '']
        else:
            result.append(line[4:] if inside and line.startswith('    ') else line)
        inside = bool(heading) or inside and (not line or line.startswith(' '))
    lines[:] = result


def setup(app):
    app.connect('autodoc-process-docstring', gluon_sections, priority=400)      # napoleon's is 500
