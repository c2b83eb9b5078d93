"""The papers' spectra as float64 factor matrices: everything the ops need to know of mathematics.

Results are cached by their arguments and shared: treat every tensor as read-only.
"""

from ._cache import CACHED_DESIGNS
from .aliasing import alias_tables, dft_rows, half_band, low_band_rows, low_pass, residual_factors, subsample
from .conv2d import conv_tables, correlation_size, frame_lines, frame_sources, input_rows, tap_factors, tap_phases
from .conv2d_lines import cropped_rows, edge_samples, full_rows
from .conv2d_taps import conv_tables_with_taps, tap_tables
from .pooling import factor_dtype, pooling_factors, pooling_terms
from .spectrum import POOLS, VARIANTS, AxisSpectrum, axis_spectrum, output_size

__all__ = [
    "CACHED_DESIGNS",
    "POOLS",
    "VARIANTS",
    "AxisSpectrum",
    "alias_tables",
    "axis_spectrum",
    "conv_tables",
    "conv_tables_with_taps",
    "correlation_size",
    "cropped_rows",
    "dft_rows",
    "edge_samples",
    "factor_dtype",
    "frame_lines",
    "frame_sources",
    "full_rows",
    "half_band",
    "input_rows",
    "low_band_rows",
    "low_pass",
    "output_size",
    "pooling_factors",
    "pooling_terms",
    "residual_factors",
    "subsample",
    "tap_factors",
    "tap_phases",
    "tap_tables",
]
