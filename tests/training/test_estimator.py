# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import logging

from bbb_layers import schedules     # before mxnet, see bbb_layers/_mxnet/import_hook.py
import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon
from mxnet.gluon import nn
from mxnet.gluon.contrib.estimator import Estimator
from mxnet.gluon.contrib.estimator.event_handler import (BatchBegin, BatchEnd, CheckpointHandler, EarlyStoppingHandler,
                                                         LoggingHandler)

from bbb_layers import (BayesDense, BBBLoss, GaussianPrior, MonteCarlo, SummaryHandler, convert_trainer_states,
                        kl_divergence, metrics, prune, to_deterministic)
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint

NUM_TRAIN, BATCH = 10, 4        # batches of 4, 4 and 2


def data(size=NUM_TRAIN, seed=3):
    x = np.random.RandomState(seed).randn(size, 4).astype('float32')
    return gluon.data.DataLoader(gluon.data.ArrayDataset(x, (x[:, 0] > 0).astype('float32')), BATCH)


def network(mode=None, prior=None):
    net = nn.HybridSequential()
    # Of its own scope: MXNet's Trainer saves states by the order of global names, in which dense10 is before dense9.
    with net.name_scope():
        net.add(BayesDense(5, activation='relu', in_units=4, prior=prior or GaussianPrior()),
                BayesDense(2, in_units=5, prior=prior or GaussianPrior()))
    return hybridize(net, mode)


def loss_metrics(loss):
    return [metrics.NLL(loss), metrics.KL(loss), metrics.ELBO(loss)]


def estimator(net, optimizer='adam', context=None, train_metrics=None, **kwargs):
    if net[0].weight._data is None:
        net.initialize(mx.init.Normal(0.3), ctx=context or mx.cpu())
    loss = BBBLoss(net, NUM_TRAIN)
    result = Estimator(net, loss, train_metrics=loss_metrics(loss) + (train_metrics or []),
                       trainer=gluon.Trainer(net.collect_params(), optimizer, {'learning_rate': 0.01}),
                       context=context or mx.cpu(), **kwargs)
    result.logger.handlers = []
    return result


def values(metric_list):
    return [metric.get()[1] for metric in metric_list]


class Recorder(BatchEnd):
    """What a training loop sees after each batch, before the metrics do."""
    priority = -3000

    def __init__(self):
        self.nll, self.kl, self.sizes = [], [], []

    def batch_end(self, estimator, *args, **kwargs):
        for loss in kwargs['loss']:
            self.sizes.append(loss.shape[0])
        self.nll.append(estimator.loss.nll.asnumpy())
        self.kl.append(estimator.loss.kl.asscalar())


def test_metrics_of_training_and_validation(mode):
    net = network(mode)
    training = estimator(net)
    recorder = Recorder()
    handler = schedules.KLWeightHandler(lambda step: 0.25)
    training.fit(data(), val_data=data(7, seed=4), epochs=1, event_handlers=[recorder, handler])
    nll, kl, elbo = values(training.train_metrics)
    assert recorder.sizes == [4, 4, 2]
    assert nll == pytest.approx(np.concatenate(recorder.nll).mean(), rel=1e-6)
    assert kl == pytest.approx(np.average(recorder.kl, weights=recorder.sizes), rel=1e-6)
    assert elbo == pytest.approx(-nll - kl / NUM_TRAIN, rel=1e-9)
    assert [metric.get()[0] for metric in training.train_metrics] == ['training nll', 'training kl', 'training elbo']
    # Validation is at the posterior mean, with a KL divergence from the Parameters: nothing is drawn.
    nll, kl, elbo = values(training.val_metrics)
    plain = to_deterministic(net)
    losses = [gluon.loss.SoftmaxCrossEntropyLoss()(plain(x), y).asnumpy() for x, y in data(7, seed=4)]
    assert nll == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert kl == pytest.approx(kl_divergence(net).asscalar(), rel=1e-5)
    assert elbo == pytest.approx(-nll - kl / NUM_TRAIN, rel=1e-9)
    assert [metric.get()[0] for metric in training.val_metrics] == [
        'validation nll', 'validation kl', 'validation elbo']


