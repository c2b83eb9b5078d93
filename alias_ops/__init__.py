"""Measure and prevent aliasing in convolutional networks: exact, fast, on any machine."""

import warnings as _warnings

from . import _backend, designs, frequency, functional, models, nn, ops, plots, reference, spectra
from ._backend import backend
from ._version import __version__
from .functional import aliasing, asap_pool2d, conv2d_aliasing, flc_pool2d
from .monitor import AliasingMonitor
from .nn import AliasingPenalty, ASAPPool2d, FLCPool2d
from .stopping import AliasingEarlyStopping
from .surgery import replace_downsampling

if _backend.slow_path():
    _warnings.warn(_backend.slow_path(), RuntimeWarning, stacklevel=2)  # 2: the line that imports the package

__all__ = [
    "ASAPPool2d",
    "AliasingEarlyStopping",
    "AliasingMonitor",
    "AliasingPenalty",
    "FLCPool2d",
    "__version__",
    "aliasing",
    "asap_pool2d",
    "backend",
    "conv2d_aliasing",
    "designs",
    "flc_pool2d",
    "frequency",
    "functional",
    "models",
    "nn",
    "ops",
    "plots",
    "reference",
    "replace_downsampling",
    "spectra",
]
