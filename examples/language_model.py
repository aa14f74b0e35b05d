# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A character LSTM with a posterior over all its weights (Fortunato, Blundell, Vinyals 2017), beside the plain one.

The text is Python's own reference, which comes with it as pydoc_data.topics. Both networks have the same shape, start
and training: truncated backpropagation through time, after which each keeps the parameters of its best epoch on the
validation part. Printed are bits per character, log2 of the perplexity, on the test part: of the plain network, of the
posterior mean, and of the Monte Carlo mean over draws, each of which reads the text as one function of its own.

The KL divergence counts once per epoch, which is the ELBO; and in a third network, with a tempered ("cold") posterior,
a tenth of that.
"""
import example      # before mxnet

from bbb_layers import BayesDense, BayesEmbedding, BayesLSTM, BBBLoss, CategoricalNLLLoss, GaussianPrior, draw
from bbb_layers.plot import plot_training
import mxnet as mx
import numpy as np
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn
from pydoc_data.topics import topics

BATCH_SIZE = 16         # streams that are read side by side
CHUNK = 50              # characters between two steps, and as far as the gradients go back
CLIP = 0.5              # largest norm of the gradient, per character


def load_text():
    """The text as indices into its alphabet, and the alphabet."""
    paragraphs = '\n\n'.join(text for _, text in sorted(topics.items())).split('\n\n')
    # Many topics are parts of others: if paragraphs came twice, much of the test part would be known from training.
    text = '\n\n'.join(dict.fromkeys(paragraphs))
    alphabet, indices = np.unique(list(text), return_inverse=True)
    return indices, alphabet


def make_batches(indices, batch_size=BATCH_SIZE, chunk=CHUNK):
    """Pairs of characters and of those that follow them, both of shape (batch_size, chunk).

    The text is cut into ``batch_size`` streams, a row of each batch for each of them, so that states can be carried on.
    Only the first character and fewer than ``batch_size`` at the end are not predicted.
    """
    length = (len(indices) - 1) // batch_size
    used = indices[:batch_size * length + 1]
    data, label = used[:-1].reshape(batch_size, length), used[1:].reshape(batch_size, length)
    return [(nd.array(data[:, start:start + chunk]), nd.array(label[:, start:start + chunk]))
            for start in range(0, length, chunk)]


class LanguageModel(gluon.HybridBlock):
    """Embedding, LSTM and output layer of the three classes given, with all states as input and output."""

    def __init__(self, classes, characters, units, **posterior):
        super().__init__()
        embedding, lstm, dense = classes
        with self.name_scope():
            self.embedding = embedding(characters, units, **posterior)
            self.lstm = lstm(units, layout='NTC', input_size=units, **posterior)
            self.output = dense(characters, flatten=False, in_units=units, **posterior)

    def hybrid_forward(self, F, data, states):      # (batch_size, chunk) and twice (1, batch_size, units)
        hidden, states = self.lstm(self.embedding(data), states)
        return self.output(hidden), states          # logits of shape (batch_size, chunk, characters)


def negative_elbo(net, batches, kl_weight=1.):
    """The loss whose sum over all of ``batches`` has the KL divergence once, with ``kl_weight``.

    An example is a row of a batch: its NLL is the sum over the row's characters, and num_train counts the rows of an
    epoch. Counting characters instead would weigh the KL divergence too little by a factor of CHUNK.
    """
    return BBBLoss(net, num_train=sum(len(data) for data, _ in batches), kl_weight=kl_weight)


def bits(nll, batches):
    """Bits per character, from the nats of all."""
    return float(nll) / sum(label.size for _, label in batches) / np.log(2)


def log_probs(net, batches):
    """Log probability of each character in predict mode: numpy array of shape (batch_size, length), in nats."""
    states, parts = net.lstm.begin_state(batch_size=len(batches[0][0])), []
    for data, label in batches:
        output, states = net(data, states)
        parts.append(output.log_softmax().pick(label))
    return nd.concat(*parts, dim=1).asnumpy()


def train(name, net, loss_fn, train_batches, valid_batches, epochs, lr=0.004):
    """Train, go back to the epoch that was best in validation, and return training and validation bits of all."""
    params = net.collect_params()
    schedule = mx.lr_scheduler.CosineScheduler(epochs * len(train_batches), base_lr=lr, final_lr=lr / 20)
    trainer = gluon.Trainer(params, 'fusedadam', {'learning_rate': lr, 'lr_scheduler': schedule})
    grads = [param.grad() for param in params.values()]
    history, best = [], {}
    for epoch in range(1, epochs + 1):
        states, nll = net.lstm.begin_state(batch_size=BATCH_SIZE), 0
        for data, label in train_batches:
            states = [state.detach() for state in states]       # carried on, but the gradient stops here
            with autograd.record():
                output, states = net(data, states)      # a Bayesian net draws its weights anew for each chunk
                loss = loss_fn(output, label)           # nats per row
            loss.backward()
            gluon.utils.clip_global_norm(grads, CLIP * BATCH_SIZE * CHUNK, check_isfinite=False)
            trainer.step(BATCH_SIZE)
            nll = nll + (loss_fn.nll if isinstance(loss_fn, BBBLoss) else loss).sum()
        history.append((bits(nll.asscalar(), train_batches), bits(-log_probs(net, valid_batches).sum(), valid_batches)))
        print('%-8s  %5d  %8.4f  %10.4f' % ((name, epoch) + history[-1]), flush=True)
        if history[-1][1] == min(valid for _, valid in history):
            best = {key: param.data().copy() for key, param in params.items()}
    for key, value in best.items():
        params[key].set_data(value)
    return np.array(history).T


def plot(curves, results, monte_carlo):
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), layout='constrained')
    plot_training(curves, axes[0], ylabel='bits per character')
    axes[0].set_title('training and validation')
    axes[1].axhline(results['plain'], color='0.3', linestyle=':', label='plain')
    for name, values in monte_carlo.items():
        line, = axes[1].plot(range(1, len(values) + 1), values, marker='o', markersize=4, label=name + ', Monte Carlo')
        axes[1].axhline(results[name + ', posterior mean'], color=line.get_color(), linestyle='--',
                        label=name + ', posterior mean')
    axes[1].set(title='test', xlabel='number of draws', ylabel='bits per character')
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes:
        ax.autoscale(axis='y')      # plot_training has left room for its legend within
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.13), ncol=2)
    return figure


def main():
    args = example.parser(__doc__, 'language_model').parse_args()
    example.seed_all(args.seed)
    indices, alphabet = load_text()
    units, epochs, num_draws = 128, 16, 32
    if args.quick:
        indices, units, epochs, num_draws = indices[:20000], 32, 3, 4
    size = len(indices)
    parts = [make_batches(part) for part in np.split(indices, [size * 8 // 10, size * 9 // 10])]
    train_batches, valid_batches, test_batches = parts
    print('%d characters, %d kinds; training, validation and test: %s' % (
        size, len(alphabet), ', '.join('%d' % sum(label.size for _, label in part) for part in parts)))

    bayesian = dict(prior=GaussianPrior(sigma=0.2), initial_sigma=0.02)
    print('bits per character\nnetwork   epoch  training  validation')
    nets, curves, results, monte_carlo = {}, {}, {}, {}
    for name, kl_weight in ('plain', None), ('Bayesian', 1.), ('tempered', 0.1):
        example.seed_all(args.seed)
        if kl_weight is None:
            net = LanguageModel((nn.Embedding, rnn.LSTM, nn.Dense), len(alphabet), units)
            loss_fn = CategoricalNLLLoss()
        else:
            net = LanguageModel((BayesEmbedding, BayesLSTM, BayesDense), len(alphabet), units, **bayesian)
            loss_fn = negative_elbo(net, train_batches, kl_weight)
        net.initialize(mx.init.Xavier())
        net.hybridize()
        nets[name] = net
        curves[name + ', training'], curves[name + ', validation'] = train(
            name, net, loss_fn, train_batches, valid_batches, epochs)

    for name, net in nets.items():
        results[name if name == 'plain' else name + ', posterior mean'] = bits(
            -log_probs(net, test_batches).sum(), test_batches)
        if name != 'plain':
            draws = np.stack([log_probs(draw(net), test_batches) for _ in range(num_draws)])
            # A character's mean probability, given all before it, under the first s draws, for s = 1 to num_draws.
            means = np.logaddexp.accumulate(draws, axis=0) - np.log(np.arange(1, num_draws + 1))[:, None, None]
            monte_carlo[name] = [bits(-log_p.sum(), test_batches) for log_p in means]
            results['%s, %d draws' % (name, num_draws)] = monte_carlo[name][-1]
    print('%-24s  bits per character  perplexity' % 'test')
    for name, value in results.items():
        print('%-24s  %18.4f  %10.4f' % (name, value, 2 ** value))

    example.save_figure(plot(curves, results, monte_carlo), args.output, 'language_model')


if __name__ == '__main__':
    main()
