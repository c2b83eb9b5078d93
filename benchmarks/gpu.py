"""Stages of a run on a GPU, each a command of its own; ``benchmarks/gpu.sh`` calls them in turn.

    python -m benchmarks.gpu STAGE --out FILE [--dry-run]

STAGE: ceilings, pooling, aliasing, convolutions, cuda, sanitize; then fastest, which writes alias_ops/ops/fastest.json,
and report.

Every case is checked against float64 before it is timed and written as soon as it is known.
"""

import argparse
import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import alias_ops
from alias_ops import reference
from alias_ops.cli.info import facts

from . import peers
from .bench_measure import GRADIENT_SLACK, conv_error
from .bench_pooling import built, error_of
from .cases import CONV_ROWS, LAYERS, Conv
from .gpu_run import Call, Run, extra_memory, tf32, within
from .race import checked, spread

__all__ = ["main"]

CHANNELS = 64
CUDA_SIDES = (8, 14, 16, 28, 32, 56, 64, 112)
POOL_SIZES = (14, 28, 32, 56, 112, 224)
NETWORKS = [layer for layer in LAYERS if layer.name.startswith(("ResNet-50", "WRN-28-10"))]
IN_PARTS = Conv("64→128 at 112, 3x3", 16, 64, 128, 112, 3)  # whose input the CUDA C++ kernel takes in parts
TF32_SLACK = 500.0  # 1e-3 instead of 2e-6

# ---- stages ----------------------------------------------------------------------------------------------------------


