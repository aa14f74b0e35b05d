# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import functools
import gc
import multiprocessing
import pickle
import threading
import weakref

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from trainers import SMALL, assert_same, backward, make_params, make_trainer, numbers, train

from bbb_layers import BayesDense, BBBLoss, native
from bbb_layers.optimizer import FusedAdam
from bbb_layers.training import optimizer as optimizer_module

SHAPES = [(1,), (1, 1), (15,), (16,), (17,), (31,), (32,), (33,), (3, 5), (2, 3, 4, 5), (4095,), (4096,), (4097,),
          (1000, 1000)]


@pytest.fixture
def calls(compiled, monkeypatch):
    """How many Parameters each call of the native operator had, and what it returned."""
    made = []

    def operator(F, name):
        function = native_operator(F, name)
        if name != '_bbb_layers_adam':
            return function

        def counted(*inputs, **attributes):
            made.append((attributes['parameters'], function(*inputs, **attributes)))
            return made[-1][1]
        return counted

    native_operator = native.operator
    monkeypatch.setattr(native, 'operator', operator)
    return made


def sizes(calls):
    return [call[0] for call in calls]


def assert_equals_adam(shapes, multipliers=False, make=make_params, **kwargs):
    results = []
    for name in ('adam', 'fusedadam'):
        scheduler = kwargs.pop('scheduler', None) if name == 'fusedadam' else kwargs.get('scheduler')
        options = {key: value for key, value in kwargs.items() if key != 'scheduler'}
        if scheduler is not None:
            options['lr_scheduler'] = scheduler()
        params = make(shapes)
        if multipliers:
            for i, param in enumerate(params):
                param.lr_mult, param.wd_mult = 0.1 * i, 2. / (i + 1)
        before = numbers(params)
        trainer = train(name, params, **options)
        results.append(numbers(params, trainer))
        assert any((a != b).any() for a, b in zip(before, results[-1]))
    assert_same(*results)
    return trainer


@pytest.mark.parametrize('options', [
    {},
    {'learning_rate': 0.03, 'beta1': 0.8, 'beta2': 0.95, 'epsilon': 1e-3},
    {'wd': 0.01},
    {'wd': 0.01, 'multipliers': True},
    {'clip_gradient': 0.5, 'wd': 0.1, 'rescale_grad': 0.7},
    {'clip_gradient': 0.},
    {'begin_num_update': 100},
    {'learning_rate': 0.1, 'scheduler': lambda: mx.lr_scheduler.FactorScheduler(4, 0.5)},
    {'scheduler': lambda: mx.lr_scheduler.CosineScheduler(15, 0.1, 0.001, warmup_steps=5), 'begin_num_update': 3},
], ids=lambda options: ', '.join(options) or 'defaults')
def test_equals_adam(options, calls):
    trainer = assert_equals_adam(SHAPES if len(options) < 2 else SMALL, **options)
    assert isinstance(trainer.optimizer, FusedAdam) and isinstance(trainer.optimizer, mx.optimizer.Adam)
    assert sizes(calls) == 20 * [len(trainer._params)]


def test_learning_rate_can_be_set(calls):
    results = []
    for name in ('adam', 'fusedadam'):
        params = make_params(SMALL)
        trainer = train(name, params, steps=2)
        trainer.set_learning_rate(0.2)
        results.append(numbers(params, train(name, params, steps=2, first=2, trainer=trainer)))
    assert_same(*results)
    assert sizes(calls) == 4 * [3]


def test_counts_that_differ(calls):
    # Parameter 0 has a gradient in every third step: its bias correction lags behind, and the schedule sees the counts
    # as far as Adam has got.
    def which(step):
        return {0, 1, 2} if step % 3 == 0 else {1, 2} if step % 3 == 1 else {2}

    def schedule():
        return mx.lr_scheduler.FactorScheduler(2, 0.7)

    trainer = assert_equals_adam(SMALL, which=which, scheduler=schedule, learning_rate=0.1)
    assert trainer.optimizer._index_update_count == {0: 7, 1: 14, 2: 20}
    assert sorted(set(sizes(calls))) == [1, 2, 3]


