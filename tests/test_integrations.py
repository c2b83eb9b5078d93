"""What the integrations have in common: nothing is imported unasked, what is missing is named, a result is a dict."""

import json
import math

import pytest
import torch
from helpers import randn, run_python
from torch import nn

from alias_ops import AliasingMonitor


def test_the_package_imports_none_of_the_libraries():
    done = run_python(
        "import alias_ops, alias_ops.integrations, alias_ops.integrations.tensorboard, sys\n"
        "print({'lightning', 'pytorch_lightning', 'torchmetrics', 'tensorboard'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("name", "missing"), [("lightning", ["lightning", "pytorch_lightning"]), ("torchmetrics", ["torchmetrics"])]
)
def test_a_missing_library_is_named_with_what_installs_it(name, missing):
    class_name = {"lightning": "AliasingCallback", "torchmetrics": "AliasingMeasure"}[name]
    done = run_python(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {missing}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"try: from alias_ops.integrations.{name} import {class_name}\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    needs = {"lightning": "Lightning", "torchmetrics": "torchmetrics"}[name]
    line = f'alias_ops.integrations.{name} needs {needs}: pip install "alias-ops[{name}]"'
    assert done.stdout == f"ImportError {line}\n", done.stderr


@pytest.mark.parametrize("name", ["lightning", "torchmetrics"])
def test_a_library_that_lacks_something_is_not_called_missing(name):
    done = run_python(
        "import sys\n"
        "class Incomplete:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('lightning.pytorch', 'pytorch_lightning', 'torchmetrics'):\n"
        "            raise ModuleNotFoundError('No module named \\'numbers_of_theirs\\'', name='numbers_of_theirs')\n"
        "sys.meta_path.insert(0, Incomplete())\n"
        "import types\n"
        "sys.modules['lightning'] = types.ModuleType('lightning')\n"
        "sys.modules['lightning'].__path__ = []\n"
        f"try: import alias_ops.integrations.{name}\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert done.stdout == "ModuleNotFoundError No module named 'numbers_of_theirs'\n", done.stderr


def test_a_result_is_a_plain_dict_of_floats():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2))
    with AliasingMonitor(model) as monitor:
        model(randn(2, 3, 16, 16, dtype=torch.float32))
    for result in (monitor.compute(), monitor.compute("block"), monitor.last()):
        assert type(result) is dict
        assert {type(value) for value in result.values()} == {float}
        assert json.loads(json.dumps(result)) == result
    assert type(monitor.mean()) is float
    assert math.isfinite(monitor.mean())
