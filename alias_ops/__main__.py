"""``python -m alias_ops``, the same as the command ``alias-ops``."""

import sys

from .cli import main

sys.exit(main())
