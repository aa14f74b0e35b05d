# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""README is one page that is right, also where an index of packages shows it. test_pages.py runs its Python."""
import json
import re
import runpy
import sys
import types

import pytest
from subprocesses import EXAMPLES, ROOT

import bbb_layers

README = (ROOT / 'README.md').read_text(encoding='utf-8')
BENCHMARK = EXAMPLES / 'benchmark'
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)')


def test_it_is_one_page():
    assert len(README.splitlines()) <= 150


def test_what_it_names_exists():
    for page in (README, (ROOT / 'docs' / 'start.md').read_text(encoding='utf-8')):
        targets = re.findall(r'(?:^|`)make (\w+)', page, re.MULTILINE)
        assert targets
        for target in targets:
            assert re.search(f'^{target}:', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE), target
    for name in bbb_layers.__all__:
        assert hasattr(bbb_layers, name), name


@pytest.mark.parametrize('repository', ['', 'https://host.example/owner/name', 'https://host.example/owner/name/'])
def test_an_index_of_packages_can_show_it(repository, monkeypatch):
    """Whole addresses where the repository's is known, else no link and no picture that leads nowhere."""
    made = {}
    monkeypatch.setitem(sys.modules, 'setuptools', types.SimpleNamespace(
        setup=made.update, find_packages=lambda **kwargs: []))
    monkeypatch.setenv('REPOSITORY_URL', repository)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / 'setup.py'))
    text = made['long_description']
    assert made['long_description_content_type'] == 'text/markdown'
    ours = [link for link in LINK.findall(README) if not link[2].startswith(('https://', '#'))]
    assert any(picture for picture, _, _ in ours) and any(not picture for picture, _, _ in ours)
    shown = {target for _, _, target in LINK.findall(text)}
    assert all(target.startswith(('https://', '#')) for target in shown)
    for picture, words, target in ours:
        if repository:
            folder = f'{repository.rstrip("/")}/{"raw" if picture else "blob"}/v{bbb_layers.__version__}'
            assert f'{picture}[{words}]({folder}/{target})' in text
        else:
            assert words in text and target not in shown
    assert LINK.sub(r'\2', text) == LINK.sub(r'\2', README)
    # Nor may README have links that are written in a way that setup.py does not see.
    assert not re.findall(r'\]\((?!https://|#).*|^ *\[[^\]]+\]:.*|<(?:a|img)\b.*', text, re.MULTILINE)


def test_its_pictures_are_images():
    pictures = [target for picture, _, target in LINK.findall(README) if picture]
    assert pictures
    for target in pictures:
        assert (ROOT / target).read_bytes().startswith(b'\x89PNG'), target


def test_it_shows_the_measurements(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import peers_report
    results = json.loads((BENCHMARK / 'RESULTS.json').read_text(encoding='utf-8'))
    step, targets = peers_report.summary(results)
    assert step in README
    performance = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    assert step in performance and targets in performance


def test_every_example_has_its_place_in_the_gallery():
    text = (ROOT / 'examples' / 'README.md').read_text(encoding='utf-8')
    helpers = {'example.py', 'mnist_arguments.py', 'mnist_data.py'}
    for path in (ROOT / 'examples').glob('*.py'):
        assert path.name in helpers or f']({path.name})' in text, path.name
    for path in (ROOT / 'examples' / 'images').glob('*.png'):
        assert f'(images/{path.name})' in text, path.name
