# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet is imported with its own view of NumPy: most cases are a process of their own."""
import ast
import ctypes
import importlib
import inspect
import pickle
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import bbb_layers       # before mxnet, see bbb_layers/_mxnet/import_hook.py
import mxnet as mx
import numpy as np
import pytest
import subprocesses
from bbb_layers._mxnet import import_hook
from bbb_layers._mxnet.numpy_view import NUMPY_2
from mxnet import nd
from subprocesses import ROOT

#: From 1.24 on, NumPy lacks names without which MXNet cannot be imported.
TOO_NEW_FOR_MXNET = tuple(map(int, np.__version__.split('.')[:2])) >= (1, 24)
#: Makes the import of MXNet fail at its end, whatever NumPy is installed.
FAIL_ONCE = '''
import sys
class Fails:
    def find_spec(self, name, path=None, target=None):
        if name == 'mxnet.gluon.trainer':
            raise RuntimeError('this import fails')
fails = Fails()
sys.meta_path.insert(0, fails)
try:
    import mxnet
except (RuntimeError, AttributeError):
    pass
else:
    raise AssertionError('the import should have failed')
sys.meta_path.remove(fails)
assert any(name.startswith('mxnet.') for name in sys.modules)
'''
#: One training step, with a gradient that must be there.
TRAIN = '''
import numpy
from mxnet import autograd, gluon, nd
net = bbb_layers.BayesDense(numpy.int64(3), in_units=numpy.int64(2))
net.initialize()
net.hybridize()
loss_fn = bbb_layers.BBBLoss(net, num_train=4)
with autograd.record():
    loss = loss_fn(net(nd.ones((numpy.int64(4), 2))), nd.array([0, 1, 2, 0]))
loss.backward()
assert abs(net.weight.grad()).sum().asscalar() > 0
print('trained')
'''


def run(code, **kwargs):
    return subprocesses.run('-c', textwrap.dedent(code), check=False, **kwargs)


def script(folder, name, code):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return path


def passes(done, last_line='trained'):
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == last_line


def test_numpy_and_the_filters_of_warnings_stay_as_they_are():
    passes(run('''
        import warnings
        import numpy, numpy.testing
        # Modules that are imported below if they are installed, and that set names and filters of their own.
        for name in ('requests', 'scipy.sparse', 'scipy.special', 'numpy.lib.array_utils'):
            try:
                __import__(name)
            except ImportError:
                pass
        names, filters = dict(vars(numpy)), list(warnings.filters)
        modules = {name: dict(vars(getattr(numpy, name))) for name in ('random', 'linalg', 'lib')}
        import bbb_layers, mxnet
        import mxnet.test_utils
        assert vars(numpy).keys() == names.keys()
        assert all(value is names[name] for name, value in vars(numpy).items())
        for name, before in modules.items():
            assert set(vars(getattr(numpy, name))) == set(before)
        assert warnings.filters == filters
        if int(numpy.__version__[0]) >= 2:
            assert not hasattr(numpy, 'product') and not hasattr(numpy, 'PZERO') and numpy.bool is numpy.bool_
        print('trained')
        '''))


def test_only_mxnet_sees_the_view():
    view = mx.ndarray.ndarray.np
    assert view is not np and view is mx.numpy.multiarray._np and view is mx.recordio.np
    assert bbb_layers.training.optimizer.np is np
    assert view.bool is bool and view.__version__ == np.__version__ and view.sum is np.sum
    assert 'ndarray' in dir(view) and 'alltrue' in dir(view)
    assert mx.np.bool is bool
    # What NumPy still has is NumPy's own: MXNet's tables have the functions as keys.
    assert [name for name, value in vars(np).items() if getattr(view, name, None) is not value and name not in (
        '__getattr__', '__dir__', 'bool', 'core')] == []
    with pytest.raises(AttributeError, match="'no_such_name'"):
        view.no_such_name   # noqa: B018, reading is what is tested


