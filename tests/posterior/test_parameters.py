# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import mxnet as mx
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from bbb_layers import BayesDense, BayesLSTM, BBBLoss, GaussianPrior, mu_params, rho_params


def make_net():
    net = nn.HybridSequential(prefix='net_')
    with net.name_scope():
        net.add(BayesLSTM(3, input_size=4), nn.Dense(4, in_units=3, flatten=False), nn.BatchNorm(in_channels=4),
                BayesDense(4, in_units=4, flatten=False, prior=GaussianPrior(learnable=True)))
        net.add(BayesDense(4, in_units=4, flatten=False, params=net[3].params))
    net.initialize()
    return net


def test_what_they_hold():
    """Each mu and each rho once, nothing of plain layers, and nothing of a learnable prior."""
    net = make_net()
    means, rhos = mu_params(net), rho_params(net)
    names = [f'net_bayeslstm0_l0_{gate}_{kind}' for gate in ('i2h', 'h2h') for kind in ('weight', 'bias')]
    names += ['net_bayesdense0_weight', 'net_bayesdense0_bias']
    assert sorted(means) == sorted(names) and sorted(rhos) == sorted(name + '_rho' for name in names)
    everything = net.collect_params()
    assert all(everything[name] is param for name, param in list(means.items()) + list(rhos.items()))
    # What the pattern selects instead, since Gluon matches the beginning of a name.
    assert 'net_bayesdense0_weight_rho' in net.collect_params('.*weight')


def test_setattr_reaches_the_parameters():
    net = make_net()
    mu_params(net).setattr('grad_req', 'null')
    rho_params(net).setattr('lr_mult', 0.1)
    loss_fn = BBBLoss(net, num_train=10)
    before = {name: param.data().asnumpy() for name, param in net.collect_params().items()}
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    with autograd.record():
        loss = loss_fn(net(mx.nd.ones((2, 5, 4))).reshape((-1, 4)), mx.nd.zeros((10,)))
    loss.backward()
    trainer.step(10)
    changed = {name for name, param in net.collect_params().items() if (param.data().asnumpy() != before[name]).any()}
    assert changed.isdisjoint(mu_params(net)) and changed.issuperset(rho_params(net))
    assert {param.lr_mult for param in rho_params(net).values()} == {0.1}
    assert net[1].weight.lr_mult == net[3].weight.lr_mult == 1.


@pytest.mark.parametrize('function', [mu_params, rho_params])
def test_errors(function):
    with pytest.raises(TypeError, match='net must be a Gluon block'):
        function('net')
    with pytest.raises(ValueError, match='net must hold at least one Bayesian layer'):
        function(nn.Dense(3))