@pytest.mark.parametrize('grad_reqs', [('add', 'write', 'add'), ('null', 'write', 'add')])
def test_grad_req(grad_reqs, calls):
    def make(shapes):
        params = make_params(shapes)
        for param, grad_req in zip(params, grad_reqs):
            param.grad_req = grad_req
        return params

    assert_equals_adam(SMALL, make=make)
    assert sizes(calls) == 20 * [sum(grad_req != 'null' for grad_req in grad_reqs)]


@pytest.mark.parametrize('kvstore, update_on_kvstore', [
    ('local', True), ('device', True), ('local', False), ('device', False), (None, False)])
@pytest.mark.parametrize('contexts', [1, 2])
def test_contexts_and_kvstores(kvstore, update_on_kvstore, contexts, calls):
    def make(shapes):
        return make_params(shapes, ctx=[mx.cpu(i) for i in range(contexts)])

    assert_equals_adam(SHAPES[:-1], make=make, kvstore=kvstore, update_on_kvstore=update_on_kvstore, wd=0.01)
    count = len(SHAPES) - 1
    assert sizes(calls) == 20 * (count * [1] if update_on_kvstore else contexts * [count])


def test_float64(calls):
    assert_equals_adam(SMALL, make=lambda shapes: make_params(shapes, dtype='float64'), wd=0.1, clip_gradient=0.3)
    assert calls == []


def test_float16(calls):
    with pytest.warns(UserWarning, match='Accumulating with float16'):
        assert_equals_adam(SMALL, make=lambda shapes: make_params(shapes, dtype='float16'), epsilon=1e-3)
    assert calls == []


def test_multi_precision(calls):
    # The copies in float32 are updated one by one.
    assert_equals_adam(SMALL, make=lambda shapes: make_params(shapes, dtype='float16'), multi_precision=True, wd=0.1)
    assert sizes(calls) == 60 * [1]


def test_several_dtypes(calls):
    def make(shapes):
        return make_params(shapes) + make_params(shapes, dtype='float64') + make_params(shapes, dtype='float16')

    assert_equals_adam(SMALL, make=make, multi_precision=True, learning_rate=0.1,
                       scheduler=lambda: mx.lr_scheduler.FactorScheduler(3, 0.7))
    assert sizes(calls) == 20 * [3, 1, 1, 1]


@pytest.mark.parametrize('lazy_update', [True, False])
def test_sparse_gradients(lazy_update, calls):
    results = []
    for name in ('adam', 'fusedadam'):
        net = gluon.nn.Sequential()
        net.add(gluon.nn.Embedding(20, 4, sparse_grad=True), gluon.nn.Dense(3, in_units=4, flatten=False))
        net.initialize()
        for i, param in enumerate(net.collect_params().values()):
            param.set_data(nd.array(np.random.RandomState(i).normal(size=param.shape)))
        params = list(net.collect_params().values())
        trainer = gluon.Trainer(params, name, {'lazy_update': lazy_update, 'learning_rate': 0.1})
        for step in range(10):
            with autograd.record():
                loss = net(nd.array([step, 3, 19])).square().sum()
            loss.backward()
            trainer.step(1)
        results.append(numbers(params, trainer))
    assert_same(*results)
    assert sizes(calls) == 10 * [2]


@pytest.mark.parametrize('build, shape', [
    (lambda: gluon.nn.Conv2D(32, 3, in_channels=32), (4, 32, 8, 8)),
    (lambda: gluon.nn.Conv2DTranspose(32, 3, in_channels=32), (4, 32, 8, 8)),
    (lambda: gluon.nn.Dense(512, in_units=512), (128, 512))], ids=['conv', 'transposed', 'dense'])
@pytest.mark.parametrize('hybridize', [False, True])
def test_weights_in_a_layout_of_onednn(build, shape, hybridize, calls):
    # A forward in predict mode leaves the weights in a layout of oneDNN's, and with it what a library's operator writes
    # into them is lost, if it does not look.
    results = []
    for name in ('adam', 'fusedadam'):
        net = build()
        net.initialize()
        net.weight.set_data(nd.array(np.random.RandomState(0).normal(size=net.weight.shape)))
        if hybridize:
            net.hybridize(static_alloc=True, static_shape=True)
        params = list(net.collect_params().values())
        data = nd.array(np.random.RandomState(1).normal(size=shape))
        trainer = gluon.Trainer(params, name, {'learning_rate': 0.01})
        outputs = []
        for _ in range(4):
            with autograd.record():
                loss = net(data).square().mean()
            outputs.append(net(data).asnumpy())
            nd.waitall()
            loss.backward()
            trainer.step(1)
        results.append(outputs + numbers(params, trainer))
    assert all((a != b).any() for a, b in zip(outputs, outputs[1:]))
    assert_same(*results)
    assert sizes(calls) == 4 * [2]


