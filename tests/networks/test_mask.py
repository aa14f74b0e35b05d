# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pruned weights stay pruned, whatever an optimizer writes into mu and rho."""
import copy
import pickle

import mxnet as mx
import numpy as np
import pytest
from conftest import MODES, hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

import bbb_layers as bbb
from bbb_layers import BayesDense, BBBLoss, GaussianPrior, kl_divergence, prune, to_deterministic
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
from bbb_layers.posterior import updates
from bbb_layers.posterior.gaussian import PRUNED_RHO

#: Every optimizer of MXNet 1.9.1 but 'test', which is none; and settings that rewrite rho whatever its gradient.
OPTIMIZERS = [
    ('adadelta', {}), ('adagrad', {}), ('adam', {'wd': 0.01}), ('adamax', {}), ('ccsgd', {'momentum': 0.9}),
    ('dcasgd', {}), ('ftml', {}), ('ftrl', {}), ('fusedadam', {'wd': 0.01}), ('groupadagrad', {}), ('lamb', {}),
    ('lars', {'momentum': 0.9}), ('lbsgd', {'momentum': 0.9}), ('nadam', {}), ('nag', {'momentum': 0.9}),
    ('rmsprop', {'clip_weights': 0.5}), ('rmsprop', {'centered': True}), ('sgd', {'momentum': 0.9, 'wd': 0.01}),
    ('sgld', {}), ('signum', {'momentum': 0.9, 'wd_lh': 0.1})]
RATES = {'adadelta': 1., 'ftrl': 0.1, 'groupadagrad': 0.1}


def make(estimator='sample', ctx=None, prefix=None, use_bias=True):
    arguments = {'estimator': estimator, 'prior': GaussianPrior(), 'use_bias': use_bias,
                 'bias_initializer': mx.init.Normal(0.5)}
    net = nn.HybridSequential(prefix=prefix)
    with net.name_scope():
        net.add(BayesDense(5, activation='relu', in_units=6, **arguments), nn.Dense(5, in_units=5, use_bias=use_bias),
                BayesDense(3, in_units=5, **arguments))
    net.initialize(mx.init.Normal(0.5), ctx=ctx)
    for param in net.collect_params('.*_rho$').values():
        param.set_data(nd.random.normal(-1, 1, shape=param.shape))
    return net


def batch(ctx=mx.cpu()):
    return nd.array(np.random.normal(size=(8, 6)), ctx), nd.array(np.random.randint(0, 3, 8), ctx)


def layers_of(net):
    return [block for block in bbb._mxnet.tree.walk(net) if getattr(block, '_rhos', None)]


def moments(net):
    """Attribute path -> (mu, sigma) as the layers tell them."""
    return {f'{i}.{name}': tuple(value.asnumpy() for value in pair) for i, layer in enumerate(layers_of(net))
            for name, pair in layer.posterior().items()}


def pruned(net):
    return {name: sigma == 0 for name, (_, sigma) in moments(net).items()}


def assert_same_pruned(net, expected):
    found = pruned(net)
    assert list(found) == list(expected)
    for name, where in expected.items():
        np.testing.assert_array_equal(found[name], where, err_msg=name)


def masks(net):
    """The masks of all posteriors that have a pruned weight."""
    return [rho.mask for rho in bbb.rho_params(net).values() if rho.mask is not None]


def assert_zero(net, where):
    """Every way to read a mean has exactly 0 where a weight is pruned, and rho has its mark there."""
    assert_same_pruned(net, where)
    assert sum(mask.sum() for mask in where.values()) > 0
    for i, layer in enumerate(layers_of(net)):
        for name, rho in layer._rhos.items():
            for mu, rho_value in zip(rho.mu.list_data(), rho.list_data()):
                mask = where[f'{i}.{name}']
                assert (mu.asnumpy()[mask] == 0).all() and np.isfinite(mu.asnumpy()).all()
                np.testing.assert_array_equal(rho_value.asnumpy() < PRUNED_RHO / 10, mask)


def step(net, loss_fn, trainer, x, y):
    with autograd.record():
        loss = loss_fn(net(x), y)
    loss.backward()
    trainer.step(x.shape[0])
    return loss


