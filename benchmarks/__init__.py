"""The benchmark of alias_ops: ``make bench``, or ``alias-ops bench`` where the package is installed."""
