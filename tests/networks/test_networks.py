# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What holds for networks of every layer alike."""
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd

from bbb_layers import BBBLoss, GaussianPrior, kl_divergence, posterior_as_prior


@pytest.mark.parametrize('name', nets.NETWORKS)
@pytest.mark.parametrize('prior', [GaussianPrior(0.5), GaussianPrior(0.5, learnable=True), 'posterior'], ids=repr)
def test_parameters_go_through_a_file(name, prior, mode, tmp_path):
    def build():
        if prior == 'posterior':
            return posterior_as_prior(nets.make(name)[0])
        return nets.make(name, prior=prior)[0]

    net, x = build(), nets.NETWORKS[name][1]()
    for param in net.collect_params().values():     # also those of priors and BatchNorm
        if param.grad_req != 'null' or 'prior_mu' in param.name:
            param.set_data(param.data() + 0.1 * nd.random.normal(shape=param.shape))
    path = str(tmp_path / 'net.params')
    net.save_parameters(path)
    new = hybridize(build(), mode)
    assert abs(new(x) - net(x)).max().asscalar() > 1e-3
    new.load_parameters(path)
    np.testing.assert_allclose(new(x).asnumpy(), net(x).asnumpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(kl_divergence(new).asscalar(), kl_divergence(net).asscalar())
    before, after = net._collect_params_with_prefix(), new._collect_params_with_prefix()
    assert before.keys() == after.keys()
    assert all((before[key].data().asnumpy() == after[key].data().asnumpy()).all() for key in before)
    trainer = gluon.Trainer(new.collect_params(), 'sgd', {'learning_rate': 1e-3})
    loss_fn = BBBLoss(new, 10, likelihood=nets.SumOfSquares())
    with autograd.record():
        loss = loss_fn(new(x), x)
    loss.backward()
    trainer.step(4)
    assert np.isfinite(kl_divergence(new).asscalar())