def test_no_forward_comes_between_the_two_operators(compiled, monkeypatch, request):
    """Another thread runs the network while FusedAdam is between its operators, and still finds the old weights.

    An array in a reference cycle waits there to be freed, and Python searches for cycles as often as it can. MXNet's
    engine would run the first operator before it frees the array.
    """
    class Cycle:
        def __init__(self, array):
            self.array, self.cycle = array, self

    def run():
        outputs.append(net(data).asnumpy())

    def leave_garbage():
        collected.append(weakref.ref(Cycle(spare.pop())))

    def operator(F, name):
        function = native_operator(F, name)
        if name != '_bbb_layers_adam':
            return function

        def followed_by_a_forward(*inputs, **attributes):
            result = function(*inputs, **attributes)
            leave_garbage()
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            return result
        return followed_by_a_forward

    native_operator = native.operator
    monkeypatch.setattr(native, 'operator', operator)
    request.addfinalizer(functools.partial(gc.set_threshold, *gc.get_threshold()))
    gc.set_threshold(1)
    data, results = nd.array(np.random.RandomState(1).normal(size=(128, 512))), []
    spare, collected = [nd.ones(1) for _ in range(4)], []
    for name in ('adam', 'fusedadam'):
        outputs = []
        net = gluon.nn.Dense(512, in_units=512)
        net.initialize()
        net.weight.set_data(nd.array(np.random.RandomState(0).normal(size=net.weight.shape)))
        trainer = gluon.Trainer(net.collect_params(), name, {'learning_rate': 0.01})
        for _ in range(4):
            with autograd.record():
                loss = net(data).square().mean()
            loss.backward()
            if name == 'adam':
                run()
            trainer.step(1)
            nd.waitall()
        results.append(outputs + numbers(net.collect_params().values(), trainer))
    assert len(outputs) == 4 and all((a != b).any() for a, b in zip(outputs, outputs[1:]))
    assert_same(*results)
    assert gc.isenabled() and len(collected) == 4
    gc.collect()
    assert all(reference() is None for reference in collected)


@pytest.mark.parametrize('clip_gradient', [None, 0.5])
def test_not_a_number(clip_gradient, calls):
    results = []
    for name in ('adam', 'fusedadam'):
        params = make_params([(40,), (2, 3)])
        trainer = gluon.Trainer(params, name, {'clip_gradient': clip_gradient})
        for step in range(3):
            backward(params, step)
            grad = params[0].grad()
            grad[:5] = nd.array([np.nan, np.inf, -np.inf, 3e38, 1e-42])
            trainer.step(1)
        results.append(numbers(params, trainer))
    weight = results[1][0]
    assert np.isnan(weight[0]) and np.isfinite(weight[5:]).all() and np.isfinite(results[1][1]).all()
    assert np.isnan(weight[1]) == (clip_gradient is None)
    for a, b in zip(*results):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert_same(*results)
    assert len(calls) == 3


def test_a_thousand_parameters(calls):
    assert_equals_adam([(i % 13 + 1, 3) for i in range(1000)], steps=3, wd=0.1)
    assert sizes(calls) == 3 * [1000]


def test_zero_size_and_scalars(calls):
    with mx.util.np_shape(True):
        results = []
        for kind in (mx.optimizer.Adam, FusedAdam):
            optimizer, shapes = kind(), [(0, 3), (), (4,), (0,), (1, 1)]
            weights, grads = [nd.ones(shape) for shape in shapes], [2 * nd.ones(shape) for shape in shapes]
            states = [optimizer.create_state(i, weight) for i, weight in enumerate(weights)]
            for _ in range(3):
                if kind is FusedAdam:
                    optimizer.update(list(range(5)), weights, grads, states)
                else:
                    for each in zip(range(5), weights, grads, states):
                        optimizer.update(*each)
            results.append([weight.asnumpy() for weight in weights])
    assert [array.shape for array in results[1]] == shapes and (results[1][1] < 1).all()
    assert_same(*results)
    assert sizes(calls) == 3 * [3]