def test_metrics_over_two_contexts(mode):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = network(mode)
    training = estimator(net, context=contexts)
    seen = []

    class Losses(BatchEnd):
        priority = -3000

        def batch_end(self, estimator, *args, **kwargs):
            seen.extend(loss.asnumpy() for loss in kwargs['loss'])

    training.fit(data(8), epochs=1, event_handlers=[Losses()])
    assert len(seen) == 4
    # With weight 1 the loss is the negative ELBO: those of both contexts are in it.
    assert training.train_metrics[2].get()[1] == pytest.approx(-np.concatenate(seen).mean(), rel=1e-6)


def test_metrics_in_a_loop():
    net = network()
    net.initialize()
    loss = BBBLoss(net, NUM_TRAIN)
    nll, kl, elbo = loss_metrics(loss)
    assert all(np.isnan(values([nll, kl, elbo])))
    x, y = next(iter(data()))
    with pytest.raises(RuntimeError, match=r'NLL must be updated after each call .* no new call on cpu\(0\)'):
        nll.update([y], [net(x)])
    with autograd.record():
        output = net(x)
        loss(output, y)
    for metric in (nll, kl, elbo):
        metric.update(y, output)
        with pytest.raises(RuntimeError, match='no new call'):
            metric.update(y, output)
    assert nll.get()[1] == pytest.approx(loss.nll.mean().asscalar(), rel=1e-6)
    assert kl.get() == ('kl', pytest.approx(loss.kl.asscalar()))
    assert nll.num_inst == 4
    twin = copy.deepcopy(nll)
    loss(net(x), y)
    twin.update(y, net(x))
    assert twin.num_inst == 8 and nll.num_inst == 4
    nll.reset()
    assert np.isnan(nll.get()[1])
    assert isinstance(mx.metric.create('elbo', loss), metrics.ELBO)
    assert copy.deepcopy(loss)._calls == {}


def test_the_elbo_has_the_num_train_of_each_call():
    """Catches an ELBO that divides by the number of the loss at the time of the update, or of its constructor."""
    net = network()
    net.initialize()
    loss = BBBLoss(net, NUM_TRAIN)
    elbo, total, count = metrics.ELBO(loss), 0., 0
    for num_train, (x, y) in zip((4, 8, 12), data()):
        loss.num_train = num_train
        total, count = total - loss(net(x), y).asnumpy().sum(), count + len(x)
        loss.num_train = 1e6        # already that of the next step
        elbo.update(y, net(x))
    assert count == NUM_TRAIN and elbo.get()[1] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize('metric', [metrics.NLL, metrics.KL, metrics.ELBO])
def test_metrics_need_a_bbb_loss(metric):
    with pytest.raises(TypeError, match='loss must be a BBBLoss'):
        metric(gluon.loss.L2Loss())


def test_monte_carlo_validation(mode):
    net = network(mode)
    net.initialize()
    training = estimator(net, val_net=MonteCarlo(net, num_samples=3))
    training.fit(data(), val_data=data(7, seed=4), epochs=1)
    nll, kl, elbo = values(training.val_metrics)
    assert 0 < nll < 5 and elbo == pytest.approx(-nll - kl / NUM_TRAIN, rel=1e-9)


def test_another_loss_for_validation_is_not_mistaken():
    net = network()
    net.initialize()
    training = estimator(net, val_loss=BBBLoss(net, NUM_TRAIN))
    with pytest.raises(RuntimeError, match='no new call'):
        training.fit(data(), val_data=data(), epochs=1)


def test_early_stopping(mode):
    training = estimator(network(mode))
    elbo = training.val_metrics[2]
    # No epoch is better by 100 nats: it stops after the first, and three without improvement.
    stopping = EarlyStoppingHandler(elbo, mode='max', min_delta=100, patience=3)
    training.fit(data(), val_data=data(7, seed=4), epochs=20, event_handlers=[stopping])
    assert stopping.stopped_epoch == 3
    worse = EarlyStoppingHandler(training.val_metrics[0], mode='min', patience=1, baseline=-1e9)
    training.fit(data(), val_data=data(7, seed=4), epochs=20, event_handlers=[worse])
    assert worse.stop_training and worse.current_epoch == 1
    improving = EarlyStoppingHandler(elbo, mode='max', patience=3)
    training.fit(data(), val_data=data(7, seed=4), epochs=5, event_handlers=[improving])
    assert not improving.stop_training


