# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayes by Backprop as layers for Apache MXNet Gluon."""
from ._mxnet import import_hook  # noqa: F401, before every module that imports mxnet
from . import metrics, native, schedules
from .checkpoint.trainer_states import convert_trainer_states
from .deploy.onnx_export import export_onnx
from .layers.block import BayesBlock
from .layers.linear import (BayesConv1D, BayesConv1DTranspose, BayesConv2D, BayesConv2DTranspose, BayesConv3D,
                            BayesConv3DTranspose, BayesDense, BayesEmbedding)
from .layers.recurrent import BayesGRU, BayesGRUCell, BayesLSTM, BayesLSTMCell, BayesRNN, BayesRNNCell
from .networks.conversion import to_bayesian
from .networks.inventory import PosteriorSummary, SummaryRow, posterior_summary
from .networks.network_priors import posterior_as_prior, set_prior
from .networks.plain import draw, to_deterministic
from .networks.pruning import prune, pruning_curve, signal_to_noise
from .networks.sparse import SparseDense, to_sparse
from .posterior.parameters import mu_params, rho_params
from .posterior.priors import GaussianPrior, LaplacePrior, MixturePrior, Prior, ScaleMixturePrior, StudentTPrior
from .prediction.draws import predict
from .prediction.monte_carlo import MonteCarlo
from .prediction.parts import Interval, Uncertainty, credible_interval, gaussian_uncertainty, uncertainty
from .training.handlers import SummaryHandler
from .training.likelihoods import (BernoulliNLLLoss, CategoricalNLLLoss, GaussianNLLLoss,
                                   HeteroscedasticGaussianNLLLoss, PoissonNLLLoss, StudentTNLLLoss)
from .training.loss import BBBLoss, kl_divergence
from .training.optimizer import FusedAdam

#: The version of this package.
__version__ = '0.1.0'

__all__ = ['BayesBlock', 'BayesDense', 'BayesConv1D', 'BayesConv2D', 'BayesConv3D', 'BayesConv1DTranspose',
           'BayesConv2DTranspose', 'BayesConv3DTranspose', 'BayesEmbedding', 'BayesRNN', 'BayesLSTM', 'BayesGRU',
           'BayesRNNCell', 'BayesLSTMCell', 'BayesGRUCell', 'BBBLoss', 'kl_divergence', 'CategoricalNLLLoss',
           'GaussianNLLLoss', 'HeteroscedasticGaussianNLLLoss', 'StudentTNLLLoss', 'BernoulliNLLLoss', 'PoissonNLLLoss',
           'Prior', 'GaussianPrior', 'MixturePrior', 'ScaleMixturePrior', 'LaplacePrior', 'StudentTPrior', 'set_prior',
           'posterior_as_prior', 'predict', 'MonteCarlo', 'draw', 'to_deterministic', 'to_bayesian', 'uncertainty',
           'gaussian_uncertainty', 'credible_interval', 'Uncertainty', 'Interval', 'prune', 'pruning_curve',
           'signal_to_noise', 'SparseDense', 'to_sparse', 'export_onnx', 'posterior_summary', 'PosteriorSummary',
           'SummaryRow', 'mu_params', 'rho_params', 'FusedAdam', 'convert_trainer_states', 'SummaryHandler', 'native',
           'metrics', 'schedules', '__version__']