def fit(net, steps, name='adam', options=None, **kwargs):
    options = dict({'learning_rate': RATES.get(name, 0.01)}, **(options or {}))
    trainer = gluon.Trainer(net.collect_params(), name, options, **kwargs)
    loss_fn = BBBLoss(net, 10)
    x, y = batch()
    for _ in range(steps):
        step(net, loss_fn, trainer, x, y)
    return trainer, loss_fn


@pytest.mark.parametrize('kind', MODES[:2], ids=['eager', 'hybrid'])
@pytest.mark.parametrize('name, options', OPTIMIZERS, ids=[
    '-'.join([name] + sorted(options)) for name, options in OPTIMIZERS])
def test_every_optimizer(name, options, kind, tmp_path):
    use_bias = name != 'groupadagrad'       # which takes matrices alone
    net = hybridize(make(use_bias=use_bias), kind)
    trainer, loss_fn = fit(net, 2, name, options)        # momentum that moves mu on after pruning
    prune(net, 0.6)
    where, before = pruned(net), moments(net)
    x, y = batch()
    for _ in range(20):
        loss = step(net, loss_fn, trainer, x, y)
    assert np.isfinite(loss.asnumpy()).all()
    assert_same_pruned(net, where)
    moved = 0
    for path, (mu, sigma) in moments(net).items():
        assert (mu[where[path]] == 0).all() and np.isfinite(mu).all() and np.isfinite(sigma).all()
        moved += (before[path][0] != mu).sum() + (before[path][1] != sigma).sum()
    assert moved > 25       # at least 18 weights are alive, and each has a mu and a sigma
    net.save_parameters(str(tmp_path / 'net.params'))
    save_checkpoint(tmp_path / 'net.checkpoint', net, trainer)
    saved, fresh = nd.load(str(tmp_path / 'net.params')), make(use_bias=use_bias)
    plain = nn.HybridSequential()
    plain.add(nn.Dense(5, in_units=6, use_bias=use_bias), nn.Dense(5, in_units=5, use_bias=use_bias),
              nn.Dense(3, in_units=5, use_bias=use_bias))
    plain.load_parameters(str(tmp_path / 'net.params'), ignore_extra=True)
    load_checkpoint(tmp_path / 'net.checkpoint', fresh)
    assert_same_pruned(fresh, where)
    converted = to_deterministic(net)
    for path, mask in where.items():
        place, attribute = {'0': 0, '1': 2}[path[0]], path[2:]
        saved_name = f'{place}.{attribute}'
        for values in (saved[saved_name], getattr(converted[place], attribute).data(),
                       getattr(plain[place], attribute).data(),
                       fresh._collect_params_with_prefix()[saved_name].data()):
            np.testing.assert_array_equal(values.asnumpy(), moments(net)[path][0])
        np.testing.assert_array_equal(saved[saved_name + '_rho'].asnumpy() == np.float32(PRUNED_RHO), mask)


def test_a_network_that_was_never_pruned_has_no_mask(mode, tmp_path):
    net = hybridize(make(), mode)
    names = sorted(net.collect_params())
    fit(net, 2)
    assert prune(net, 0) == 0
    net.save_parameters(str(tmp_path / 'net.params'))
    net.load_parameters(str(tmp_path / 'net.params'))
    fit(net, 1)
    assert not masks(net) and sorted(net.collect_params()) == names
    assert set(nd.load(str(tmp_path / 'net.params'))) == {
        f'{i}.{name}' for i in range(3) for name in ('weight', 'bias')}.union(
        f'{i}.{name}_rho' for i in (0, 2) for name in ('weight', 'bias'))


