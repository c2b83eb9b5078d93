"""What an installation must do, run by its own Python and away from any checkout: installed_smoke.py cpu|reference."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import alias_ops
from alias_ops import reference

backend = sys.argv[1]


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"alias_ops {alias_ops.__version__} under PyTorch {torch.__version__}: {what}")


def compare(name: str, got: torch.Tensor, wanted: torch.Tensor) -> None:
    error = float((got.detach().double() - wanted.detach()).norm() / wanted.detach().norm())
    check(error <= 2e-6, f"{name} is off by {error:.1e}")


check(Path(alias_ops.__file__).is_relative_to(sys.prefix), f"imported from {alias_ops.__file__}")
slower = [str(w.message) for w in said if "slower pure-PyTorch path" in str(w.message)]
check(len(slower) == (backend == "reference"), f"warnings at import: {slower}")

torch.manual_seed(0)
for pool in ("flc", "asap"):
    for size in ((14, 15), (32, 32)):
        x = torch.randn(2, 3, *size, requires_grad=True)
        exact_x = x.detach().double().requires_grad_()
        y, exact_y = getattr(alias_ops, f"{pool}_pool2d")(x), getattr(reference, f"{pool}_pool2d")(exact_x)
        weights = torch.randn_like(y)
        y.backward(weights)
        exact_y.backward(weights.double())
        compare(f"{pool}_pool2d of {size}", y, exact_y)
        compare(f"the gradient of {pool}_pool2d of {size}", x.grad, exact_x.grad)

x, weight = torch.randn(2, 4, 15, 16), torch.randn(6, 4, 3, 3, requires_grad=True)
measured = alias_ops.conv2d_aliasing(x, weight, stride=2, padding=1)
compare("conv2d_aliasing", measured, reference.conv2d_aliasing(x.double(), weight.double(), stride=2, padding=1))
measured.backward()
check(bool(weight.grad.abs().sum() > 0), "conv2d_aliasing has no gradient")
compare("aliasing", alias_ops.aliasing(x), reference.aliasing(x.double()))

model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, stride=2, padding=1), alias_ops.FLCPool2d())
with alias_ops.AliasingMonitor(model) as monitor:
    model(x)
check(monitor.compute()["0"] > 0, "AliasingMonitor measures nothing")

command = Path(sys.executable).with_name("alias-ops")
info = json.loads(subprocess.run([command, "info", "--json"], capture_output=True, text=True, check=True).stdout)
check(info["versions"]["torch"] == torch.__version__, f"info says {info['versions']}")
check(info["backends for cpu tensors"]["in use"] == backend, f"info says {info['backends for cpu tensors']}")
built = info["extension"].get("built with torch", "no extension")
check((built == "no extension") == (backend == "reference"), f"info says {info['extension']}")
kernels = info["extension"].get("kernels in use", "pure PyTorch")
print(f"Python {info['versions']['python']}, PyTorch {torch.__version__}: works, kernels {kernels}, built with {built}")
