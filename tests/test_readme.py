# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""README's Python runs as it stands, from top to bottom."""
import importlib.util
import re

import numpy as np
import pytest
from mxnet import nd
from subprocesses import ROOT

import bbb_layers
from bbb_layers import native

README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 7
    names, accuracies = {}, []
    for snippet in snippets:
        if importlib.util.find_spec('onnx') is None:      # on CPython 3.12 there is none that MXNet can use
            snippet = re.sub(r'^mx\.onnx.*\n', '', snippet, flags=re.MULTILINE)
        print(snippet)
        exec(compile(snippet, 'README.md', 'exec'), names)
        if snippet is snippets[0] and native.available():     # weight and bias of three layers
            assert names['net']._kl_tap.graph[1].tojson().count('"op": "_bbb_layers_draw"') == 6
        if snippet is snippets[0] or 'estimator.fit' in snippet:    # an epoch each
            images, labels = (nd.array(part) for part in names['dataset'][:])
            accuracies.append((names['net'](images).argmax(axis=1) == labels).mean().asscalar())
    net = names['net']
    assert np.isfinite(names['loss'].asnumpy()).all()
    assert len(accuracies) == 2 and 0.3 < accuracies[0] < accuracies[1]
    assert net[0].weight.grad_req == 'write' and net[0].weight_rho.lr_mult == 0.1


def test_what_it_names_exists():
    for target in re.findall(r'(?:^|`)make (\w+)', README, re.MULTILINE):
        assert re.search(f'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE), target
    for name in bbb_layers.__all__:
        assert hasattr(bbb_layers, name), name


@pytest.mark.parametrize('page', ['README.md', 'examples/README.md', 'examples/reproduce/RESULTS.md'])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    links = [link.split('#')[0] for link in re.findall(r'\]\(([^)\s]+)\)', text)]
    assert links
    for link in links:
        assert link.startswith('https://') or not link or ((ROOT / page).parent / link).exists(), link


def test_every_example_has_its_place_in_the_gallery():
    text = (ROOT / 'examples' / 'README.md').read_text(encoding='utf-8')
    helpers = {'example.py', 'mnist_arguments.py', 'mnist_data.py'}
    for path in (ROOT / 'examples').glob('*.py'):
        assert path.name in helpers or f']({path.name})' in text, path.name
    for path in (ROOT / 'examples' / 'images').glob('*.png'):
        assert f'(images/{path.name})' in text, path.name
