"""Triton kernels compiled without a GPU: every launch that an op would make, for each configuration and chip.

An op's launcher runs on CPU tensors with the launch itself taken out; what it would have launched is compiled as
Triton would compile it there, and the machine code says what it needs. In a process of its own, since under the
interpreter there is nothing to compile: ``run_python(code, TRITON_INTERPRET="0")``, see :func:`report`.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

# Shared memory that one program may have, in bytes, by compute capability.
LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

# What every program has beyond what Triton asks for.
RESERVED = 1024

# Compilers for which the configurations were chosen: with another, a register or two may spill.
CHECKED = ("3.6.", "3.7.")

# A label, what to call, and whether TF32 is allowed.
Call = tuple[str, Callable[[], Any], bool]


class Launch(NamedTuple):
    """What would have been launched: a kernel, its arguments by name, its options: ``maxnreg`` if it may have one."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int | None]


class Resources(NamedTuple):
    """What a program of one configuration needs on one chip."""

    kernel: str
    label: str
    capability: int
    warps: int
    registers: int
    spilled: int
    shared: int
    limit: int | None


# What the processes of ``report`` have to compile: a launch, for which chip, its label.
_todo: list[tuple[Launch, int, str]] = []


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


def _key(launch: Launch, ones: bool) -> tuple:
    """What the code of a launch depends on, near enough: the types of its tensors, its constants, its warps.

    Args:
        ones: also on which of its arguments are 1, as strides and counts can be.
    """
    plain = {p.name for p in launch.kernel.params if not p.is_constexpr}
    kept = {n: v.dtype if isinstance(v, torch.Tensor) else v for n, v in launch.arguments.items() if n not in plain}
    types = [v.dtype for v in launch.arguments.values() if isinstance(v, torch.Tensor)]
    units = [n for n in plain if ones and isinstance(launch.arguments[n], int) and launch.arguments[n] == 1]
    return str(sorted(kept.items())), str(types), str(sorted(units)), str(launch.options)


def compiled(launch: Launch, capability: int, label: str = "") -> Resources:
    """Compile a launch for a chip as a device would; what its machine code needs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alias_ops.kernels import _registers

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
    name = launch.kernel.fn.__name__
    done = {}

    def attempt(limit: int | None) -> _registers.Code:
        options = {**launch.options, **({} if limit is None else {"maxnreg": limit})}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        registers, spilled = needs(built.asm["cubin"])
        # A kernel of a handful of registers is one that the compiler gave up on and made a trap of.
        assert registers > 8, f"{name} was compiled to nothing: {launch}"
        shared, warps = built.metadata.shared, launch.options["num_warps"]
        done[limit] = Resources(name, label, capability, warps, registers, spilled, shared, limit)
        return _registers.Code(registers, spilled)

    first = attempt(None)
    if first.spilled and "maxnreg" in launch.options:
        return done[_registers.tightest(attempt, first, launch.options["num_warps"])]
    return done[None]


def needs(cubin: bytes) -> tuple[int, int]:
    """Registers that machine code takes, and bytes of memory in place of others."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage.stdout)
    assert found, usage.stdout
    registers, stack, _, local = map(int, found.groups())
    return registers, stack + local


@contextmanager
def launches(*modules: Any, capability: int = 90, tf32: bool = False):
    """Inside the block, launches of these launcher modules are listed, in every configuration for a chip, not made."""
    from triton.runtime.jit import JITFunction

    from alias_ops.kernels import _precision, _registers

    listed: list[Launch] = []

    def run(self, *args, grid, warmup, **kwargs):
        names = [parameter.name for parameter in self.params]
        options = {key: kwargs.pop(key) for key in ("num_warps", "num_stages", "maxnreg") if key in kwargs}
        listed.append(Launch(self, {**dict(zip(names, args)), **kwargs}, options))

    def chosen(name, size_class, candidates, launch, *rest):
        for config in candidates[1:]:
            launch(config)
        return candidates[0]

    patched = [(JITFunction, "run", run), (_precision, "tf32_allowed", lambda device_type: tf32)]
    patched += [(_registers, "takes_limits", lambda device: True)]
    for module in modules:
        patched += [(module, "chosen", chosen), (module, "capability", lambda device: capability)]
    before = [(where, name, getattr(where, name, None)) for where, name, _ in patched]
    for place in patched:
        setattr(*place)
    try:
        yield listed
    finally:
        for place in before:
            setattr(*place)


def distinct(
    calls: Iterable[Call], *modules: Any, capability: int, ones: bool = True
) -> dict[tuple, tuple[Launch, str]]:
    """The launches of the calls on a chip, each of those that compile alike once, with the label of its call."""
    found: dict[tuple, tuple[Launch, str]] = {}
    for label, call, tf32 in calls:
        with launches(*modules, capability=capability, tf32=tf32) as listed:
            call()
        for launch in listed:
            found.setdefault((launch.kernel.fn.__name__, *_key(launch, ones)), (launch, label))
    return found


def shared_out(by_chip: dict[int, Iterable[tuple]]) -> dict[tuple, int]:
    """Each key on one of the chips that have it: those of fewest chips first, each on the one with fewest so far."""
    chips: dict[tuple, list[int]] = {}
    for chip, keys in by_chip.items():
        for key in keys:
            chips.setdefault(key, []).append(chip)
    load = dict.fromkeys(by_chip, 0)
    placed = {}
    for key in sorted(chips, key=lambda key: len(chips[key])):
        placed[key] = min(chips[key], key=lambda chip: load[chip])
        load[placed[key]] += 1
    return placed


def report(calls: Iterable[Call], *modules: Any, capabilities=tuple(LIMITS), once: bool = False) -> None:
    """Print, as JSON, the resources of all launches of the calls.

    Args:
        once: each configuration on one chip, see ``shared_out``, instead of on all.
    """
    calls = list(calls)
    by_chip = {chip: distinct(calls, *modules, capability=chip, ones=not once) for chip in capabilities}
    places = shared_out(by_chip) if once else {}
    _todo[:] = [
        (launch, chip, label)
        for chip, found in by_chip.items()
        for key, (launch, label) in found.items()
        if places.get(key, chip) == chip
    ]
    # As many processes as this one may have cores; forked, since launches hold functions that cannot be sent.
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, get_context("fork")) as pool:
        print(json.dumps(list(pool.map(_compiled, range(len(_todo))))))


def _compiled(place: int) -> Resources:
    return compiled(*_todo[place])


def offenders(text: str, spills: bool = True) -> list[Resources]:
    """Of a report, what asks for more shared memory than the chip has or, unless told not to look, spills registers."""
    found = [Resources(*values) for values in json.loads(text)]
    assert found
    return [r for r in found if (spills and r.spilled) or r.shared + RESERVED > LIMITS[r.capability]]


def misfits(text: str) -> list[Resources]:
    """``offenders`` by the measure of the Triton at hand."""
    return offenders(text, version("triton").startswith(CHECKED))