def test_best_checkpoint_and_logging(mode, tmp_path):
    training = estimator(network(mode))
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    training.logger.addHandler(handler)
    best = CheckpointHandler(str(tmp_path), monitor=training.val_metrics[2], save_best=True, mode='max', epoch_period=1)
    training.fit(data(), val_data=data(7, seed=4), epochs=3, event_handlers=[
        best, LoggingHandler(metrics=training.train_metrics + training.val_metrics)])
    assert best.best == pytest.approx(max(best.best, training.val_metrics[2].get()[1]))
    assert (tmp_path / 'model-best.params').exists() and (tmp_path / 'model-epoch2batch9.params').exists()
    line = [line for line in lines if 'Finished' in line and 'training nll' in line][-1]
    assert f'validation elbo: {training.val_metrics[2].get()[1]:.4f}' in line
    again = network()
    again.load_parameters(str(tmp_path / 'model-epoch2batch9.params'))
    np.testing.assert_array_equal(again[0].weight.data().asnumpy(), training.net[0].weight.data().asnumpy())


class Steps:
    """A schedule that notes its steps."""

    def __init__(self):
        self.seen = []

    def __call__(self, step):
        self.seen.append(step)
        return schedules.linear(12)(step)


class Weights(BatchBegin):
    """The KL weight of each batch; after ``stop`` batches the process dies."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def batch_begin(self, estimator, *args, **kwargs):
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(estimator.loss.kl_weight)


class SeedsByUpdate(BatchBegin):
    """MXNet's random numbers do not stand in a checkpoint."""

    def batch_begin(self, estimator, *args, **kwargs):
        mx.random.seed(estimator.trainer.optimizer.num_update)


def checkpoints(folder, by, resume):
    return CheckpointHandler(str(folder), epoch_period=1 if by == 'epochs' else None,
                             batch_period=1 if by == 'batches' else None, resume_from_checkpoint=resume)


@pytest.mark.parametrize('by,first_resumes,optimizer', [
    ('epochs', True, 'adam'), ('epochs', False, 'sgd'), ('epochs', True, 'fusedadam'), ('batches', True, 'adam'),
    ('batches', False, 'sgd')])
def test_resumed_training_is_that_of_an_uninterrupted_one(by, first_resumes, optimizer, mode, tmp_path):
    def run(folder, resume, stop=None, handler_first=True):
        mx.random.seed(1)
        training = estimator(network(mode), optimizer)
        schedule, weights = Steps(), Weights(stop)
        handlers = [schedules.KLWeightHandler(schedule), checkpoints(folder, by, resume)]
        handlers = (handlers if handler_first else handlers[::-1]) + [SeedsByUpdate(), weights]
        try:
            training.fit(data(), event_handlers=handlers, **{by: 4 if by == 'epochs' else 11})
        except KeyboardInterrupt:
            pass
        return training, schedule.seen, weights.seen

    uninterrupted, steps, weights = run(tmp_path / 'whole', False)
    assert steps == list(range(12 if by == 'epochs' else 11)) and weights[5] == 5 / 12
    # It dies twice, in its second and third epoch. The last checkpoints are of 3 and 6 batches, or of 4 and 8.
    run(tmp_path / 'parts', first_resumes, stop=4)
    _, second, _ = run(tmp_path / 'parts', True, stop=4, handler_first=False)
    resumed, third, third_weights = run(tmp_path / 'parts', True)
    middle, last = (3, 6) if by == 'epochs' else (4, 8)
    assert second == steps[middle:middle + 5] and third == steps[last:] and third_weights == weights[last:]
    if by == 'epochs':      # in the middle of an epoch the data begin anew
        for name in ('weight', 'weight_rho', 'bias', 'bias_rho'):
            for ours, theirs in zip(resumed.net, uninterrupted.net):
                np.testing.assert_array_equal(getattr(ours, name).data().asnumpy(),
                                              getattr(theirs, name).data().asnumpy())


