# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Files that version 0.1 wrote load, with all that is in them: see tests/fixtures/write.py."""
import json
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from subprocesses import TESTS

from bbb_layers.checkpoint import load_checkpoint
from bbb_layers.training.handlers import STEP

FIXTURES = TESTS / 'fixtures'
sys.path.insert(0, str(FIXTURES))
import write  # noqa: E402


@pytest.fixture(params=['0.1', 'format-1'])
def folder(request):
    return FIXTURES / request.param


@pytest.fixture
def expected(folder):
    return json.loads((folder / 'expected.json').read_text(encoding='utf-8'))


def check_network(net, expected):
    x = nd.arange(24).reshape((6, 4)) / 24
    np.testing.assert_allclose(net(x).asnumpy(), expected['output'], rtol=1e-6)
    for i, layer in enumerate(net):
        for name, (mu, sigma) in layer.posterior().items():
            values = expected['posterior']['%d.%s' % (i, name)]
            np.testing.assert_array_equal(mu.asnumpy(), np.float32(values[0]))
            np.testing.assert_allclose(sigma.asnumpy(), values[1], rtol=1e-6)
            assert ((sigma == 0).asnumpy() == (np.array(values[1]) == 0)).all()     # the same weights are pruned
    assert sum(np.equal(values[1], 0).sum() for values in expected['posterior'].values()) == 9


def check_states(trainer, expected, folder):
    places = {name: i for i, name in enumerate(expected['names'])}
    for i, param in enumerate(trainer._params):
        for part, values in zip(trainer._updaters[0].states[i], expected['states'][places[param.name]]):
            np.testing.assert_array_equal(part.asnumpy(), np.float32(values))
    assert trainer.optimizer.num_update == expected['num_update'] == 5
    assert trainer.learning_rate == pytest.approx(expected['learning_rate'], rel=1e-12)
    # Optimizers did not hold the step of a KL schedule then.
    assert getattr(trainer.optimizer, STEP, None) == {'0.1': 5, 'format-1': None}[folder.name]


def test_parameters(folder, expected):
    net, _, _ = write.make()
    net.load_parameters(str(folder / 'net.params'))
    check_network(net, expected)


def test_checkpoint(folder, expected):
    mx.random.seed(9)
    net, loss_fn, trainer = write.make()
    assert load_checkpoint(folder / 'checkpoint', net, trainer, loss_fn) == {'epoch': 3, 'seed': 1}
    check_network(net, expected)
    check_states(trainer, expected, folder)
    assert loss_fn.kl_weight == expected['kl_weight'] == 0.5
    for name, param in loss_fn.collect_params().items():
        np.testing.assert_array_equal(param.data().asnumpy(), np.float32(expected['likelihood'][name]))
    write.step(net, loss_fn, trainer)       # training goes on


def test_states_of_the_trainer(folder, expected):
    """They pickle the optimizer, by the path of its class."""
    net, loss_fn, trainer = write.make()
    net.load_parameters(str(folder / 'net.params'))
    trainer.load_states(str(folder / 'trainer.states'))
    assert type(trainer.optimizer).__name__ == 'FusedAdam'
    check_states(trainer, expected, folder)
    write.step(net, loss_fn, trainer)
