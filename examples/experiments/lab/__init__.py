"""What the experiments share: data, networks, trainings and their store, checks, tables, figures, the command line."""

import sys
from pathlib import Path

# A script puts its own folder on the path; the packages `demo` and `fgsm` lie beside that.
_EXAMPLES = str(Path(__file__).resolve().parents[2])
if _EXAMPLES not in sys.path:
    sys.path.append(_EXAMPLES)
