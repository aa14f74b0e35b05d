# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Plots. Each function draws on a matplotlib Axes and returns it; the caller shows or saves the figure.

Arrays may be NDArrays, numpy arrays, or sequences of such arrays or of numbers. The shape (n, 1) counts as (n,), since
a layer with one unit returns arrays of this shape. If an argument is wrong, the error is raised before anything is
drawn.

This subpackage needs matplotlib, and the rest of bbb_layers does not: ``pip install 'bbb-layers[plot]'``.
"""
from .predictions import plot_entropy, plot_images, plot_regression, plot_reliability
from .training import plot_accuracy, plot_training
from .weights import plot_posterior, plot_pruning_curve, plot_signal_to_noise

__all__ = ['plot_training', 'plot_accuracy', 'plot_posterior', 'plot_signal_to_noise', 'plot_pruning_curve',
           'plot_reliability', 'plot_entropy', 'plot_regression', 'plot_images']
