"""The CPU kernels are compiled once per instruction set; every set that this processor has passes the same tests."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, run_python

from alias_ops import _backend

pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])

SETS = [] if _backend.extension is None else _backend.extension.isas()
# One cross-section of tests per kernel and walk: values in all dtypes, ragged sizes, layouts, extremes.
SELECTION = (
    "cpu and (test_flc_over_sizes or test_every_variant or factors_without_structure or fill_no_vector or test_layouts "
    "or channels_last or test_sizes_and_strides or test_geometries or test_half_precision or proportional or nan "
    "or test_gradients)"
)
FILES = (
    "test_separable2d.py",
    "test_alias_l1.py",
    "test_conv2d_alias_l1.py",
    "test_conv2d_alias_l1_promises.py",
    "test_conv2d_alias_l1_backward.py",
)
IN_USE = """
from alias_ops import _backend
print(_backend.extension.isa() if _backend.extension else _backend.availability()["cpu"])
"""


def test_the_best_set_is_in_use_unless_forced():
    process = run_python(IN_USE, ALIAS_OPS_ISA="")
    assert process.stdout.strip() in SETS, process.stderr
    assert "portable" in SETS


@pytest.mark.parametrize("name", SETS)
def test_every_set_passes_the_tests_of_the_kernels(name):
    forced = run_python(IN_USE, ALIAS_OPS_ISA=name)
    if "this processor does not have it" in forced.stdout:
        pytest.skip(f"this processor does not have {name}")
    assert forced.stdout.strip() == name, forced.stderr
    if name == _backend.extension.isa():
        pytest.skip("in use: the other tests are its tests")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", SELECTION, *FILES]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "ALIAS_OPS_ISA": name, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    process = subprocess.run(command, cwd=ROOT / "tests", env=environment, check=False)
    assert process.returncode == 0


def test_a_set_that_does_not_exist_leaves_pytorch_and_says_why():
    process = run_python(IN_USE, ALIAS_OPS_ISA="mmx")
    assert "ALIAS_OPS_ISA=mmx names no instruction set of this build" in process.stdout, process.stderr