def test_numpy_arrays(calls):
    mx.npx.set_np()
    try:
        results = []
        for name in ('adam', 'fusedadam'):
            params = [gluon.Parameter('weight', shape=shape, init='ones') for shape in [(1,), (3, 4)]]
            for param in params:
                param.initialize()
            trainer = gluon.Trainer(params, name)
            for _ in range(3):
                with autograd.record():
                    loss = sum((param.data() ** 2).sum() for param in params)
                loss.backward()
                trainer.step(1)
            results.append([param.data().asnumpy() for param in params])
        assert (results[0][0] < 1).all()
        assert_same(*results)
    finally:
        mx.npx.reset_np()
    assert sizes(calls) == 3 * [2]


# MXNet's kvstore does not close the file.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('continued', ['fusedadam', 'adam'])
@pytest.mark.parametrize('update_on_kvstore', [True, False])
def test_saved_states(continued, update_on_kvstore, tmp_path, calls):
    options = {'wd': 0.01, 'kvstore': 'local', 'update_on_kvstore': update_on_kvstore}
    reference = make_params(SMALL)
    train('adam', reference, **options)
    params = make_params(SMALL)
    train('fusedadam', params, steps=10, **options).save_states(str(tmp_path / 'states'))
    trainer = make_trainer(continued, params, 'local', update_on_kvstore, {})
    trainer.load_states(str(tmp_path / 'states'))
    train(continued, params, steps=10, first=10, trainer=trainer)
    assert isinstance(trainer.optimizer, FusedAdam)     # the file brings it along
    assert_same(numbers(params), numbers(reference))
    assert sum(sizes(calls)) == 20 * len(SMALL)


def test_states_of_adam_bring_adam_along(tmp_path):
    params = make_params(SMALL)
    train('adam', params, steps=1).save_states(str(tmp_path / 'states'))
    trainer = gluon.Trainer(params, 'fusedadam')
    trainer.load_states(str(tmp_path / 'states'))
    assert type(trainer.optimizer) is mx.optimizer.Adam
    with pytest.raises(AssertionError):
        train('fusedadam', params, steps=1, trainer=trainer)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
                         ids=['deepcopy', 'pickle'])
def test_copies_of_the_optimizer(duplicate, calls):
    results = []
    for name in ('adam', 'fusedadam'):
        params = make_params(SMALL)
        trainer = train(name, params, steps=5, wd=0.1, clip_gradient=1.)
        optimizer = duplicate(trainer.optimizer)
        assert optimizer._index_update_count == {0: 5, 1: 5, 2: 5}
        results.append(numbers(params, train(name, params, first=5, trainer=gluon.Trainer(params, optimizer))))
    assert_same(*results)
    assert sizes(calls) == 25 * [3]


def test_other_arrays_than_before(calls):
    # The optimizer remembers how it sorted the arrays out, and must not go on with old ones.
    results = []
    for name in ('adam', 'fusedadam'):
        params = make_params(SMALL)
        trainer = train(name, params, steps=2)
        params[1].grad_req = 'null'
        params[1].grad_req = 'write'    # a new gradient
        train(name, params, steps=2, first=2, trainer=trainer)
        params[0].cast('float64')
        params[0].cast('float32')
        results.append(numbers(params, train(name, params, steps=2, first=4, trainer=trainer)))
    assert_same(*results)
    assert len(trainer.optimizer._groups) <= 3 and sizes(calls) == 6 * [3]


def test_arrays_that_come_again_are_not_sorted_out_again(calls, monkeypatch):
    made, group = [], optimizer_module._Group
    monkeypatch.setattr(optimizer_module, '_Group', lambda *arrays: made.append(arrays) or group(*arrays))
    train('fusedadam', make_params(SMALL), steps=3)
    assert len(made) == 1 and sizes(calls) == 3 * [len(SMALL)]


def test_groups_are_forgotten(calls, monkeypatch):
    monkeypatch.setattr(optimizer_module, '_MOST_GROUPS', 4)
    optimizer = FusedAdam()
    for _ in range(9):
        arrays = [nd.ones((2,)) for _ in range(2)]
        states = [optimizer.create_state(j, arrays[j]) for j in range(2)]
        optimizer.update([0, 1], arrays, [nd.ones((2,))] * 2, states)
        assert 1 <= len(optimizer._groups) <= 4
    assert sizes(calls) == 9 * [2]