def test_the_mask_is_a_parameter_without_gradient():
    net = make()
    names = sorted(net.collect_params())
    assert net[0].weight_rho.mask is None
    prune(net, {net[0]: 0.5})
    mask = net[0].weight_rho.mask
    assert isinstance(mask, gluon.Parameter) and mask.grad_req == 'null'
    assert net[2].weight_rho.mask is net[2].bias_rho.mask is None
    np.testing.assert_array_equal(mask.data().asnumpy(), ~pruned(net)['0.weight'])
    mask.grad_req = 'write'
    assert mask.grad_req == 'null'
    assert sorted(net.collect_params()) == names        # no graph, no Trainer and no file has it
    prune(net, 0.9)
    np.testing.assert_array_equal(net[0].weight_rho.mask.data().asnumpy(), ~pruned(net)['0.weight'])


def test_a_layer_that_is_not_initialized_has_no_mask_yet():
    net = BayesDense(3)
    assert net.weight_rho.mask is None
    net.initialize()
    assert net.weight_rho.mask is None
    net(nd.ones((2, 4)))
    prune(net, 0.5)
    assert net.weight_rho.mask is not None


def initialized(net):
    net.initialize()


def ran(net):
    net.initialize()
    net(batch()[0])


@pytest.mark.parametrize('state', [lambda net: None, initialized, ran], ids=['bare', 'initialized', 'ran'])
@pytest.mark.parametrize('known', [True, False], ids=['known', 'unknown'])
@pytest.mark.parametrize('old', [False, True], ids=['new', 'file of 0.1'])
def test_a_file_brings_the_mask(state, known, old, mode, tmp_path):
    net, path = make(), str(tmp_path / 'net.params')
    prune(net, 0.6)
    where = pruned(net)
    net.save_parameters(path)
    if old:     # momentum had moved mu of pruned weights
        saved = nd.load(path)
        for name in ('0.weight', '2.weight'):
            saved[name] = nd.where(saved[name] == 0, nd.ones_like(saved[name]), saved[name])
        nd.save(path, saved)
    fresh = nn.HybridSequential()
    fresh.add(BayesDense(5, activation='relu', in_units=6 * known, prior=GaussianPrior()),
              nn.Dense(5, in_units=5 * known), BayesDense(3, in_units=5 * known, prior=GaussianPrior()))
    hybridize(fresh, mode)
    state(fresh)
    fresh.load_parameters(path)
    x, y = batch()
    for _ in range(3):
        np.testing.assert_allclose(fresh(x).asnumpy(), net(x).asnumpy(), rtol=1e-5, atol=1e-6)
    assert_same_pruned(fresh, where)
    fit(fresh, 3, 'ftrl')
    assert_zero(fresh, where)
    assert (to_deterministic(fresh)[0].weight.data().asnumpy()[where['0.weight']] == 0).all()


def test_a_file_without_marks_brings_the_weights_back(mode, tmp_path):
    net = hybridize(make(), mode)
    net.save_parameters(str(tmp_path / 'all.params'))
    x = batch()[0]
    expected = net(x).asnumpy()
    prune(net, 0.6)
    fit(net, 1, 'ftrl')
    net.load_parameters(str(tmp_path / 'all.params'))
    np.testing.assert_array_equal(net(x).asnumpy(), expected)
    fit(net, 3)
    assert not masks(net) and not any(where.any() for where in pruned(net).values())


@pytest.mark.parametrize('native', [True, False], ids=['native', 'operators'])
@pytest.mark.parametrize('estimator', ['sample', 'local', 'flipout'])
@pytest.mark.parametrize('name', ['lamb', 'sgd'])
def test_estimators(estimator, native, name, mode, monkeypatch, request):
    """sgd with momentum moves mu, and lamb looks at the norm of all rho."""
    if native:
        request.getfixturevalue('compiled')
    else:
        monkeypatch.setattr(bbb.native, 'available', lambda: False)
    net = hybridize(make(estimator), mode)
    options = {'momentum': 0.9} if name == 'sgd' else {}
    trainer, loss_fn = fit(net, 2, name, options)
    prune(net, 0.6)
    where, before, (x, y) = pruned(net), moments(net), batch()
    for _ in range(4):
        loss = step(net, loss_fn, trainer, x, y)
        for rho in bbb.rho_params(net).values():
            mask = np.ones(rho.shape) if rho.mask is None else rho.mask.data().asnumpy()
            for param in (rho.mu, rho):
                assert (param.grad().asnumpy()[mask == 0] == 0).all()
    assert np.isfinite(loss.asnumpy()).all()
    assert_zero(net, where)
    for path, (mu, sigma) in moments(net).items():
        alive = ~where[path]
        assert (abs(mu - before[path][0])[alive] < 0.5).all() and (sigma[alive] > 1e-3).all()
        assert (mu != before[path][0])[alive].mean() >= 0.5 if alive.any() else True


