"""Launches of kernels whose code keeps nothing in memory that registers have room for, whatever the compiler's version.

NVIDIA's assembler chooses how many registers a thread gets by how many threads then fit a multiprocessor, and to stay
below such a step it leaves a value or two on the stack, far from the 255 that there are. Which kernels that happens
to changes with every version of Triton and nearly every change to a kernel, so no list of configurations would last.
A limit for all of them is no answer, either: told a limit, the assembler takes what it likes up to there, more than
it would by itself for nine kernels of ten. So a kernel is compiled as it comes, and only one that spills is compiled
again, under the tightest limit that ends that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from triton import knobs

from ._launch import Config, capturing

__all__ = ["Code", "limits", "start", "takes_limits", "tightest"]

# Of a multiprocessor, of a thread, and the unit in which threads get them; the same from sm_80 to sm_120.
REGISTERS, MOST, UNIT = 65536, 255, 8


class Code(NamedTuple):
    """What a compiled kernel needs: registers of a thread, and what of it lies in memory, in any unit."""

    registers: int
    spilled: int


# Limits of what spilled without one, None where no limit helped: by kernel, configuration, device, dtypes, constants.
_found: dict[tuple, int | None] = {}


def takes_limits(device: torch.device) -> bool:
    """Whether kernels for a device take Triton's ``maxnreg``: the options of AMD's and Intel's backends have none."""
    return device.type == "cuda" and torch.version.hip is None and not knobs.runtime.interpret


def limits(warps: int, registers: int) -> list[int]:
    """Limits to try, in turn, for code that took so many registers and spilled.

    1. What it took: as a limit it is no longer a wish, which often is enough and costs nothing.
    2. An eighth less, for another order of instructions in no more room.
    3. All that as many programs a multiprocessor leave to each; then what a quarter fewer do, down to one.
    """
    tried = [registers, registers - registers // 8]
    programs = REGISTERS // (32 * warps * -(-registers // UNIT) * UNIT)
    while programs:
        tried.append(min(MOST, REGISTERS // (32 * warps * programs) // UNIT * UNIT))
        programs = programs * 3 // 4
    return list(dict.fromkeys(tried))


def tightest(attempt: Callable[[int | None], Code], first: Code, warps: int) -> int | None:
    """The first of ``limits`` under which nothing spills, else what spills least; None for no limit.

    Args:
        attempt: compiles with a limit.
        first: what came without one.
        warps: of a program.
    """
    best, least = None, first.spilled
    for limit in limits(warps, first.registers):
        if not least:
            break
        spilled = attempt(limit).spilled
        if spilled < least:
            best, least = limit, spilled
    return best


def start(
    kernel: Any, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any], config: Config, x: torch.Tensor
) -> None:
    """Launch a kernel. One that spills is launched again and again at its first call: it must not read what it writes.

    Args:
        kernel: of Triton.
        arguments: by place; the first two are tensors.
        constants: by name; arguments, constants and config make up the call.
        x: for its device.
    """
    options = config.arguments()
    if not takes_limits(x.device):
        kernel[grid](*arguments, **constants, **options)
        return
    key = (kernel.__name__, config, x.device, arguments[0].dtype, arguments[1].dtype, *constants.values())

    def attempt(limit: int | None) -> Code:
        built = kernel[grid](*arguments, **constants, **options, maxnreg=limit)
        return Code(0, 0) if built is None else Code(built.n_regs, built.n_spills)

    known = key in _found
    code = attempt(_found.get(key))
    if code.spilled and not known and not capturing():
        _found[key] = tightest(attempt, code, config.warps)
