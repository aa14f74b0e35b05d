# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayes by Backprop as layers for Apache MXNet Gluon."""
from ._mxnet import numpy_names  # noqa: F401, before all that imports mxnet
from . import metrics, native, schedules
from .block import BayesBlock
from .deterministic import draw, to_deterministic
from .inventory import PosteriorSummary, SummaryRow, posterior_summary
from .layers import (BayesConv1D, BayesConv1DTranspose, BayesConv2D, BayesConv2DTranspose, BayesConv3D,
                     BayesConv3DTranspose, BayesDense, BayesEmbedding)
from .likelihoods import (BernoulliNLLLoss, CategoricalNLLLoss, GaussianNLLLoss, HeteroscedasticGaussianNLLLoss,
                          PoissonNLLLoss, StudentTNLLLoss)
from .loss import BBBLoss, kl_divergence
from .monte_carlo import MonteCarlo
from .optimizer import FusedAdam
from .posterior.parameters import mu_params, rho_params
from .posterior.priors import GaussianPrior, LaplacePrior, MixturePrior, Prior, ScaleMixturePrior, StudentTPrior
from .predict import predict
from .prune import prune, pruning_curve, signal_to_noise
from .recurrent import BayesGRU, BayesGRUCell, BayesLSTM, BayesLSTMCell, BayesRNN, BayesRNNCell
from .set_prior import posterior_as_prior, set_prior
from .sparse import SparseDense, to_sparse
from .summary import SummaryHandler
from .to_bayesian import to_bayesian
from .trainer_states import convert_trainer_states
from .uncertainty import credible_interval, gaussian_uncertainty, uncertainty

#: The version of this package.
__version__ = '0.1.0'

__all__ = ['BayesBlock', 'BayesDense', 'BayesConv1D', 'BayesConv2D', 'BayesConv3D', 'BayesConv1DTranspose',
           'BayesConv2DTranspose', 'BayesConv3DTranspose', 'BayesEmbedding', 'BayesRNN', 'BayesLSTM', 'BayesGRU',
           'BayesRNNCell', 'BayesLSTMCell', 'BayesGRUCell', 'BBBLoss', 'kl_divergence', 'CategoricalNLLLoss',
           'GaussianNLLLoss', 'HeteroscedasticGaussianNLLLoss', 'StudentTNLLLoss', 'BernoulliNLLLoss', 'PoissonNLLLoss',
           'Prior', 'GaussianPrior', 'MixturePrior', 'ScaleMixturePrior', 'LaplacePrior', 'StudentTPrior', 'set_prior',
           'posterior_as_prior', 'predict', 'MonteCarlo', 'draw', 'to_deterministic', 'to_bayesian', 'uncertainty',
           'gaussian_uncertainty', 'credible_interval', 'prune', 'pruning_curve', 'signal_to_noise', 'SparseDense',
           'to_sparse', 'posterior_summary', 'PosteriorSummary', 'SummaryRow', 'mu_params', 'rho_params', 'FusedAdam',
           'convert_trainer_states', 'SummaryHandler', 'native', 'metrics', 'schedules', '__version__']
