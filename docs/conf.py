# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sphinx: pages in Markdown, tutorials that are notebooks and run while the pages are built, and the reference, out of
the docstrings.

What is built shows without a network: formulas, fonts and search come with it.
"""
import os
import re
import resource
import shutil
from importlib.util import find_spec
from pathlib import Path

# The tutorials say how long they take on one core. Before mxnet is imported, here and in the notebooks.
os.environ['OMP_NUM_THREADS'] = '1'

from bbb_layers import __version__, native
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.util.logging import getLogger

logger = getLogger(__name__)

project = 'bbb_layers'
version = release = __version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
html_theme = 'furo'
html_title = 'bbb_layers %s' % version
html_show_copyright = False
# The tutorials link to their notebooks, which are among the sources.
html_copy_source = True
html_sourcelink_suffix = ''
html_static_path = ['_static']
html_css_files = ['pages.css']

myst_enable_extensions = ['amsmath', 'colon_fence', 'deflist', 'dollarmath']
# Links to a heading of a page are checked, too.
myst_heading_anchors = 4

#: Seconds of one core that a tutorial may take.
TUTORIAL_LIMIT = 60
nb_execution_mode = 'force'
nb_execution_in_temp = True
nb_execution_raise_on_error = True
# For a cell, by the clock, in case it hangs; limit_tutorials counts what a tutorial uses, however busy the machine is.
nb_execution_timeout = 10 * TUTORIAL_LIMIT
nb_merge_streams = True
# What a cell writes to stderr is a warning of this build.
nb_output_stderr = 'remove-warn'
nb_ipywidgets_js = {}       # the default is a script from the network

# One file, with its fonts: sphinx-mathjax-offline would copy all of MathJax, 24 MB, and take one that asks for more.
MATHJAX = 'tex-svg-full.js'
mathjax_path = 'mathjax/' + MATHJAX

autodoc_member_order = 'bysource'
# Else MXNet's docstrings would stand where a method has none.
autodoc_inherit_docstrings = False
# The sections Parameters say more than the hints do.
autodoc_typehints = 'none'
autosummary_generate = False
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


def outside_links(app, name, source):
    """Links to Markdown files outside this folder, which are no pages: as to any other file, a copy is made."""
    folder = Path(app.env.doc2path(name)).parent

    def link(match):
        target = (folder / match.group(1)).resolve()
        is_page = Path(app.srcdir) in target.parents
        return match.group() if is_page or not target.is_file() else '](path:%s)' % match.group(1)
    source[0] = re.sub(r'\]\(((?:\.\./)+[^)#\s]+\.md)\)', link, source[0])


def limit_tutorials(app, doctree):
    """A warning, that is an error with -W, if the notebook that was just executed took longer than it may."""
    facts = NbMetadataCollector.get_exec_data(app.env, app.env.docname)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = usage.ru_utime + usage.ru_stime
    seconds, app.env.bbb_seconds = total - app.env.bbb_seconds, total
    if facts:
        logger.info('%s: %.0f s of one core', app.env.docname, seconds)
    if facts and seconds > TUTORIAL_LIMIT:
        logger.warning('a tutorial must take at most %d s of one core (saw: %.0f s)', TUTORIAL_LIMIT, seconds,
                       location=app.env.docname)


def prepare(app, env, names):
    """Compile before the time of a tutorial is taken."""
    native.available()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    env.bbb_seconds = usage.ru_utime + usage.ru_stime


def link_notebook(app, page, template, context, doctree):
    """The way to the notebook itself, below the heading of the page that it makes."""
    name = context.get('sourcename') or ''
    if name.endswith('.ipynb'):
        link = '<p class="notebook"><a download href="%s">Download this page as a Jupyter notebook</a></p>'
        link %= context['pathto']('_sources/' + name, 1)
        context['body'] = context['body'].replace('</h1>', '</h1>' + link, 1)


def copy_mathjax(app, exception):
    if exception is None and app.builder.format == 'html':
        source, = find_spec('sphinx-mathjax-offline').submodule_search_locations
        target = Path(app.outdir, '_static', mathjax_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source, 'static', 'mathjax', MATHJAX), target)


def setup(app):
    app.connect('autodoc-process-docstring', gluon_sections, priority=400)      # napoleon's is 500
    app.connect('source-read', outside_links)
    app.connect('env-before-read-docs', prepare)
    app.connect('doctree-read', limit_tutorials)
    app.connect('html-page-context', link_notebook)
    app.connect('build-finished', copy_mathjax)
