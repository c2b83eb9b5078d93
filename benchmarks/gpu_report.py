"""The bars of the GPU backend beside what a run measured, and the table of what is fastest."""

import json
from pathlib import Path
from typing import Any

from alias_ops.ops._fastest import TABLE

from .report import Bar, aligned

__all__ = ["bars", "fastest", "lines", "write_fastest"]

POOLING = {14: 0.85, 28: 0.85, 56: 0.85, 112: 0.85, 224: 0.70}
FFT_SIZES = (32, 56, 112)
MEASURED_TO = 112
BY_CUDA = 0.92
CONV_BY_CUDA = 1.5
GAIN = 1.15  # of a CUDA C++ kernel over Triton's, at least, or it is not taken
PEERS = ("max_pool2d", "BlurPool (timm)", "depthwise convolution")


def _seconds(result: dict[str, Any], name: str) -> float | None:
    found = next((t for who, t in result["times"].items() if who.startswith(name)), None)
    return None if found is None else found["median"]


def _exactly(result: dict[str, Any], name: str) -> float | None:
    found = result["times"].get(name)
    return None if found is None else found["median"]


def _bar(what: str, value: float | None, limit: float, least: bool, unit: str) -> Bar:
    shown = (lambda v: f"{v:.0%}") if unit == "%" else (lambda v: f"{v:.2f}x")
    wanted = f"{'≥' if least else '≤'} {shown(limit)}"
    if value is None:
        return Bar(what, wanted, "-", None)
    return Bar(what, wanted, shown(value), value >= limit if least else value <= limit)


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def bars(document: dict[str, Any]) -> list[Bar]:
    """Every bar that was set, met, missed or not measured."""
    copy = document["ceilings"].get("copy, bytes a second")
    results = document["results"]
    found: list[Bar] = []

    def fraction(result: dict[str, Any], name: str) -> float | None:
        seconds = _exactly(result, name)
        return None if seconds is None or copy is None else result["bytes"] / seconds / copy

    for r in results:
        if r["op"] in ("flc_pool2d", "asap_pool2d") and r["n"] in POOLING:
            for name, direction in (("alias_ops", "forward"), ("alias_ops backward", "backward")):
                what = f"{r['op']} {direction}, N = {r['n']}, {r['dtype']}, of copy bandwidth"
                found.append(_bar(what, fraction(r, name), POOLING[r["n"]], True, "%"))
    for r in results:
        if r["op"] == "separable2d by cuda" and r["n"] >= 16:
            for name in ("cuda", "cuda backward"):
                what = f"{r['pool']}_pool2d by {name}, N = {r['n']}, {r['dtype']}, of copy bandwidth"
                found.append(_bar(what, fraction(r, name), BY_CUDA, True, "%"))
    for r in results:
        if r["op"] == "conv2d_alias_l1 by cuda":
            what, ours = f"conv2d_aliasing by cuda, {r['layer']}, {r['tf32']}", _exactly(r, "cuda")
            found.append(_bar(f"{what}, against Triton", _over(_exactly(r, "triton"), ours), CONV_BY_CUDA, True, "x"))
            over = _over(ours, _exactly(r, "strided convolution"))
            found.append(_bar(f"{what}, in the strided convolution's time", over, 2, False, "x"))
    for r in results:
        if r["op"] != "flc_pool2d against peers":
            continue
        ours = _exactly(r, "alias_ops")
        if r["n"] in FFT_SIZES:
            what = f"flc_pool2d {r['direction']} against the published FFT module, N = {r['n']}"
            found.append(_bar(what, _over(_seconds(r, "fft2"), ours), 20, True, "x"))
        for peer in PEERS:
            what = f"flc_pool2d {r['direction']} against {peer}, N = {r['n']}"
            found.append(_bar(what, _over(_exactly(r, peer), ours), 1, True, "x"))
    for r in results:
        if r["op"] != "aliasing":
            continue
        what = f"aliasing, N = {r['n']}, {r['dtype']}"
        if r["n"] <= MEASURED_TO and r["dtype"] != "float32":
            found.append(_bar(f"{what}, of copy bandwidth", fraction(r, "alias_ops"), 0.8, True, "%"))
        over = _over(_exactly(r, "definition"), _exactly(r, "alias_ops"))
        found.append(_bar(f"{what}, against the definition", over, 15, True, "x"))
    for r in results:
        if r["op"] != "conv2d_aliasing":
            continue
        whole, definition = _exactly(r, "stride-1 convolution"), _exactly(r, "definition")
        for name, most, least in (("alias_ops, output given", 0.5, 15), ("alias_ops", 1.0, 10)):
            what = f"conv2d_aliasing{name.removeprefix('alias_ops')}, {r['layer']}, {r['dtype']}"
            ours = _exactly(r, name)
            found.append(_bar(f"{what}, in the stride-1 convolution's time", _over(ours, whole), most, False, "x"))
            found.append(_bar(f"{what}, against the definition", _over(definition, ours), least, True, "x"))
        if r["extra memory"] is not None:
            what = f"conv2d_aliasing, output given, {r['layer']}, {r['dtype']}, memory over the stride-1 map"
            found.append(_bar(what, r["extra memory"] / r["stride-1 map"], 0.1, False, "%"))
    return found


def fastest(document: dict[str, Any]) -> dict[str, list[int]]:
    """Sides of maps by op and dtype at which the CUDA C++ kernels beat Triton's in every case that was measured."""
    gains: dict[tuple[str, int], list[float]] = {}
    for r in document["results"]:
        if not r["op"].endswith(" by cuda"):
            continue
        op, out = r["op"].removesuffix(" by cuda"), r["n"] // 2
        for side, suffix in ((r["n"], ""), (out, " backward")):
            if op == "conv2d_alias_l1" and suffix:
                continue  # gradients have no CUDA C++ kernel
            over = _over(_exactly(r, f"triton{suffix}"), _exactly(r, f"cuda{suffix}"))
            gains.setdefault((f"{op} {r['dtype']}", side), []).append(over or 0.0)
    found: dict[str, list[int]] = {}
    for (key, side), over in sorted(gains.items()):
        if min(over) >= GAIN:
            found.setdefault(key, []).append(side)
    return found


def write_fastest(document: dict[str, Any], path: Path = TABLE) -> None:
    """The table that alias_ops/ops/_fastest.py reads; nothing of a dry run."""
    if document["dry run"]:
        return
    versions = document["machine"]["versions"]
    table = {"device": document["device"]["name"], "versions": versions, "cuda": fastest(document)}
    path.write_text(json.dumps(table, indent=1) + "\n")


def lines(document: dict[str, Any]) -> list[str]:
    """The bars as aligned text, then stages and errors."""
    every = bars(document)
    text = aligned(every)
    text.append(f"{sum(b.met is True for b in every)} met, {sum(b.met is False for b in every)} missed, "
                f"{sum(b.met is None for b in every)} not measured")  # fmt: skip
    text += [f"stage {name}: status {status}, {seconds} s" for name, status, seconds in document["stages"]]
    for r in document["results"]:
        text += [f"error in {r['op']} {r.get('n') or r.get('layer')} {r['dtype']}, {who}: {why}"
                 for who, why in r["errors"].items()]  # fmt: skip
    if document["dry run"]:
        text.append("dry run on the CPU: these numbers mean nothing")
    return text
