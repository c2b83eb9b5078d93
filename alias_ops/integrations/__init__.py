"""Bridges to Lightning, TensorBoard and torchmetrics; import the one you want, this imports none of them.

Anything else takes ``AliasingMonitor.compute()``, a plain dict of names to floats.
"""