# MXNet's kvstore does not close the file that it loads.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning', 'ignore:unclosed file:ResourceWarning')
def test_resume_over_two_contexts(tmp_path):
    contexts = [mx.cpu(0), mx.cpu(1)]
    for epochs, expected in ((2, [0, 1, 2, 3]), (3, [4, 5])):
        training, schedule = estimator(network(), context=contexts), Steps()
        training.fit(data(8), epochs=epochs, event_handlers=[
            checkpoints(tmp_path, 'epochs', True), schedules.KLWeightHandler(schedule)])
        assert schedule.seen == expected


def test_steps_are_those_of_the_schedule_and_not_of_the_trainer(tmp_path):
    """Training before the schedule began, and a notebook's cell that runs again."""
    training = estimator(network())
    training.fit(data(), epochs=2)
    assert training.trainer.optimizer.num_update == 6
    for epochs, expected in ((1, [0, 1, 2]), (3, [3, 4, 5, 6, 7, 8])):
        schedule = Steps()
        training.fit(data(), epochs=epochs, event_handlers=[
            schedules.KLWeightHandler(schedule), checkpoints(tmp_path, 'epochs', True)])
        assert schedule.seen == expected
    # A new handler without a resume is a new schedule, from where it says.
    schedule = Steps()
    training.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(schedule, step=2)])
    assert schedule.seen == [2, 3, 4]


@pytest.mark.parametrize('how', ['checkpoint', 'states', 'converted'])
def test_the_schedule_goes_on_from_states_that_are_loaded_before(tmp_path, how):
    path, training, schedule = str(tmp_path / 'states'), estimator(network()), Steps()
    handler = schedules.KLWeightHandler(schedule)
    training.fit(data(), epochs=1, event_handlers=[handler])
    if how == 'checkpoint':
        save_checkpoint(path, training.net, training.trainer, training.loss)
    else:
        training.trainer.save_states(path)
    if how == 'converted':
        convert_trainer_states(path, path, 'fusedadam')

    def load(into):
        if how == 'checkpoint':
            load_checkpoint(path, into.net, into.trainer, into.loss)
        else:
            into.trainer.load_states(path)

    other, steps = estimator(network()), Steps()
    load(other)
    other.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(steps)])
    assert steps.seen == [3, 4, 5] and other.loss.kl_weight == steps(5)
    # The same handler, and states of a time before.
    training.fit(data(), epochs=1, event_handlers=[handler])
    load(training)
    training.fit(data(), epochs=1, event_handlers=[handler])
    assert schedule.seen == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    # Where they are loaded, and a step is given, that counts.
    for given in (schedules.KLWeightHandler(Steps(), step=9), schedules.KLWeightHandler(Steps())):
        load(other)
        given.step = 9
        other.fit(data(), epochs=1, event_handlers=[given])
        assert given.schedule.seen == [9, 10, 11] and given.step == 12
    # They are of the step where the Trainer is.
    third = estimator(network())
    third.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(Steps())])
    load(third)
    steps = Steps()
    third.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(steps)])
    assert steps.seen == [3, 4, 5]


def test_an_optimizer_that_is_copied_was_not_loaded():
    training, steps = estimator(network()), Steps()
    training.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(Steps())])
    training.trainer = gluon.Trainer(training.net.collect_params(), copy.deepcopy(training.trainer.optimizer))
    training.fit(data(), epochs=1, event_handlers=[schedules.KLWeightHandler(steps)])
    assert steps.seen == [0, 1, 2]