def test_the_marks_of_a_pruned_network_do_not_change_the_others(mode):
    """The weights that are alive are trained as if the pruned weights were not there.

    It catches a norm of rho that has the marks in it: LAMB and LARS scale their steps by it. Two networks that differ
    only in the number of pruned inputs, which are all 0, take the same steps.
    """
    nets = []
    for _ in range(2):
        net = BayesDense(3, in_units=6, use_bias=False, prior=GaussianPrior())
        net.initialize(mx.init.Constant(0.3))
        hybridize(net, mode)
        nets.append(net)
    rho = nets[0].weight_rho.data().copy()
    for net in nets:
        net.weight.set_data(nd.concat(net.weight.data()[:, :3], nd.zeros((3, 3)), dim=1))
    nets[0].weight_rho.set_data(nd.concat(rho[:, :3], nd.zeros((3, 3)), dim=1))
    nets[1].weight_rho.set_data(nd.concat(rho[:, :3], nd.full((3, 3), PRUNED_RHO), dim=1))
    x = nd.concat(nd.ones((4, 3)), nd.zeros((4, 3)), dim=1)
    for name in ('lamb', 'lars'):
        for net in nets:
            trainer = gluon.Trainer(net.collect_params(), name, {'learning_rate': 0.01, 'wd': 0})
            for _ in range(3):
                with autograd.record():
                    loss = (net.weight_rho.data()[:, :3].square().sum() + (net.weight.data()[:, :3] - 1).square().sum()
                            + 0 * net(x).sum())
                loss.backward()
                trainer.step(1)
        np.testing.assert_allclose(nets[1].weight_rho.data()[:, :3].asnumpy(),
                                   nets[0].weight_rho.data()[:, :3].asnumpy(), rtol=1e-5)
    assert abs(nets[1].weight_rho.data() - rho)[:, :3].min().asscalar() > 1e-4
    assert (nets[1].weight_rho.data()[:, 3:].asnumpy() == np.float32(PRUNED_RHO)).all()


def test_several_contexts(mode, tmp_path):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = hybridize(make(ctx=contexts), mode)
    loss_fn = BBBLoss(net, 10)
    trainer = gluon.Trainer(net.collect_params(), 'ftml', {'learning_rate': 0.01}, update_on_kvstore=False)

    def both():
        with autograd.record():
            losses = [loss_fn(net(x), y) for x, y in (batch(context) for context in contexts)]
        autograd.backward(losses)
        trainer.step(16)

    both()
    prune(net, 0.6)
    where = pruned(net)
    for _ in range(3):
        both()
    assert_zero(net, where)
    for context in contexts:
        for i, layer in enumerate(layers_of(net)):
            for name, (_, sigma) in layer.posterior(context).items():
                np.testing.assert_array_equal(sigma.asnumpy() == 0, where[f'{i}.{name}'])
    assert net[0].weight_rho.mask.list_ctx() == contexts
    net.save_parameters(str(tmp_path / 'net.params'))
    save_checkpoint(tmp_path / 'net.checkpoint', net, trainer)
    for load in (lambda net: net.load_parameters(str(tmp_path / 'net.params'), ctx=contexts),
                 lambda net: load_checkpoint(tmp_path / 'net.checkpoint', net)):
        fresh = make(ctx=contexts)
        load(fresh)
        assert_zero(fresh, where)
    net.collect_params().reset_ctx([mx.cpu(2)])
    assert net[0].weight_rho.mask.list_ctx() == [mx.cpu(2)]
    assert_zero(net, where)


