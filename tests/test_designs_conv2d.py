"""Identities 4 and 7 along one axis: tables of a strided convolution against the convolution run with stride 1."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randn

from alias_ops import designs

DOUBLE = torch.float64
SIZES = (1, 2, 5, 8, 9, 16, 23)
PADDINGS = (0, 1, 2, 3, 9)
DILATIONS = (1, 2, 3)

kernels = pytest.mark.parametrize("kernel", range(1, 8))
strides = pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])


def geometries(kernel, stride):
    """Every (size, kernel, stride, padding, dilation) of the grid whose kernel fits into the padded axis."""
    return [
        (size, kernel, stride, padding, dilation)
        for size in SIZES
        for padding in PADDINGS
        for dilation in DILATIONS
        if designs.correlation_size(size, kernel, padding, dilation) >= 1
    ]


def correlate(x, w, padding, dilation):
    return F.conv1d(x[None, None], w[None, None], padding=padding, dilation=dilation)[0, 0]


def replicate(g, stride):
    return torch.cat([g, g[-1:].expand(-len(g) % stride)])


def tables(function, geometry):
    values = function(*geometry)
    return torch.complex(values[0], values[1])


@strides
@kernels
def test_correlation_size_is_the_stride_1_output(kernel, stride):
    for size, _, _, padding, dilation in geometries(kernel, stride):
        outputs = correlate(randn(size), randn(kernel, seed=1), padding, dilation)
        assert len(outputs) == designs.correlation_size(size, kernel, padding, dilation)


@strides
@kernels
def test_identity_4_taps_of_s_and_p_are_the_stride_1_convolution(kernel, stride):
    for geometry in geometries(kernel, stride):
        size, _, _, padding, dilation = geometry
        x, w = randn(size), randn(kernel, seed=1)
        g = correlate(x, w, padding, dilation)
        s, p = designs.tap_factors(*geometry)
        outputs = designs.output_size(len(g), stride)
        assert s.shape == p.shape == (kernel, outputs, size), geometry
        # Padding wider than the map leaves outputs, or all of g, that no sample reaches: hence the scale.
        scale = x.norm() * w.norm()
        assert_close(torch.einsum("t,tnh,h->n", w, s, x), g[::stride], DOUBLE, scale=scale)
        low_passed = designs.low_pass(len(g), stride) @ g
        assert_close(torch.einsum("t,tnh,h->n", w, p, x), low_passed, DOUBLE, scale=scale)


@strides
@kernels
def test_identity_4_taps_of_p_are_one_low_passed_map_at_their_places_and_lines(kernel, stride):
    for geometry in geometries(kernel, stride):
        expected = designs.tap_factors(*geometry)[1]
        base, turns, places, profiles, sources = designs.tap_tables(*geometry)
        maps = [base, *(turn @ base for turn in turns)]
        assert base.shape == expected.shape[1:]
        assert places.shape == (kernel, 2)
        for tap, (place, shift) in enumerate(places.tolist()):
            actual = maps[place].roll(-shift, 0)
            for profile, source in zip(profiles, sources[:, tap].tolist(), strict=True):
                if source >= 0:
                    actual[:, source] += profile
            assert_close(actual, expected[tap], DOUBLE, scale=1 + expected[tap].norm())


@strides
@kernels
def test_identity_7_product_and_frame_are_the_spectrum_of_the_stride_1_convolution(kernel, stride):
    for geometry in geometries(kernel, stride):
        size, _, _, padding, dilation = geometry
        x, w = randn(size), randn(kernel, seed=1)
        g = correlate(x, w, padding, dilation)
        bins = designs.half_band(len(g), stride) + 1
        spectrum = tables(designs.tap_phases, geometry).to(torch.complex128) @ w.to(torch.complex128)
        spectrum = spectrum * (tables(designs.input_rows, geometry) @ x.to(torch.complex128))
        weights, sources = designs.frame_lines(*geometry)
        frame = torch.complex(weights[0], weights[1])
        for line, source in zip(frame, sources, strict=True):
            met = source >= 0
            spectrum = spectrum + line * (w[met] @ x[source[met]])
        expected = torch.fft.fft(replicate(g, stride), norm="forward")[:bins]
        actual, expected = (torch.view_as_real(t) for t in (spectrum, expected))
        assert_close(actual, expected, DOUBLE, scale=x.norm() * w.norm())


@strides
@kernels
def test_tables_have_the_documented_shapes(kernel, stride):
    for geometry in geometries(kernel, stride):
        size = geometry[0]
        outputs = designs.output_size(designs.correlation_size(size, kernel, *geometry[3:]), stride)
        bins = designs.half_band(designs.correlation_size(size, kernel, *geometry[3:]), stride) + 1
        weights, sources = designs.frame_lines(*geometry)
        lines = len(sources)
        assert designs.input_rows(*geometry).shape == (2, bins, size), geometry
        assert designs.tap_phases(*geometry).shape == (2, bins, kernel), geometry
        assert weights.shape == (2, lines, bins), geometry
        assert sources.shape == (lines, kernel), geometry
        assert sources.dtype == torch.int64, geometry
        rows, phases, frame, met, dft, low_pass = designs.conv_tables(*geometry)
        assert rows is designs.input_rows(*geometry)
        assert phases is designs.tap_phases(*geometry)
        assert frame is weights
        assert met is sources
        assert dft is designs.dft_rows(outputs)
        # Identity 4 serves kernels of one tap.
        if kernel == 1:
            assert torch.equal(low_pass, designs.tap_factors(*geometry)[1][0])
        else:
            assert low_pass.shape == (0, size)


def test_tables_in_other_dtypes_are_the_rounded_float64_ones():
    geometry = (9, 1, 2, 1, 1)
    for exact, table in zip(designs.conv_tables(*geometry), designs.conv_tables(*geometry, torch.float32), strict=True):
        assert table.dtype == (torch.int64 if exact.dtype == torch.int64 else torch.float32)
        assert torch.equal(exact.to(table.dtype), table)


@strides
@kernels
def test_frame_lines_name_samples_of_the_input_and_none_in_vain(kernel, stride):
    for geometry in geometries(kernel, stride):
        _, sources = designs.frame_lines(*geometry)
        assert ((sources >= -1) & (sources < geometry[0])).all(), geometry
        assert (sources >= 0).any(1).all(), geometry


@pytest.mark.parametrize(
    ("geometry", "lines"),
    [
        ((16, 1, 2, 0, 1), 0),  # nothing sticks out, nothing is replicated
        ((15, 1, 2, 0, 1), 1),  # the replica of the last line
        ((16, 3, 2, 1, 1), 2),  # "for k = 3, p = 1 that is two lines"
        ((16, 5, 2, 2, 1), 4),
        ((16, 3, 2, 2, 2), 4),
        ((16, 3, 2, 0, 1), 4),  # two at each end: the layer crops what the full correlation has
        ((15, 3, 2, 1, 1), 3),
    ],
)
def test_number_of_frame_lines(geometry, lines):
    weights, sources = designs.frame_lines(*geometry)
    assert weights.shape[1] == len(sources) == lines


# ---- the lines by themselves -----------------------------------------------------------------------------------------


@strides
@kernels
def test_cropped_rows_are_the_spectrum_of_what_the_layer_keeps(kernel, stride):
    for geometry in geometries(kernel, stride)[::3]:
        size, _, _, padding, dilation = geometry
        x, w = randn(size), randn(kernel, seed=1)
        g = replicate(correlate(x, w, padding, dilation), stride)
        rows = designs.cropped_rows(*geometry)
        bins = designs.half_band(designs.correlation_size(size, kernel, padding, dilation), stride) + 1
        assert rows.shape == (2, kernel, bins, size), geometry
        assert rows.is_contiguous()
        expected = torch.fft.fft(g, norm="forward")[:bins]
        expected = torch.stack([expected.real, expected.imag])
        assert_close(torch.einsum("t,ctfh,h->cf", w, rows, x), expected, DOUBLE, scale=x.norm() * w.norm())


@strides
@kernels
def test_full_rows_are_the_spectrum_of_the_full_correlation(kernel, stride):
    """Of every output that any tap reaches, at its own place: those before the first and past the last included."""
    for geometry in geometries(kernel, stride)[::3]:
        size, _, _, padding, dilation = geometry
        x, w = randn(size), randn(kernel, seed=1)
        reach = dilation * (kernel - 1)
        full = correlate(x, w, reach, dilation)
        length = len(replicate(correlate(x, w, padding, dilation), stride))
        rows = designs.full_rows(*geometry)
        assert rows.shape[::3] == (2, size), geometry
        phases = torch.outer(torch.arange(rows.shape[2]), torch.arange(len(full)) - (reach - padding)).double()
        expected = torch.polar(torch.ones_like(phases), -2 * torch.pi * phases / length) @ full.to(torch.complex128)
        expected = torch.stack([expected.real, expected.imag]) / length
        assert_close(torch.einsum("t,ctfh,h->cf", w, rows, x), expected, DOUBLE, scale=x.norm() * w.norm())


@strides
@kernels
def test_edge_samples_are_those_that_the_lines_meet(kernel, stride):
    for geometry in geometries(kernel, stride):
        _, sources = designs.frame_lines(*geometry)
        assert designs.edge_samples(*geometry) == tuple(sources[sources >= 0].unique().tolist()), geometry
        assert designs.frame_sources(*geometry) == tuple(map(tuple, sources.tolist()))
