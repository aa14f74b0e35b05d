# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Transposed convolution as a convolution of the stretched input.

MXNet 1.9.1's own operator, Deconvolution, cannot compute the gradient of a weight that is itself computed, as a draw
is: on CPU its oneDNN version writes to memory that is not allocated yet ("could not execute a primitive"; in
``NDArray::UpdateMKLDNNMemDesc``), and in float64 there is none in 3D.
"""
from mxnet import symbol

from .._mxnet.annotations import Mixin
from .._mxnet.arrays import classic, gluon_kind

__all__ = ['TransposedByConvolution']


class TransposedByConvolution(Mixin):
    """Mixin for Gluon's transposed convolutions that replaces their operator; equal but for rounding.

    Raises
    ------
    ValueError
        If ``output_padding`` is not below ``strides``, or ``layout`` has no channels right after the batch axis, both
        of which Gluon's layers find out in the first forward (on CPU).
    """

    _bayesian_only = True       # a deterministic layer has no use for it

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        strides, output_padding, layout = (self._kwargs[name] for name in ('stride', 'adj', 'layout'))
        if not all(0 <= adj < stride for adj, stride in zip(output_padding, strides)):
            raise ValueError(f'output_padding must be below strides, {strides}, and not negative (saw: {output_padding})')
        if not layout.startswith('NC'):
            raise ValueError(f"layout must start with 'NC' (saw: {layout!r})")

    def hybrid_forward(self, F, x, weight, bias=None):
        x, weight, bias = classic((x, weight, bias))
        kwargs, groups = self._kwargs, self._kwargs['num_group']
        # (in, out / groups, ...) -> (out, in / groups, ...)
        kernel = F.reshape(F.swapaxes(F.reshape(weight, shape=(-4, groups, -1, -2)), 1, 2), shape=(-3, -2))
        kernel = F.flip(kernel, axis=tuple(range(2, 2 + len(kwargs['kernel']))))
        if F is symbol:
            kernel = F.broadcast_add(kernel, self._shape_tie(F, x, weight))
        stretched, pad = _stretched(F, x, kwargs)
        out = F.Convolution(*[stretched, kernel] + ([] if bias is None else [bias]), no_bias=bias is None,
                            kernel=kwargs['kernel'], dilate=kwargs['dilate'], pad=pad,
                            num_filter=kwargs['num_filter'], num_group=groups, layout=kwargs['layout'])
        out = gluon_kind(out)
        return out if self.act is None else self.act(out)

    def _shape_tie(self, F, x, weight):
        """0 of a shape that broadcasts to all, from which Gluon can infer the number of input channels: it cannot
        look back through a reshape. One position of one example is all that the operator sees."""
        kwargs, ones = self._kwargs, (1,) * len(self._kwargs['kernel'])
        # BlockGrad stands before Deconvolution, whose backward must not run. If it stood behind, MXNet would run that
        # on a gradient of 0, which raises "could not create a primitive descriptor for a reorder primitive" in a layer
        # with 1 output channel behind a convolution with 16. It stands behind slice, as it would copy all of x.
        position = F.BlockGrad(F.slice(x, begin=(0, None) + (0,) * len(ones), end=(1, None) + ones))
        zeros = F.zeros_like(F.BlockGrad(weight))
        # float32, as there is no other in 3D
        out = F.Deconvolution(F.cast(position, 'float32'), F.cast(zeros, 'float32'),
                              kernel=kwargs['kernel'], stride=ones, dilate=ones, pad=(0,) * len(ones),
                              num_filter=kwargs['num_filter'], num_group=kwargs['num_group'], no_bias=True,
                              layout=kwargs['layout'])
        # oneDNN may keep the output of a convolution in blocks of 8 or 16 channels. In 2D, a slice that ends inside a
        # block kills the process with SIGFPE; the slice above takes all channels, and is safe. So is a reduction.
        tie = F.zeros_like(F.max(out, axis=tuple(range(2 + len(ones))), keepdims=True))
        return F.cast(tie, self.weight.dtype)


def _stretched(F, x, kwargs):
    """``x`` with ``stride - 1`` zeros between its positions, and the padding with which a convolution takes it."""
    begin, end, pad = [], [], []
    for axis, (kernel, stride, dilate, inner, adj) in enumerate(
            zip(*(kwargs[name] for name in ('kernel', 'stride', 'dilate', 'pad', 'adj'))), 2):
        if stride > 1:
            x = F.expand_dims(x, axis=axis + 1)
            x = F.concat(x, *[F.zeros_like(x)] * (stride - 1), dim=axis + 1)
            x = F.reshape(x, shape=(0,) * axis + (-3, -2))
        outer = dilate * (kernel - 1) - inner
        begin.append(max(-outer, 0))
        # stride - 1 zeros follow the last position too; the output's adj more positions need adj of them
        end.append(adj - (stride - 1) - max(-outer, 0))
        pad.append(max(outer, 0))
    if any(begin) or any(end):
        x = F.slice(x, begin=[None, None] + [value or None for value in begin],
                    end=[None, None] + [value or None for value in end])
    return x, tuple(pad)
