"""Triton kernels compiled without a GPU: every launch that an op would make, for each configuration and chip.

An op's launcher runs on CPU tensors with the launch itself taken out; what it would have launched is compiled as
Triton would compile it there, and the machine code says what it needs. In a process of its own, since under the
interpreter there is nothing to compile: ``run_python(code, TRITON_INTERPRET="0")``, see :func:`report`.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

# Shared memory that one program may have, in bytes, by compute capability.
LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

# What every program has beyond what Triton asks for.
RESERVED = 1024

# Compilers for which the configurations were chosen: with another, a register or two may spill.
CHECKED = ("3.6.", "3.7.")


class Launch(NamedTuple):
    """What would have been launched: a kernel and its arguments by name."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


class Resources(NamedTuple):
    """What a program of one configuration needs on one chip."""

    kernel: str
    label: str
    capability: int
    warps: int
    registers: int
    spilled: int
    shared: int


def _types(name: str, value: Any, specialize: bool) -> tuple[str, Any, bool]:
    """Triton's type of an argument, its value if the code is made for it, whether 16 divides it."""
    if isinstance(value, torch.Tensor):
        short = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
        short |= {torch.int32: "i32", torch.int64: "i64"}
        return f"*{short[value.dtype]}", None, specialize and value.data_ptr() % 16 == 0
    if isinstance(value, bool):
        return "i1", None, False
    if isinstance(value, int):
        if value == 1 and specialize:
            return "constexpr", 1, False
        return "i32" if -(2**31) <= value < 2**31 else "i64", None, specialize and value % 16 == 0
    if isinstance(value, float):
        return "fp32", None, False
    raise TypeError(f"{name}: {value!r}")


def _key(launch: Launch) -> tuple:
    """What the code of a launch depends on, near enough: the types of its tensors, its constants, its warps."""
    plain = {p.name for p in launch.kernel.params if not p.is_constexpr}
    kept = {n: v.dtype if isinstance(v, torch.Tensor) else v for n, v in launch.arguments.items() if n not in plain}
    types = [v.dtype for v in launch.arguments.values() if isinstance(v, torch.Tensor)]
    units = [n for n in plain if isinstance(launch.arguments[n], int) and launch.arguments[n] == 1]
    return str(sorted(kept.items())), str(types), str(sorted(units)), str(launch.options)


def compiled(launch: Launch, capability: int, label: str = "") -> Resources:
    """Compile a launch for a chip; what its machine code needs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        kind, constant, divisible = _types(parameter.name, value, not parameter.do_not_specialize)
        signature[parameter.name] = kind
        if constant is not None:
            constants[parameter.name] = constant
        if divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage.stdout)
    assert found, usage.stdout
    registers, stack, _, local = map(int, found.groups())
    # A kernel of a handful of registers is one that the compiler gave up on and made a trap of.
    assert registers > 8, f"{launch.kernel.fn.__name__} was compiled to nothing: {launch}"
    name = launch.kernel.fn.__name__
    return Resources(
        name, label, capability, launch.options["num_warps"], registers, stack + local, built.metadata.shared
    )


@contextmanager
def launches(*modules: Any, capability: int = 90, tf32: bool = False):
    """Inside the block, launches of these launcher modules are listed, in every configuration for a chip, not made."""
    from triton.runtime.jit import JITFunction

    from alias_ops.kernels import _precision

    listed: list[Launch] = []

    def run(self, *args, grid, warmup, **kwargs):
        names = [parameter.name for parameter in self.params]
        options = {key: kwargs.pop(key) for key in ("num_warps", "num_stages") if key in kwargs}
        listed.append(Launch(self, {**dict(zip(names, args)), **kwargs}, options))

    def chosen(name, size_class, candidates, launch, *rest):
        for config in candidates[1:]:
            launch(config)
        return candidates[0]

    before = JITFunction.run, _precision.tf32_allowed, [(m.chosen, getattr(m, "capability", None)) for m in modules]
    JITFunction.run, _precision.tf32_allowed = run, lambda device_type: tf32
    for module in modules:
        module.chosen, module.capability = chosen, lambda device: capability
    try:
        yield listed
    finally:
        JITFunction.run, _precision.tf32_allowed = before[:2]
        for module, functions in zip(modules, before[2]):
            module.chosen, module.capability = functions


def report(calls: Iterable[tuple[str, Callable[[], Any], bool]], *modules: Any, capabilities=tuple(LIMITS)) -> None:
    """Print, as JSON, the resources of all launches of the calls (label, call, whether TF32 is allowed)."""
    found = []
    seen = set()
    for label, call, tf32 in calls:
        for capability in capabilities:
            with launches(*modules, capability=capability, tf32=tf32) as listed:
                call()
            for launch in listed:
                key = capability, launch.kernel.fn.__name__, *_key(launch)
                if key not in seen:
                    seen.add(key)
                    found.append(compiled(launch, capability, label))
    print(json.dumps(found))


def offenders(text: str, spills: bool = True) -> list[Resources]:
    """Of a report, what asks for more shared memory than the chip has or, unless told not to look, spills registers."""
    found = [Resources(*values) for values in json.loads(text)]
    assert found
    return [r for r in found if (spills and r.spilled) or r.shared + RESERVED > LIMITS[r.capability]]


def misfits(text: str) -> list[Resources]:
    """``offenders`` by the measure of the Triton at hand."""
    return offenders(text, version("triton").startswith(CHECKED))