def test_packages_with_a_similar_name_get_numpy_itself(tmp_path, monkeypatch):
    script(tmp_path, 'mxnet_like.py', 'import numpy\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module('mxnet_like').numpy is np
    del sys.modules['mxnet_like']


@pytest.mark.filterwarnings('ignore:.*invalid escape sequence')
def test_every_name_of_numpy_that_mxnet_reads_is_there():
    """All of MXNet's source, also what no test runs."""
    view, missing, found = mx.ndarray.ndarray.np, [], 0
    for path in sorted(Path(mx.__file__).parent.rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        names, others = {}, set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name == 'numpy' or alias.asname is None and alias.name.startswith('numpy.'):
                        names[alias.asname or 'numpy'] = view
            elif isinstance(node, ast.ImportFrom):      # such as "from . import numpy as np"
                others.update(alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.arg):
                others.add(node.arg)
        for node in ast.walk(tree):
            attributes = []
            while isinstance(node, ast.Attribute):
                attributes.append(node.attr)
                node = node.value
            if attributes and isinstance(node, ast.Name) and node.id in names and node.id not in others:
                value = view
                for attribute in reversed(attributes):
                    if not isinstance(value, type(np)) and not hasattr(value, attribute):
                        break       # an attribute of a result or of a class, not of a module
                    found += 1
                    if not hasattr(value, attribute):
                        missing.append(f'{path.name}: numpy.{".".join(reversed(attributes))}')
                        break
                    value = getattr(value, attribute)
    assert found > 1000
    assert not missing


@pytest.mark.parametrize('name, value', [
    ('bool', bool), ('int', int), ('float', float), ('object', object), ('PZERO', 0.), ('NZERO', -0.), ('PINF', np.inf),
    ('NINF', -np.inf), ('Inf', np.inf)])
def test_values_of_removed_names(name, value):
    found = getattr(mx.ndarray.ndarray.np, name)
    assert found == value
    if name == 'NZERO':
        assert np.signbit(found)


@pytest.mark.parametrize('name', ['NAN', 'NaN'])
def test_removed_names_of_nan(name):
    assert np.isnan(getattr(mx.ndarray.ndarray.np, name))


@pytest.mark.parametrize('name, argument, value', [
    ('alltrue', [True, False], False), ('sometrue', [True, False], True), ('product', [2., 3.], 6.),
    ('cumproduct', [2., 3.], [2., 6.]), ('round_', [1.4, 2.6], [1., 3.]), ('trapz', [1., 3.], 2.),
    ('msort', [[3., 1.], [2., 4.]], [[2., 1.], [3., 4.]]), ('row_stack', [[1.], [2.]], [[1.], [2.]])])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_removed_functions(name, argument, value):
    np.testing.assert_allclose(getattr(mx.ndarray.ndarray.np, name)(argument), value)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_in1d():
    assert mx.ndarray.ndarray.np.in1d([1, 2], [2, 3]).tolist() == [False, True]
    assert mx.ndarray.ndarray.np.in1d(ar1=[[1, 2], [3, 4]], ar2=[2, 3], invert=True).tolist() == [
        True, False, False, True]       # numpy.isin would keep the two axes


@pytest.mark.parametrize('old, new', [('product', 'prod'), ('sometrue', 'any'), ('alltrue', 'all'),
                                      ('round_', 'round')])
def test_removed_functions_are_no_second_keys_of_the_functions_that_stay(old, new):
    table = mx.numpy_dispatch_protocol._NUMPY_ARRAY_FUNCTION_DICT
    if NUMPY_2:
        function = getattr(mx.ndarray.ndarray.np, old)
        assert function is not getattr(np, new) and function.__name__ == old
    if old not in vars(np) and getattr(np, new) in table:
        assert table[getattr(np, new)] is getattr(mx.np, new)


@pytest.mark.parametrize('name', ['mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate'])
def test_functions_without_a_successor(name):
    if name in vars(np):
        pytest.skip(f'NumPy {np.__version__} still has numpy.{name}')
    with pytest.raises(NotImplementedError, match=rf'mxnet\.numpy\.{name} .* which NumPy has removed'):
        getattr(mx.numpy.fallback, name)(0.1, [1, 2])


def test_numpys_numbers_in_shapes():
    two, three = np.int64(2), np.int32(3)
    assert nd.zeros((two, three)).shape == (2, 3)
    assert nd.random.normal(shape=[two, three]).shape == (2, 3)
    assert nd.ones((2, 3, 1)).reshape((two, -1)).shape == (2, 3)
    assert mx.sym.zeros((two, three)).infer_shape()[1] == [(2, 3)]
    assert mx.sym.var('x', shape=(two, three)).infer_shape()[1] == [(2, 3)]
    assert mx.sym.slice(mx.sym.ones((4, 4)), begin=(two, np.int64(0)), end=(np.int64(4), three)).infer_shape()[1] == [
        (2, 3)]


def test_an_initializer_that_computes_a_shape():
    net = bbb_layers.BayesDense(6, in_units=4, weight_initializer=mx.init.Orthogonal(scale=1.))
    net.initialize()
    weight = net.weight.data().asnumpy()
    np.testing.assert_allclose(weight.T @ weight, np.eye(4), atol=1e-5)


def test_numpys_numbers_in_the_shape_of_a_data_iterator(tmp_path):
    np.savetxt(tmp_path / 'data.csv', np.arange(12.).reshape(4, 3), delimiter=',')
    batches = mx.io.CSVIter(data_csv=str(tmp_path / 'data.csv'), data_shape=(np.int64(3),), batch_size=2)
    assert batches.next().data[0].asnumpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_text_for_cpp_code_is_plain_text():
    text = mx.symbol.symbol.str if NUMPY_2 else str
    assert type(text((np.int64(2),))) is str
    assert text((1, [np.float32(0.5), (np.bool_(True),)])) == '(1, [0.5, (True,)])'
    assert text(np.int64(2)) == '2' and text(None) == 'None' and text() == '' and text(b'x', 'ascii') == 'x'
    assert isinstance('x', text) and not isinstance(b'x', text) and issubclass(str, text) and not issubclass(int, text)


@pytest.mark.skipif(not NUMPY_2, reason='NumPy below 2 lets integers wrap around')
@pytest.mark.parametrize('value, dtype', [(300, 'uint8'), (-1, np.uint8), (2 ** 40, 'int32')])
def test_a_number_out_of_range_is_told(value, dtype):
    with pytest.raises(OverflowError, match=rf'^source_array must have .* \(saw: .*{value}.*{np.dtype(dtype).name}'):
        nd.array([value], dtype=dtype)
    with pytest.raises(OverflowError, match=rf'^object must have .* \(saw: .*{value}.*{np.dtype(dtype).name}'):
        mx.np.array([value], dtype=dtype)
    with pytest.raises(OverflowError, match=rf'^values must have numbers .* \(saw: .*{value}.*{np.dtype(dtype).name}'):
        nd.sparse.csr_matrix(([value], [0], [0, 1]), shape=(1, 2), dtype=dtype)
    x = nd.array([7, 8], dtype=dtype)
    with pytest.raises(OverflowError, match=rf'^value must have numbers .* \(saw: .*{value}.*{np.dtype(dtype).name}'):
        x[0:1] = [value]
    assert x.asnumpy().tolist() == [7, 8]


def test_a_number_beyond_all_floats_is_told():
    with pytest.raises(OverflowError, match='^source_array must have numbers within the range .*too large'):
        nd.array([10 ** 400])
    with pytest.raises(OverflowError, match='^object must have numbers within the range .*too large'):
        mx.np.array([10 ** 400])


def test_what_is_no_array_has_mxnets_own_error():
    with pytest.raises(TypeError, match='source_array must be array like object'):
        nd.array(['x'])
    with pytest.raises(TypeError, match='does not support assignment with non-array-like object'):
        nd.zeros((2,))[0:1] = ['x']


def test_arrays_of_one_number_for_cpp_code():
    """MXNet's quantization passes its thresholds in this form."""
    assert list(mx.base.c_array(ctypes.c_float, [np.array([0.5]), 2, np.float32(3)])) == [0.5, 2, 3]
    assert mx.contrib.quantization.c_array is mx.base.c_array


def test_arrays_on_another_device():
    assert nd.array([7], ctx=mx.cpu(1)).context == mx.cpu(1)


def test_results_that_are_named_tuples():
    matrix = np.array([[2., 1.], [1., 3.]])
    result = np.linalg.qr(mx.np.array(matrix, ctx=mx.cpu(1)))
    assert type(result) is type(np.linalg.qr(matrix))       # from NumPy 1.25 on, with the names Q and R
    q, r = result
    assert isinstance(q, mx.np.ndarray) and isinstance(r, mx.np.ndarray)
    if type(result) is not tuple:       # of a plain tuple, MXNet itself forgets the device
        assert q.ctx == r.ctx == mx.cpu(1)
    np.testing.assert_allclose((q @ r).asnumpy(), matrix, rtol=1e-5)


def test_a_record_with_several_labels():
    header = mx.recordio.IRHeader(0, [1., 2., 3.], 7, 0)
    unpacked, content = mx.recordio.unpack(mx.recordio.pack(header, b'content'))
    assert unpacked.label.tolist() == [1., 2., 3.] and unpacked.id == 7 and content == b'content'
    assert 'tobytes' in mx.recordio.pack_img.__code__.co_names      # it runs with OpenCV only


@pytest.mark.parametrize('dtype, value', [('float16', 1.099609375), ('float32', 1.10000002384185791015625)])
def test_metrics_sum_in_float64(dtype, value):
    metrics = [mx.metric.Loss(), mx.metric.CustomMetric(lambda label, pred: pred.mean()), mx.metric.MAE()]
    pred, label = nd.full((1,), 1.1, dtype=dtype), nd.zeros((1,), dtype=dtype)
    for _ in range(3000):       # many more than float16 can count, and enough to lose digits of float32
        for metric in metrics:
            metric.update([label], [pred])
    for metric in metrics:
        assert metric.get()[1] == pytest.approx(value, rel=1e-12)
        assert metric.get_global()[1] == pytest.approx(value, rel=1e-12)


def test_a_metric_counts_in_float64():
    metric = mx.metric.Perplexity(ignore_label=0)
    metric.num_inst = 0
    for count in (2 ** 24, 1, 1, 1):        # as Perplexity does it, whose counts of a batch are float32
        metric.num_inst += np.float32(count)
    assert metric.num_inst == 2 ** 24 + 3


def test_mxnet_first_and_failed():
    passes(run(FAIL_ONCE + 'import bbb_layers\n' + TRAIN))


@pytest.mark.skipif(not TOO_NEW_FOR_MXNET, reason='MXNet can be imported beside this NumPy without help')
def test_mxnet_first_and_failed_for_want_of_a_name():
    passes(run('try:\n    import mxnet\nexcept AttributeError:\n    pass\nelse:\n    raise AssertionError\n'
               'import bbb_layers\n' + TRAIN))


@pytest.mark.skipif(NUMPY_2, reason='MXNet cannot be imported beside NumPy 2 without help')
def test_mxnet_first_and_imported():
    help_it = 'import numpy\nnumpy.bool = bool\n' if TOO_NEW_FOR_MXNET else ''
    code = TRAIN.replace("print('trained')", "from bbb_layers._mxnet import import_hook\n"
                         "assert not import_hook.installed() and mxnet.np.bool is bool\nprint('trained')")
    passes(run(help_it + 'import mxnet\nimport bbb_layers\n' + code))


def test_an_array_that_is_unpickled_before_the_import(tmp_path):
    (tmp_path / 'array').write_bytes(pickle.dumps(nd.array([1., 2.])))
    passes(run(f'''
        import pickle
        content = open({str(tmp_path / 'array')!r}, 'rb').read()
        try:
            pickle.loads(content)
            assert not {TOO_NEW_FOR_MXNET}
        except AttributeError:
            assert {TOO_NEW_FOR_MXNET}
        import bbb_layers
        assert pickle.loads(content).asnumpy().tolist() == [1., 2.]
        print('trained')
        '''))


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_of_a_data_loader(method, tmp_path):
    path = script(tmp_path, 'loads.py', f'''
        import multiprocessing
        import bbb_layers
        import numpy
        from mxnet import gluon, nd

        def main():
            multiprocessing.set_start_method({method!r})
            data = gluon.data.ArrayDataset(numpy.arange(8, dtype='float32').reshape(4, 2), numpy.arange(4))
            batches = list(gluon.data.DataLoader(data, batch_size=2, num_workers=1))
            assert [batch[0].asnumpy().tolist() for batch in batches] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
            print('trained')

        if __name__ == '__main__':
            main()
        ''')
    passes(subprocesses.run(path, check=False))


def test_a_module_that_is_run_as_main(tmp_path):
    package = tmp_path / 'a_package'
    package.mkdir()
    script(package, '__init__.py', '')
    script(package, '__main__.py', 'import bbb_layers\n' + TRAIN)
    passes(subprocesses.run('-m', 'a_package', check=False, cwd=tmp_path))


def test_a_module_of_mxnet_that_is_run_as_main():
    passes(run('import runpy\nimport bbb_layers\nnames = runpy.run_module("mxnet.libinfo")\n'
               'assert names["__version__"].startswith("1.9.1")\nprint("trained")'))


def test_beside_pytests_rewriting_of_assertions(tmp_path):
    script(tmp_path, 'conftest.py', 'import pytest\npytest.register_assert_rewrite("mxnet.test_utils")\n'
                                    'import bbb_layers\n')
    script(tmp_path, 'test_it.py', '''
        import mxnet.test_utils
        import numpy
        def test_it():
            assert mxnet.test_utils.np is not numpy and mxnet.test_utils.np.int is int
            mxnet.test_utils.assert_almost_equal(numpy.ones(2), mxnet.nd.ones(2))
        ''')
    done = subprocesses.run('-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--rootdir', tmp_path, tmp_path,
                            check=False)
    assert done.returncode == 0, done.stdout


def test_a_module_that_is_loaded_again():
    passes(run('''
        import importlib, sys
        import bbb_layers, mxnet, numpy
        importlib.reload(mxnet.recordio)
        header = mxnet.recordio.IRHeader(0, [1., 2.], 7, 0)
        assert mxnet.recordio.unpack(mxnet.recordio.pack(header, b'x'))[0].label.tolist() == [1., 2.]
        assert mxnet.recordio.np is not numpy
        importlib.reload(bbb_layers)
        importlib.reload(bbb_layers._mxnet.import_hook)
        assert sum(type(finder).__module__.startswith('bbb_layers') for finder in sys.meta_path) == 1
        print('trained')
        '''))


def test_loaders_stay_what_they_are():
    assert type(mx.__spec__.loader) is type(bbb_layers.__spec__.loader)
    assert 'class NDArray(' in inspect.getsource(mx.nd.NDArray)
    assert pkgutil.get_data('mxnet', 'libinfo.py').startswith(b'# Licensed to the Apache')
    assert mx.nd.ndarray.array.__doc__.startswith('Creates an array')


def test_what_there_is_to_repair_is_still_there():
    """If MXNet's code were another, the repairs would do nothing, and nobody would know."""
    assert import_hook._REPAIRS.keys() - {'mxnet.metric'} == {
        'mxnet.base', 'mxnet.ndarray.ndarray', 'mxnet.ndarray.sparse', 'mxnet.numpy.multiarray', 'mxnet.recordio'}
    assert ('mxnet.metric' in import_hook._REPAIRS) == NUMPY_2
    for name, text in [('mxnet.base', 'out[:] = values'),
                       ('mxnet.ndarray.ndarray', "raise TypeError('source_array must be array like object')"),
                       ('mxnet.ndarray.ndarray', 'does not support assignment with non-array-like '),
                       ('mxnet.ndarray.sparse', "raise TypeError('values must be array like object')"),
                       ('mxnet.numpy.multiarray', 'return object.__class__(tmp)'),
                       ('mxnet.numpy.multiarray', "raise TypeError('{}'.format(str(e)))"),
                       ('mxnet.recordio', '.tostring()'),
                       ('mxnet.metric', 'self.sum_metric += loss'),
                       ('mxnet.symbol.symbol', "attr['__shape__'] = str(shape)"),
                       *[(f'mxnet._ctypes.{each}', '[str(') for each in ('ndarray', 'symbol')],
                       ('mxnet.io.io', 'param_vals.append(str(val))')]:
        assert text in importlib.import_module(name).__loader__.get_source(name)


@pytest.mark.parametrize('missing, words', [
    ('mxnet', r'bbb_layers needs MXNet 1\.9\.1, which is not installed: pip install --no-deps mxnet==1\.9\.1, and pip '
              r'install \. in '),
    ('numpy', r'bbb_layers needs NumPy, which is not installed: pip install numpy')])
def test_names_the_command_for_what_is_not_installed(missing, words):
    done = run(f'''
        import importlib.util, sys
        find_spec = importlib.util.find_spec
        if {missing!r} == 'numpy':
            sys.modules['numpy'] = None
        else:
            importlib.util.find_spec = lambda name, *args: None if name == 'mxnet' else find_spec(name, *args)
        try:
            import bbb_layers
        except ImportError as error:
            print(error)
        ''')
    assert done.returncode == 0 and re.match(words, done.stdout)


@pytest.mark.parametrize('version, good', [((3, 7), False), ((3, 8), True), ((3, 13), True), ((3, 14), False)])
def test_setup_refuses_other_pythons_by_name_and_reason(version, good):
    if not (ROOT / 'bbb_layers').exists():
        pytest.skip('setup.py reads the version of the package beside it, and these tests run on an installed one')
    # What setup() does then is not the question, and setuptools may be missing.
    code = ('import sys, types; nothing = lambda **_: None; '
            'sys.modules["setuptools"] = types.SimpleNamespace(setup=nothing, find_packages=nothing); '
            f'sys.version_info = {version!r} + (0,); '
            'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})')
    done = subprocesses.run('-W', 'ignore', '-c', code, check=False, cwd=ROOT)
    assert (done.returncode == 0) == good
    assert good or ('this is %d.%d' % version in done.stderr and 'MXNet 1.9.1' in done.stderr)