def ceilings(run: Run) -> None:
    """Copy bandwidth of the run's size, rates of a large product in each precision, and what machine this is."""
    run.document["machine"] = facts()
    run.document["started"] = datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds")
    if not run.dry:
        properties = torch.cuda.get_device_properties(0)
        run.document["device"] = {
            "name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "capability": list(torch.cuda.get_device_capability(0)),
        }
    source = torch.randn(run.bytes // 4, device=run.device)
    target = torch.empty_like(source)
    seconds = run.time(lambda: target.copy_(source))["median"]
    found = {"copy, bytes a second": 2 * source.nbytes / seconds}
    n = 64 if run.dry else 8192
    for name, dtype, allowed in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        with tf32(allowed):
            a, b = (torch.randn(n, n, device=run.device).to(dtype) for _ in range(2))
            found[f"{name}, operations a second"] = 2 * n**3 / run.time(lambda a=a, b=b: a @ b)["median"]
    run.document["ceilings"] = found
    run.write()
    print(found)


def _maps(run: Run, n: int, dtype: torch.dtype) -> torch.Tensor:
    """[B, C, n, n] of random numbers, the run's bytes or a little more."""
    channels = 2 if run.dry else CHANNELS
    batch = -(-run.bytes // (channels * n * n * dtype.itemsize))
    return torch.randn(batch, channels, n, n, device=run.device, dtype=dtype)


def _sizes(run: Run, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return sizes[:2] if run.dry else sizes


def _differentiating(layer: Callable, x: torch.Tensor, dy: torch.Tensor) -> Call:
    leaf = x.detach().requires_grad_()

    def both():
        return torch.autograd.grad(layer(leaf), leaf, dy)

    return both


def pooling(run: Run) -> None:
    """FLC and ASAP, forward and backward, against a copy of as many bytes; then against what people pool with."""
    for dtype in (torch.float32, torch.bfloat16):
        for pool in ("flc", "asap"):
            layer = getattr(alias_ops, f"{pool}_pool2d")
            for n in _sizes(run, POOL_SIZES):
                x = _maps(run, n, dtype)
                leaf = x.detach().requires_grad_()
                y = layer(leaf)
                dy = torch.randn_like(y)
                calls: dict[str, Call] = {"alias_ops": lambda x=x, layer=layer: layer(x)}
                calls["alias_ops backward"] = lambda y=y, leaf=leaf, dy=dy: torch.autograd.grad(
                    y, leaf, dy, retain_graph=True
                )
                moved = x.nbytes + y.nbytes
                case = {"op": f"{pool}_pool2d", "n": n, "dtype": str(dtype).removeprefix("torch."), "bytes": moved}
                run.case(case, calls, partial(error_of, pool, x, y.detach(), dy, "both"))
    place = 2 if run.dry else CHANNELS, run.device, torch.float32
    name, module = peers.published(None)
    rivals = {
        name: module,
        "max_pool2d": peers.max_pool2d,
        "BlurPool (timm)": built(peers.timm, *place),
        "depthwise convolution": peers.depthwise(*place),
    }
    for n in _sizes(run, POOL_SIZES):
        x = _maps(run, n, torch.float32)
        y = alias_ops.flc_pool2d(x)
        dy = torch.randn_like(y)
        layers = {"alias_ops": alias_ops.flc_pool2d, **rivals}
        check = partial(error_of, "flc", x, y, dy, "both")
        case = {"op": "flc_pool2d against peers", "n": n, "dtype": "float32"}
        forward = {who: (lambda x=x, layer=layer: layer(x)) for who, layer in layers.items()}
        run.case({**case, "direction": "forward"}, forward, check)
        both = {who: _differentiating(layer, x, dy) for who, layer in layers.items()}
        run.case({**case, "direction": "forward+backward"}, both, lambda: 0.0)


def aliasing(run: Run) -> None:
    """The measure of stride-1 maps against one read of them, and against its definition."""
    for dtype, allowed in ((torch.bfloat16, False), (torch.float32, True), (torch.float32, False)):
        for n in _sizes(run, (14, 28, 56, 112, 224)):
            x = _maps(run, n, dtype)

            def check(x=x, allowed=allowed):
                chosen = spread(x.shape[0] * x.shape[1], max(2, 500_000 // x.shape[2] ** 2)).to(x.device)
                exact = reference.aliasing(x.flatten(0, 1)[chosen].double(), reduction="none")
                found = alias_ops.aliasing(x, reduction="none").flatten()[chosen]
                return checked(found, exact, x.dtype, TF32_SLACK if allowed else 1.0)

            leaf = x.detach().requires_grad_()
            calls = {
                "alias_ops": lambda x=x: alias_ops.aliasing(x, reduction="none"),
                "alias_ops with gradient": lambda leaf=leaf: torch.autograd.grad(alias_ops.aliasing(leaf), leaf),
                "definition": lambda x=x: reference.aliasing(x.float(), reduction="none"),
            }
            precision = "tf32" if allowed else str(dtype).removeprefix("torch.")
            with tf32(allowed):
                run.case({"op": "aliasing", "n": n, "dtype": precision, "bytes": x.nbytes}, calls, check)


def _layer(run: Run, conv: Conv, precision: str) -> tuple[torch.Tensor, torch.Tensor, int, dict[str, Any]]:
    """x of the run's bytes, the weight, the padding, and what a result says of them."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    batch = 2 if run.dry else -(-run.bytes // (conv.channels * conv.size**2 * dtype.itemsize))
    x = torch.randn(batch, conv.channels, conv.size, conv.size, device=run.device, dtype=dtype)
    weight = torch.randn(conv.outputs, conv.channels, conv.kernel, conv.kernel, device=run.device, dtype=dtype)
    weight /= (conv.channels * conv.kernel**2) ** 0.5
    case = {"layer": conv.name, "batch": batch, "dtype": precision}
    case["stride-1 map"] = batch * conv.outputs * conv.size**2 * dtype.itemsize
    return x, weight, conv.kernel // 2, case


def _convolution(run: Run, conv: Conv, precision: str) -> None:
    x, weight, padding, case = _layer(run, conv, precision)
    y = F.conv2d(x, weight, stride=2, padding=padding)

    def given():
        return alias_ops.conv2d_aliasing(x, weight, padding=padding, output=y)

    def alone():
        return alias_ops.conv2d_aliasing(x, weight, padding=padding)

    def check():
        if precision != "tf32":
            return conv_error(x[:64], weight, y[:64], padding, "forward")
        exact = reference.conv2d_aliasing(x[:64].double(), weight.double(), padding=padding, reduction="none")
        found = alias_ops.conv2d_aliasing(x[:64], weight, padding=padding, output=y[:64], reduction="none")
        return checked(found, exact, x.dtype, TF32_SLACK)

    calls: dict[str, Call] = {
        "alias_ops, output given": given,
        "alias_ops": alone,
        "stride-1 convolution": lambda: F.conv2d(x, weight, padding=padding),
        "strided convolution": lambda: F.conv2d(x, weight, stride=2, padding=padding),
        "definition": lambda: reference.conv2d_aliasing(x.float(), weight.float(), padding=padding),
    }
    run.case({"op": "conv2d_aliasing", **case, "extra memory": extra_memory(given)}, calls, check)


def _convolution_gradients(run: Run, conv: Conv, precision: str) -> None:
    x, weight, padding, case = _layer(run, conv, precision)
    leaves = x.requires_grad_(), weight.requires_grad_()
    maps = alias_ops.conv2d_aliasing(*leaves, padding=padding)
    y = F.conv2d(*leaves, stride=2, padding=padding)
    dy = torch.randn_like(y)

    def ours():
        return torch.autograd.grad(maps, leaves, retain_graph=True)

    def form():
        with alias_ops.backend("reference"):
            return torch.autograd.grad(maps, leaves, retain_graph=True)

    def check():
        few = x[:16].detach().requires_grad_(), weight.detach().requires_grad_()
        exact = [t.detach().double().requires_grad_() for t in few]
        expected = torch.autograd.grad(reference.conv2d_aliasing(*exact, padding=padding), exact)
        found = torch.autograd.grad(alias_ops.conv2d_aliasing(*few, padding=padding), few)
        slack = GRADIENT_SLACK * (TF32_SLACK if precision == "tf32" else 1.0)
        return max(checked(a, b, x.dtype, slack) for a, b in zip(found, expected))

    calls: dict[str, Call] = {
        "alias_ops": ours,
        "alias_ops, in PyTorch": form,
        "strided convolution": lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True),
    }
    run.case({"op": "conv2d_aliasing gradients", **case, "extra memory": extra_memory(ours)}, calls, check)


def convolutions(run: Run) -> None:
    """The measure of convolutions, output given and not, against the layer itself and the definition; its gradients."""
    plain = Conv("tiny", 2, 3, 4, 8, 3)
    for precision in ("tf32", "bfloat16", "float32"):
        for conv in [plain] if run.dry else CONV_ROWS if precision == "float32" else [*CONV_ROWS, *NETWORKS]:
            with tf32(precision == "tf32"):
                _convolution(run, conv, precision)
        for conv in [plain] if run.dry else CONV_ROWS:
            with tf32(precision == "tf32"):
                _convolution_gradients(run, conv, precision)


def _convolution_by_cuda(run: Run, conv: Conv, precision: str, backends: tuple[str, ...]) -> None:
    x, weight, padding, case = _layer(run, conv, precision)

    def measure():
        return alias_ops.conv2d_aliasing(x, weight, padding=padding)

    def check():
        exact = reference.conv2d_aliasing(x[:64].double(), weight.double(), padding=padding, reduction="none")
        with alias_ops.backend(backends[-1]):
            found = alias_ops.conv2d_aliasing(x[:64], weight, padding=padding, reduction="none")
        return checked(found, exact, x.dtype, TF32_SLACK if precision == "tf32" else 1.0)

    calls: dict[str, Call] = {name: within(name, measure) for name in backends}
    calls["strided convolution"] = lambda: F.conv2d(x, weight, stride=2, padding=padding)
    dtype = str(x.dtype).removeprefix("torch.")
    run.case({"op": "conv2d_alias_l1 by cuda", **case, "dtype": dtype, "tf32": precision, "n": conv.size}, calls, check)


def cuda(run: Run) -> None:
    """The CUDA C++ kernels against Triton's: poolings, and against a copy of as many bytes; convolutions."""
    backends = ("reference",) if run.dry else ("triton", "cuda")
    for precision in ("tf32", "bfloat16", "float32"):
        for conv in [Conv("tiny", 2, 3, 4, 8, 3)] if run.dry else [*CONV_ROWS, IN_PARTS]:
            with tf32(precision == "tf32"):
                _convolution_by_cuda(run, conv, precision, backends)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for pool in ("flc", "asap"):
            layer = getattr(alias_ops, f"{pool}_pool2d")
            for n in _sizes(run, CUDA_SIDES):
                x = _maps(run, n, dtype)
                leaf = x.detach().requires_grad_()
                y = layer(leaf)
                dy = torch.randn_like(y)
                calls: dict[str, Call] = {}
                for name in backends:
                    calls[name] = within(name, lambda x=x, layer=layer: layer(x))
                    calls[f"{name} backward"] = within(
                        name, lambda y=y, leaf=leaf, dy=dy: torch.autograd.grad(y, leaf, dy, retain_graph=True)
                    )
                case = {"op": "separable2d by cuda", "pool": pool, "n": n, "dtype": str(dtype).removeprefix("torch.")}
                moved = {"bytes": x.nbytes + y.nbytes}
                with alias_ops.backend(backends[-1]):
                    y = layer(leaf)
                    run.case({**case, **moved}, calls, partial(error_of, pool, x, y.detach(), dy, "both"))


def sanitize(run: Run) -> None:
    """One small call of every kind of CUDA C++ kernel, for compute-sanitizer to watch."""
    for dtype in (torch.float32, torch.bfloat16):
        for pool in ("flc", "asap"):
            for n in _sizes(run, (8, 14, 28, 64, 112)):
                x = torch.randn(37, n, n, device=run.device).to(dtype).requires_grad_()
                y = getattr(alias_ops, f"{pool}_pool2d")(x)
                torch.autograd.grad(y, x, torch.randn_like(y))
        for n, kernel in ((8, 1), (15, 3), (32, 3), (34, 1), (66, 1)):
            x = torch.randn(3, 18, n, n, device=run.device).to(dtype)
            weight = torch.randn(20, 18, kernel, kernel, device=run.device).to(dtype)
            alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2)
    if not run.dry:
        torch.cuda.synchronize()


STAGES = {
    "ceilings": ceilings,
    "pooling": pooling,
    "aliasing": aliasing,
    "convolutions": convolutions,
    "cuda": cuda,
    "sanitize": sanitize,
}
# What runs where the stage does not say it itself.
BACKENDS = {"ceilings": "auto", "cuda": "triton", "sanitize": "cuda"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=[*STAGES, "stage", "fastest", "report"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--status", type=int)
    parser.add_argument("--seconds", type=int)
    arguments = parser.parse_args()
    run = Run(arguments.out, arguments.dry_run)
    if arguments.command == "stage":
        run.document["stages"].append([arguments.name, arguments.status, arguments.seconds])
        run.write()
    elif arguments.command == "fastest":
        from .gpu_report import write_fastest

        write_fastest(run.document)
    elif arguments.command == "report":
        from .gpu_report import lines

        print("\n".join(lines(run.document)))
    else:
        backend = BACKENDS.get(arguments.command, "triton")
        with alias_ops.backend("triton" if run.dry and backend == "cuda" else backend):
            STAGES[arguments.command](run)


if __name__ == "__main__":
    main()