def test_a_checkpoint_of_before_the_schedule(tmp_path):
    path, training, schedule, lines = str(tmp_path / 'states'), estimator(network()), Steps(), []
    handler, log = schedules.KLWeightHandler(schedule), logging.Handler()
    training.fit(data(), epochs=1)
    save_checkpoint(path, training.net, training.trainer, training.loss)
    training.fit(data(), epochs=1, event_handlers=[handler])
    load_checkpoint(path, training.net, training.trainer, training.loss)
    log.emit = lambda record: lines.append(record.getMessage())
    training.logger.addHandler(log)
    training.fit(data(), epochs=1, event_handlers=[handler])
    assert schedule.seen == list(range(6))
    assert 'the states that were loaded are of training without it; its schedule goes on from step 3' in ' '.join(lines)


def test_checkpoint_of_training_without_a_schedule(tmp_path):
    estimator(network()).fit(data(), epochs=1, event_handlers=[checkpoints(tmp_path, 'epochs', True)])
    training, schedule, lines = estimator(network()), Steps(), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    training.logger.addHandler(handler)
    training.fit(data(), epochs=2, event_handlers=[
        checkpoints(tmp_path, 'epochs', True), schedules.KLWeightHandler(schedule, step=5)])
    assert schedule.seen == [5, 6, 7]
    assert 'the states that were loaded are of training without it; its schedule goes on from step 5' in ' '.join(lines)


class Writer:
    """What SummaryHandler uses of a summary writer."""

    def __init__(self):
        self.scalars, self.histograms = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, []).append((step, value))

    def add_histogram(self, tag, values, step):
        self.histograms.setdefault(tag, []).append((step, values))


def test_summaries(mode):
    net, writer = network(mode), Writer()
    training = estimator(net, train_metrics=[mx.metric.Accuracy()])
    handler = SummaryHandler(writer, training.train_metrics + training.val_metrics)
    training.fit(data(), val_data=data(7, seed=4), epochs=2, event_handlers=[handler])
    assert sorted(writer.scalars) == sorted(f'{kind}/{name}' for kind in ('training', 'validation')
                                            for name in ('nll', 'kl', 'elbo', 'accuracy'))
    assert [step for step, _ in writer.scalars['validation/elbo']] == [3, 6]
    assert writer.scalars['validation/elbo'][-1][1] == training.val_metrics[2].get()[1]
    mu, sigma = (array.asnumpy() for array in net[0].posterior()['weight'])
    step, last = writer.histograms[net[0].weight.name + '/sigma'][-1]
    np.testing.assert_array_equal(last, sigma.ravel())
    np.testing.assert_allclose(writer.histograms[net[0].weight.name + '/signal_to_noise_dB'][-1][1],
                               20 * np.log10(abs(mu) / sigma).ravel(), rtol=1e-5, atol=1e-4)
    assert step == 6 and len(writer.histograms) == 8
    prune(net, 0.5)
    training.fit(data(), epochs=1, event_handlers=[handler])
    counts = [writer.histograms[name + '/sigma'][-1][1].size for block in net for name in (
        block.weight.name, block.bias.name) if writer.histograms[name + '/sigma'][-1][0] == 9]
    assert sum(counts) == sum(param.data().size for param in net.collect_params('.*(weight|bias)$').values()) // 2 + 1


def test_summary_handler_checks_its_arguments():
    with pytest.raises(TypeError, match='writer must have the method add_scalar'):
        SummaryHandler(object(), [])
    with pytest.raises(TypeError, match='metrics must be a list of EvalMetric'):
        SummaryHandler(Writer(), mx.metric.Accuracy())
    plain = nn.Dense(2, in_units=4)
    plain.initialize()
    training = Estimator(plain, gluon.loss.SoftmaxCrossEntropyLoss(), context=mx.cpu(),
                         trainer=gluon.Trainer(plain.collect_params(), 'sgd'))
    training.logger.handlers = []
    with pytest.raises(ValueError, match='at least one Bayesian layer'):
        training.fit(data(), epochs=1, event_handlers=[SummaryHandler(Writer(), training.train_metrics)])
    assert training.trainer.optimizer.num_update == 0       # before the first batch, and not after the first epoch
    training.fit(data(), epochs=1, event_handlers=[
        SummaryHandler(Writer(), training.train_metrics, histograms=False)])
