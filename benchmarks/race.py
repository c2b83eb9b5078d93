"""One case: the candidate and its peers, timed in turn, in an order drawn for each round, within one run."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .allocator import settle
from .floor import Floor
from .peers import Unavailable

__all__ = ["TOLERANCES", "WrongResult", "checked", "race", "spread"]

# Relative L2 error against float64 that a candidate may have: a fast wrong kernel wins no race.
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}

Call = Callable[[], Any]

COPY = "copy_ of the floor's bytes"


class WrongResult(AssertionError):
    """The candidate's result is not the reference's."""


def checked(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, slack: float = 1.0) -> float:
    """The relative L2 error of ``actual``.

    Args:
        actual, expected: of one shape.
        dtype: whose tolerance holds.
        slack: times the tolerance, where the mathematics loses digits.

    Raises:
        WrongResult: it is above the dtype's tolerance, or not a number.
    """
    error = ((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300)).item()
    allowed = slack * TOLERANCES[dtype]
    if not error <= allowed:
        raise WrongResult(f"relative error {error:.1e}, {allowed:.0e} allowed")
    return error


def spread(length: int, most: int) -> torch.Tensor:
    """At most ``most`` indices of ``length``, the first and the last among them.

    What is timed is checked at these: all of it in float64 would take longer than the race. Kernels treat the
    ends of a list of maps differently from its middle.
    """
    return torch.linspace(0, length - 1, max(1, min(length, most))).round().long()


def synchronized(call: Call, device: str) -> Call:
    """The call, with the device's work done when it returns."""
    if device == "cpu":
        return call

    def wait():
        call()
        torch.accelerator.synchronize()

    return wait


def _once(call: Call, loops: int) -> float:
    settle()
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def _summary(times: list[float], loops: int) -> dict[str, float]:
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {
        "median": quartiles[1],
        "q1": quartiles[0],
        "q3": quartiles[2],
        "min": min(times),
        "rounds": len(times),
        "loops": loops,
    }


def _loops(call: Call, shortest: float = 1e-3) -> int:
    """Calls in one timing, so that the clock's own cost does not show.

    As many for the candidate as for everything beside it: from the second call on, operands are in a cache that the
    call before has filled.
    """
    call()
    return max(1, min(1000, round(shortest / max(1e-7, _once(call, 1)))))


def race(
    benchmark, settings, case: dict[str, Any], candidate: Call, peers: dict[str, Call], floor: Floor | None = None
):
    """Time ``candidate`` through pytest-benchmark and before each of its rounds every peer once, in an order
    drawn anew.

    Args:
        benchmark: pytest-benchmark's fixture.
        settings: the run's settings; the result is appended to ``settings.results``.
        case: what names the case: group, op, shape, dtype, direction.
        candidate, peers: calls without arguments. One that raises is reported with its error.
        floor: of the case, if it has one.
    """
    if floor is not None:
        peers = {**peers, COPY: floor.copy}
    unavailable: dict[str, str] = {}
    running: dict[str, Call] = {}
    for name, peer in peers.items():
        try:
            call = synchronized(peer, settings.device)
            call()
            running[name] = call
        except (RuntimeError, Unavailable, NotImplementedError) as error:
            unavailable[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    ours = synchronized(candidate, settings.device)
    loops = _loops(ours)
    a_round = sum(_once(call, loops) * loops for call in (*running.values(), ours))
    rounds = max(settings.fewest_rounds, min(settings.most_rounds, int(settings.seconds_a_case / a_round)))
    times: dict[str, list[float]] = {name: [] for name in running}
    # Each call finds the caches as the one before it left them: none is always to come after the same one, which may
    # have just read its operands, or driven them out.
    order = random.Random(0)

    def others():
        for name in order.sample(list(running), len(running)):
            times[name].append(_once(running[name], loops))
        settle()

    def timed():
        for _ in range(loops):
            ours()

    benchmark.group = case["group"]
    benchmark.pedantic(timed, setup=others, rounds=rounds, warmup_rounds=1)
    for values in times.values():
        del values[0]  # of the warm-up round
    own = [t / loops for t in benchmark.stats.stats.data]
    summaries = {"alias_ops": _summary(own, loops)}
    summaries.update({name: _summary(values, loops) for name, values in times.items()})
    result = {**case, "times": summaries, "unavailable": unavailable}
    if floor is not None:
        result["floor"] = floor.of(summaries["alias_ops"]["median"], summaries.pop(COPY)["median"])
    settings.results.append(result)
    benchmark.extra_info.update(result)