def test_the_same_weight_twice(calls):
    results = []
    for kind in (mx.optimizer.Adam, FusedAdam):
        optimizer = kind(learning_rate=0.1)
        weight, state = nd.ones((100, 1000)), (nd.zeros((100, 1000)), nd.zeros((100, 1000)))
        arguments = [0, 1], [weight, weight], [nd.ones((100, 1000)), -2 * nd.ones((100, 1000))], [state, state]
        if kind is FusedAdam:
            optimizer.update(*arguments)
        else:
            for each in zip(*arguments):
                optimizer.update(*each)
        results.append([array.asnumpy() for array in (weight,) + state])
    assert_same(*results)
    assert sizes(calls) == [2]


@pytest.mark.parametrize('kind', [mx.optimizer.Adam, FusedAdam])
def test_arrays_that_do_not_fit(kind):
    weight, grad = nd.ones((3, 4)), nd.ones((3, 4))
    optimizer = kind()
    with pytest.raises(mx.MXNetError, match='Incompatible attr'):
        optimizer.update(0, weight, grad, (nd.zeros((2, 4)), nd.zeros((3, 4))))
    with pytest.raises(mx.MXNetError, match='Incompatible attr'):
        optimizer.update(0, weight, nd.ones((4, 3)), (nd.zeros((3, 4)), nd.zeros((3, 4))))
    with pytest.raises(mx.MXNetError):
        optimizer.update(0, weight, grad.astype('float64'), (nd.zeros((3, 4)), nd.zeros((3, 4))))
    assert (weight.asnumpy() == 1).all()


@pytest.mark.parametrize('name', ['adam', 'fusedadam'])
def test_not_while_recording(name):
    params = make_params(SMALL)
    trainer = gluon.Trainer(params, name)
    backward(params, 0)
    with autograd.record(), pytest.raises(mx.MXNetError, match='computational graph'):
        trainer.step(1)


def test_without_native_operators(calls, monkeypatch):
    monkeypatch.setattr(native, 'available', lambda: False)
    assert_equals_adam(SMALL, wd=0.1, multipliers=True, scheduler=lambda: mx.lr_scheduler.FactorScheduler(4, 0.5))
    assert_equals_adam(SMALL, make=lambda shapes: make_params(shapes, dtype='float16'), multi_precision=True)
    assert calls == []


def test_two_threads():
    def run(seed, results):
        params = make_params([(200 + seed, 300), (17,)])
        trainer = gluon.Trainer(params, 'fusedadam')
        for step in range(30):
            backward(params, seed + step)
            trainer.step(1)
        results[seed] = numbers(params, trainer)

    apart, together = {}, {}
    for seed in (0, 1):
        run(seed, apart)
    threads = [threading.Thread(target=run, args=(seed, together)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        assert_same(together[seed], apart[seed], rtol=0)


def _train_in_child(queue):
    params = make_params([(300, 300)])
    queue.put(numbers(params, train('fusedadam', params, steps=3)))


def test_forked_process():
    params = make_params([(300, 300)])
    here = numbers(params, train('fusedadam', params, steps=3))
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    child = context.Process(target=_train_in_child, args=(queue,))
    child.start()
    there = queue.get(timeout=100)
    child.join(100)
    assert child.exitcode == 0
    assert_same(there, here, rtol=0)
    params = make_params([(300, 300)])      # and the parent goes on
    assert_same(numbers(params, train('fusedadam', params, steps=3)), here, rtol=0)


def test_trains_a_bayesian_network_with_workers(calls):
    x = np.random.normal(size=(256, 4)).astype('float32')
    y = (x[:, :1] - 2 * x[:, 1:2]).astype('float32')
    net = BayesDense(1, in_units=4)
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    loss_fn = BBBLoss(net, num_train=256, likelihood=gluon.loss.L2Loss())
    trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': 0.05})
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(x, y), batch_size=32, num_workers=2)
    for _ in range(25):
        for data, label in loader:
            with autograd.record():
                loss = loss_fn(net(data.as_in_context(mx.cpu())), label.as_in_context(mx.cpu()))
            loss.backward()
            trainer.step(len(data))
    np.testing.assert_allclose(net.weight.data().asnumpy(), [[1, -2, 0, 0]], atol=0.2)
    assert sizes(calls) == 200 * [4]