def test_copies(mode):
    net = hybridize(make(), mode)
    fit(net, 1)
    prune(net, 0.6)
    where = pruned(net)
    for new in (copy.deepcopy(net), bbb.posterior_as_prior(net),
                bbb.pruning_curve(net, [0.6], lambda each: each)[0]):
        assert new[0].weight_rho.mask is not net[0].weight_rho.mask
        fit(new, 3, 'ftrl')
        assert_zero(new, where)
    assert_zero(net, where)
    again = pickle.loads(pickle.dumps(copy.deepcopy(make())))
    prune(again, 0.6)
    where = pruned(again)
    for each in (again, pickle.loads(pickle.dumps(again))):
        fit(each, 3, 'ftrl')
        assert_zero(each, where)


def test_a_pickle_from_before_there_were_masks():
    """It catches an attribute that only __init__ sets."""
    rho = make()[0].weight_rho
    assert not {'_mask', '_mask_is_known'} & set(pickle.loads(pickle.dumps(rho)).__dict__)
    assert pickle.loads(pickle.dumps(rho)).mask is None


@pytest.mark.parametrize('dtype', ['float64', 'float16'])
def test_cast(dtype):
    if dtype == 'float16':      # there is no product on a CPU
        net = bbb.BayesEmbedding(6, 5, prior=GaussianPrior())
    else:
        net = BayesDense(5, in_units=6, prior=GaussianPrior())
    net.initialize(mx.init.Normal(0.5))
    prune(net, 0.6)
    where = pruned(net)
    assert net.weight_rho.mask is not None
    net.cast(dtype)
    assert np.dtype(net.weight_rho.mask.dtype) == np.dtype(net.weight_rho.dtype)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'momentum': 0.9, 'multi_precision': True})
    for _ in range(3):
        with autograd.record():
            out = net(nd.arange(6, dtype='float32') if dtype == 'float16' else nd.eye(6, dtype=dtype))
        out.backward()
        trainer.step(1)
        net.hybridize()
    assert_zero(net, where)


def test_np_arrays(mode):
    mx.npx.set_np()
    try:
        net = nn.HybridSequential()
        net.add(BayesDense(5, in_units=6, prior=GaussianPrior()), BayesDense(3, in_units=5, prior=GaussianPrior()))
        net.initialize(mx.init.Normal(0.5))
        hybridize(net, mode)
        loss_fn = BBBLoss(net, 10)
        x, y = mx.np.random.normal(size=(8, 6)), mx.np.array(np.random.randint(0, 3, 8))
        for name in ('sgd', 'lamb'):
            trainer = gluon.Trainer(net.collect_params(), name, {'learning_rate': 0.01})
            step(net, loss_fn, trainer, x, y)
            prune(net, 0.6)
            where = pruned(net)
            for _ in range(3):
                step(net, loss_fn, trainer, x, y)
            assert_zero(net, where)
        assert type(net[0].weight_rho.mask.data()) is mx.np.ndarray
    finally:
        mx.npx.reset_np()


def test_tied_layers(mode):
    net = nn.HybridSequential()
    net.add(BayesDense(6, in_units=6, prior=GaussianPrior()))
    net.add(BayesDense(6, in_units=6, params=net[0].params))
    net.initialize(mx.init.Normal(0.5))
    hybridize(net, mode)
    prune(net, 0.6)
    where = pruned(net)
    trainer = gluon.Trainer(net.collect_params(), 'ftrl', {'learning_rate': 0.1})
    for _ in range(3):
        with autograd.record():
            out = net(batch()[0]).square()
        out.backward()
        trainer.step(8)
    assert_zero(net, where)
    np.testing.assert_array_equal(where['0.weight'], where['1.weight'])


def test_force_reinit_makes_all_weights_alive(mode):
    net = hybridize(make(), mode)
    prune(net, 1.)
    assert len(masks(net)) == 4 and (net(batch()[0]).asnumpy() == 0).all()
    net.initialize(mx.init.Normal(0.5), force_reinit=True)
    assert not masks(net)
    fit(net, 2)
    assert not any(where.any() for where in pruned(net).values())


def test_set_prior(mode):
    net = hybridize(make(), mode)
    prune(net, 0.6)
    where = pruned(net)
    bbb.set_prior(net, GaussianPrior(learnable=True))
    fit(net, 3, 'ftrl')
    assert_zero(net, where)
    assert np.isfinite(kl_divergence(net).asscalar())


def test_a_second_prune_during_training():
    net = make()
    prune(net, 0.3)
    first = pruned(net)
    trainer, loss_fn = fit(net, 3, 'lamb')
    assert_zero(net, first)
    assert prune(net, 0.6) == 31        # of 53 weights
    second = pruned(net)
    assert all((second[name] >= first[name]).all() for name in first)
    for _ in range(3):
        step(net, loss_fn, trainer, *batch())
    assert_zero(net, second)


def test_set_data_with_the_own_values_changes_nothing():
    """A snapshot of the best weights is often taken and restored this way."""
    net = make()
    prune(net, 0.6)
    where = pruned(net)
    snapshot = {name: param.data().copy() for name, param in net.collect_params().items()}
    trainer, loss_fn = fit(net, 3, 'ftrl')
    for name, param in net.collect_params().items():
        param.set_data(snapshot[name])
    step(net, loss_fn, trainer, *batch())
    assert_zero(net, where)


@pytest.mark.parametrize('update_on_kvstore', [False, True])
@pytest.mark.parametrize('name', ['sgd', 'lamb', 'ftml'])
def test_kvstore(name, update_on_kvstore):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = make(ctx=contexts)
    loss_fn = BBBLoss(net, 10)
    batches = [batch(context) for context in contexts]
    trainer = gluon.Trainer(net.collect_params(), name, dict({'momentum': 0.9} if name == 'sgd' else {},
                                                             learning_rate=0.01),
                            kvstore='local', update_on_kvstore=update_on_kvstore)
    where = None
    for _ in range(4):
        with autograd.record():
            losses = [loss_fn(net(x), y) for x, y in batches]
        autograd.backward(losses)
        trainer.step(16)
        if where is None:
            prune(net, 0.6)
            where, before = pruned(net), moments(net)
        assert_zero(net, where)
    assert trainer._update_on_kvstore is update_on_kvstore
    assert any((mu != before[path][0]).any() for path, (mu, _) in moments(net).items())


def test_a_frozen_posterior():
    """mu alone, or rho alone, has an update."""
    for frozen in ('mu_params', 'rho_params'):
        net = make()
        trainer, loss_fn = fit(net, 2, 'sgd', {'momentum': 0.9})
        prune(net, 0.6)
        where = pruned(net)
        getattr(bbb, frozen)(net).setattr('grad_req', 'null')
        for _ in range(3):
            step(net, loss_fn, trainer, *batch())
        assert_zero(net, where)


def test_an_update_that_fails_leaves_the_marks():
    class Refuses(mx.optimizer.SGD):
        def update_multi_precision(self, *_):
            raise ValueError('no update')

    net = make()
    prune(net, 0.6)
    where = pruned(net)
    trainer = gluon.Trainer(net.collect_params(), Refuses())
    with pytest.raises(ValueError, match='no update'):
        step(net, BBBLoss(net, 10), trainer, *batch())
    assert_zero(net, where)


def test_checkpoints_continue_to_the_bit(mode, tmp_path):
    net = hybridize(make(), mode)
    prune(net, 0.3)
    trainer, loss_fn = fit(net, 2)
    prune(net, 0.6)
    where, (x, y) = pruned(net), batch()
    step(net, loss_fn, trainer, x, y)
    save_checkpoint(tmp_path / 'it', net, trainer, loss_fn)
    other = hybridize(make(), mode)
    trainer_of_other, loss_of_other = gluon.Trainer(other.collect_params(), 'adam', {'learning_rate': 0.01}), BBBLoss(
        other, 10)
    load_checkpoint(tmp_path / 'it', other, trainer_of_other, loss_of_other)
    assert_zero(other, where)
    for each, fn, its in ((net, loss_fn, trainer), (other, loss_of_other, trainer_of_other)):
        mx.random.seed(11)
        for _ in range(2):
            step(each, fn, its, x, y)
        assert_zero(each, where)
    for one, two in zip(moments(net).values(), moments(other).values()):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


#: Adam adds to rho. Ftrl writes a new rho; without ``lamda1`` it sets no living weight to 0.
ADDS_AND_WRITES = pytest.mark.parametrize('name, options', [('adam', {}), ('ftrl', {'lamda1': 0.})],
                                          ids=['adam', 'ftrl'])


@ADDS_AND_WRITES
@pytest.mark.parametrize('pruned_first', [True, False])
def test_one_optimizer_in_two_trainers(name, options, pruned_first):
    """The second Trainer gives the optimizer its own Parameters, and the first must not take their marks."""
    optimizer, nets = mx.optimizer.create(name, learning_rate=0.01, **options), [make(), make()]
    prune(nets[0], 0.6)
    where, living = pruned(nets[0]), pruned(nets[1])
    order = nets if pruned_first else nets[::-1]
    trainers = {net: gluon.Trainer(net.collect_params(), optimizer) for net in order}
    for net in nets:
        for _ in range(3):
            step(net, BBBLoss(net, 10), trainers[net], *batch())
    assert_zero(nets[0], where)
    assert_same_pruned(nets[1], living)
    assert all((value != 0).all() for value, _ in moments(nets[1]).values())


@ADDS_AND_WRITES
def test_values_that_are_written_into_the_arrays_bring_the_weights_back(name, options):
    """As a snapshot of all Parameters does that is written back through ``data``; a mask from before is not used."""
    net = make()
    snapshot = {path: param.data().copy() for path, param in net._collect_params_with_prefix().items()}
    prune(net, 0.6)
    trainer, loss_fn = fit(net, 1, name, options)
    for path, param in net._collect_params_with_prefix().items():
        param.data()[:] = snapshot[path]
    step(net, loss_fn, trainer, *batch())
    assert not any(where.any() for where in pruned(net).values())
    assert all(rho.mask is None for rho in bbb.rho_params(net).values())
    assert all((value != 0).all() for value, _ in moments(net).values())


@pytest.mark.parametrize('base', [mx.optimizer.SGD, mx.optimizer.Ftrl])
def test_rho_has_its_marks_during_an_update(base):
    """Another thread that saves the network meanwhile must not write weights that seem to be alive."""
    class Looks(base):
        def update_multi_precision(self, index, weight, grad, state):
            super().update_multi_precision(index, weight, grad, state)
            seen.append(pruned(net))

    net, seen = make(), []
    prune(net, 0.6)
    where, optimizer = pruned(net), Looks()
    optimizer.aggregate_num = 0
    step(net, BBBLoss(net, 10), gluon.Trainer(net.collect_params(), optimizer), *batch())
    assert len(seen) == len(net.collect_params().keys())
    for found in seen:
        for name, mask in where.items():
            np.testing.assert_array_equal(found[name], mask)


@pytest.mark.parametrize('name, options', [('adam', {'epsilon': 0.}), ('fusedadam', {'epsilon': 0.}),
                                           ('sgd', {'wd': 0.9})], ids=['adam', 'fusedadam', 'sgd'])
def test_settings_that_change_the_marks(name, options):
    """Without epsilon, Adam divides 0 by 0 where there never was a gradient. Weight decay makes the marks smaller."""
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=6))      # no unit of it is dead
    net.initialize()
    prune(net, 0.6)
    where = pruned(net)
    bbb.rho_params(net).setattr('wd_mult', 50.)
    fit(net, 20, name, options)
    assert_zero(net, where)


def test_a_mask_is_only_for_reading():
    net = make()
    prune(net, 0.6)
    where = pruned(net)
    net[0].weight_rho.mask.set_data(nd.zeros((5, 6)))
    fit(net, 2, 'lamb')
    assert_zero(net, where)


def test_the_update_is_changed_once():
    """Also where the package is imported again."""
    updater = mx.optimizer.Updater
    before = updater.__init__._plain, updater.__call__._plain
    updates.keep_pruned()
    assert (updater.__init__._plain, updater.__call__._plain) == before
    assert all('_plain' not in vars(method) for method in before)
