"""What a results file says: ratios, the bars met and missed, tables."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .cases import CONV_ROWS, POOL_BARS

__all__ = ["Bar", "added", "aligned", "bars", "found", "load", "markdown", "memory_rows", "ratio", "rows"]

Result = dict[str, Any]


def load(path: str | Path) -> dict[str, Any]:
    """The document of a run."""
    document = json.loads(Path(path).read_text())
    if document.get("format") != 1:
        raise ValueError(f"{path} is not a results file of this benchmark")
    return document


def ratio(result: Result, peer: str) -> float | None:
    """How many times the candidate's time the peer takes; None if it did not run."""
    times = result["times"]
    name = next((name for name in times if name.startswith(peer)), None)
    return None if name is None else times[name]["median"] / times["alias_ops"]["median"]


def found(document: dict[str, Any], **wanted: Any) -> list[Result]:
    """The results whose fields have these values."""
    return [r for r in document["results"] if all(r.get(key) == value for key, value in wanted.items())]


class Bar(NamedTuple):
    """One line of what was to be reached."""

    what: str
    wanted: str
    measured: str
    met: bool | None  # None where nothing was measured


def _bar(what: str, value: float | None, least: float | None = None, most: float | None = None) -> Bar:
    wanted = f"≥ {least:g}x" if least is not None else f"≤ {most:g}x"
    if value is None:
        return Bar(what, wanted, "-", None)
    met = value >= least if least is not None else value <= most  # type: ignore[operator]
    return Bar(what, wanted, f"{value:.{3 if value < 2 else 2}f}x", met)


def _least(results: Iterable[Result], peer: str) -> float | None:
    values = [value for value in (ratio(r, peer) for r in results) if value is not None]
    return min(values, default=None)


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


PUBLISHED = {32: 60, 56: 30, 112: 20, 224: 14}
LARGE_ROWS = ("64→128 at 32, 3x3", "64→128 at 32, 1x1", "128→256 at 16, 3x3")
TORCH_FFT = ("rfft2", "rfft, cropped")
DIRECTIONS = ("forward", "forward+backward")


def _pooling_bars(document: dict[str, Any], direction: str) -> list[Bar]:
    shapes = found(document, group="pooling, bars", direction=direction)
    sizes = found(document, group="pooling, sizes", direction=direction)
    growth = found(document, group="growth with N", direction=direction)
    asap = found(document, group="pooling, asap", direction=direction)
    lines = []
    for n, least in PUBLISHED.items():
        here = [r for r in shapes if r["shape"][-1] == n]
        lines.append(_bar(f"flc_pool2d against the published FFT module, N = {n}", _least(here, "fft2"), least=least))
    all_four = shapes if len(shapes) == len(POOL_BARS) else []  # a part of a run meets no bar of the whole
    small = [r for r in shapes + sizes if 8 <= r["shape"][-1] <= 112]
    lines += [
        _bar("flc_pool2d against matmul, N = 8…112", _least(small, "matmul"), least=2),
        _bar(
            "flc_pool2d against matmul, N = 224",
            _least([r for r in shapes + sizes if r["shape"][-1] == 224], "matmul"),
            least=1.5,
        ),
        _bar("flc_pool2d against matmul, any N from 4 to 512", _least(shapes + sizes + growth, "matmul"), least=1),
        _bar(
            "flc_pool2d against the best torch.fft form, any N from 4 to 512",
            min(filter(None, (_least(shapes + sizes + growth, form) for form in TORCH_FFT)), default=None),
            least=1,
        ),
        _bar("flc_pool2d against max_pool2d, four shapes", _least(all_four, "max_pool2d"), least=1),
    ]
    lines += [
        _bar(f"flc_pool2d against BlurPool of {who}, four shapes", _least(all_four, f"BlurPool ({who})"), least=1)
        for who in ("kornia", "timm", "antialiased-cnns")
    ]
    lines.append(_bar("asap_pool2d in flc_pool2d's time", _inverse(_least(asap, "flc_pool2d")), most=1.6))
    return lines


def _conv_bars(document: dict[str, Any], direction: str) -> list[Bar]:
    results = {r["layer"]: r for r in found(document, group="convolutions, bars", direction=direction)}
    last = CONV_ROWS[-1].name
    threes = [r for name, r in results.items() if name.endswith("3x3")]
    against = [_inverse(ratio(r, "strided convolution")) for r in threes]
    lines = [
        _bar(
            "conv2d_aliasing(output=y) against the definition, three largest rows",
            _least([results[name] for name in LARGE_ROWS if name in results], "definition"),
            least=10,
        ),
        _bar(
            "conv2d_aliasing(output=y) against the definition, every row",
            _least(results.values(), "definition"),
            least=5,
        ),
        _bar(
            "conv2d_aliasing(output=y) in the stride-1 convolution's time, 3x3 but the last",
            _inverse(_least([r for r in threes if r["layer"] != last], "stride-1 convolution")),
            most=0.5,
        ),
        _bar(
            "conv2d_aliasing(output=y) in the stride-1 convolution's time, every row",
            _inverse(_least(results.values(), "stride-1 convolution")),
            most=1,
        ),
        _bar(
            "conv2d_aliasing(output=y) in the strided convolution's time, second best 3x3 row",
            sorted(value for value in against if value is not None)[1] if len(against) > 1 else None,
            most=1,
        ),
    ]
    without = [
        r["times"]["without output"]["median"]
        / (r["times"]["alias_ops"]["median"] + r["times"]["strided convolution"]["median"])
        for r in results.values()
        if "without output" in r["times"]
    ]
    lines.append(
        _bar(
            "conv2d_aliasing alone in the time of (output=y) and the strided convolution",
            max(without, default=None),
            most=1,
        )
    )
    return lines


def added(result: Result, peer: str) -> float | None:
    """How many times what the candidate adds to its layer the peer adds to it; None if either is not known."""
    times = {name: time["median"] for name, time in result["times"].items()}
    if not {peer, "layer alone"} <= times.keys():
        return None
    ours, theirs = (times[name] - times["layer alone"] for name in ("alias_ops", peer))
    return theirs / ours if ours > 0 else None


def _added_bars(document: dict[str, Any]) -> list[Bar]:
    results = {r["layer"]: added(r, "definition") for r in found(document, group="convolutions, training")}
    values = {name: value for name, value in results.items() if value is not None}
    large = [values[name] for name in LARGE_ROWS if name in values]
    what = "what conv2d_aliasing(output=y, through_output=True) adds to a layer, against what the definition adds"
    return [
        _bar(f"{what}, three largest rows", min(large, default=None), least=10),
        _bar(f"{what}, every row", min(values.values(), default=None), least=5),
    ]


def _training_bars(document: dict[str, Any]) -> list[Bar]:
    results = {r["layer"].rpartition(", ")[2]: r for r in found(document, group="training")}
    step, check = results.get("step"), results.get("check")
    every = tenth = None
    if step:
        alone, own = step["times"]["no monitor"]["median"], step["monitor"]
        idle = own["seconds when it is not its turn"]
        every = 1 + own["seconds"] / alone
        # Of ten steps with every=10 one is measured.
        tenth = 1 + (own["seconds"] + 9 * idle) / 10 / alone
    pgd = ratio(check, "PGD") if check else None
    memory = next((m["bytes"] for m in document.get("memory", []) if m["op"] == "training step"), None)
    peak = memory["alias_ops"]["peak"] / memory["no monitor"]["peak"] if memory else None
    return [
        _bar("training step with all six layers measured, without a monitor 1", every, most=1.05),
        _bar("the same with every=10", tenth, most=1.01),
        _bar("AM of all six layers in the time of the PGD-5 check", _inverse(pgd), most=0.05),
        _bar("peak memory of the step with all six layers measured, without a monitor 1", peak, most=1.01),
    ]


def bars(document: dict[str, Any]) -> list[Bar]:
    """What the project set out to reach, beside what this run measured."""
    lines = [
        Bar(f"{bar.what}, {direction}", *bar[1:])
        for direction in DIRECTIONS
        for bar in (*_pooling_bars(document, direction), *_conv_bars(document, direction))
    ]
    lines += _added_bars(document)
    lines += _training_bars(document)
    for direction in DIRECTIONS:
        floors = [
            r["floor"]["fraction"]
            for group in ("pooling, bars", "pooling, sizes")
            for r in found(document, group=group, direction=direction)
            if 16 <= r["shape"][-1] <= 112 and r["floor"]["peak"]
        ]
        least = min(floors, default=None)
        measured = "-" if least is None else f"{least:.0%}"
        met = None if least is None else least >= 0.5
        lines.append(Bar(f"fraction of the floor, N = 16…112, {direction}", "≥ 50%", measured, met))
        call = found(document, group="call overhead", direction=direction)
        lines.append(
            _bar(
                f"call on a 1x1x8x8 map in max_pool2d's time, {direction}", _inverse(_least(call, "max_pool2d")), most=3
            )
        )
    return lines


def rows(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every case: its time, its fraction of the floor, and how many times as long each peer takes."""
    header = ["case", "dtype", "direction", "ms", "quartiles", "of floor", "peers' times over ours"]
    body = []
    for r in document["results"]:
        times = r["times"]
        case = f"{r['op']} {r.get('layer') or 'x'.join(map(str, r['shape']))}"
        fraction = f"{r['floor']['fraction']:.0%}" if r.get("floor") else "-"
        peers = ", ".join(f"{name} {ratio(r, name):.2f}" for name in times if name != "alias_ops")
        missing = "".join(f", {name} cannot: {why}" for name, why in r["unavailable"].items())
        ms, low, high = (f"{times['alias_ops'][name] * 1e3:.4g}" for name in ("median", "q1", "q3"))
        body.append([case, r["dtype"], r["direction"], ms, f"{low}-{high}", fraction, peers + missing])
    return header, body


def memory_rows(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Of every case in ``memory``: MiB that one call takes at its peak beyond its input and its result."""
    measured = document["memory"]
    names = list(dict.fromkeys(name for entry in measured for name in entry["bytes"]))
    body = []
    for entry in measured:
        taken = entry["bytes"]
        extra = [
            f"{max(0, taken[name]['peak'] - taken[name]['result']) / 2**20:.1f}" if name in taken else "-"
            for name in names
        ]
        body.append([f"{entry['op']} {entry.get('layer') or entry['shape']}", f"{entry['input'] / 2**20:.1f}", *extra])
    return ["extra memory of a call, MiB, one thread", "input", *names], body


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratios(result: Result, names: list[str]) -> list[str]:
    return ["-" if ratio(result, name) is None else f"{ratio(result, name):.1f}" for name in names]


def markdown(document: dict[str, Any]) -> str:
    """The README's tables: how many times as long each peer takes."""
    peers = ["fft2", "rfft2", "matmul", "max_pool2d", "BlurPool (kornia)", "avg_pool2d"]
    parts = []
    for direction in DIRECTIONS:
        body = [
            [str(r["shape"]), f"{r['times']['alias_ops']['median'] * 1e3:.2f}", *_ratios(r, peers)]
            for r in found(document, group="pooling, bars", direction=direction)
        ]
        heads = [f"flc_pool2d, {direction}", "ms", "published FFT module", *peers[1:]]
        parts.append(_table(heads, body))
    names = ["definition", "stride-1 convolution", "strided convolution"]
    for direction in DIRECTIONS:
        body = [
            [
                f"{r['layer']}, batch {r['shape'][0]}",
                *(f"{r['times'][name]['median'] * 1e3:.1f}" for name in ("alias_ops", "without output")),
                *_ratios(r, names),
            ]
            for r in found(document, group="convolutions, bars", direction=direction)
        ]
        parts.append(_table([f"conv2d_aliasing(output=y), {direction}", "ms", "without output, ms", *names], body))
    body = []
    for r in found(document, group="convolutions, training"):
        alone = r["times"]["layer alone"]["median"]
        others = ("alias_ops", "not through the output", "definition")
        body.append(
            [
                f"{r['layer']}, batch {r['shape'][0]}",
                f"{alone * 1e3:.1f}",
                *(f"{(r['times'][name]['median'] - alone) * 1e3:.1f}" for name in others),
                "-" if added(r, "definition") is None else f"{added(r, 'definition'):.1f}",
            ]
        )
    heads = ["layer in training, forward+backward", "layer alone, ms", "through_output adds, ms", "else, ms"]
    if body:
        parts.append(_table([*heads, "definition adds, ms", "definition / through_output"], body))
    if document["memory"]:
        parts.append(_table(*memory_rows(document)))
    return "\n\n".join(parts)


def bar_lines(document: dict[str, Any]) -> list[str]:
    """The bars as aligned text."""
    return aligned(bars(document))


def aligned(every: Iterable[Bar]) -> list[str]:
    """Bars in columns."""
    verdict = {True: "met", False: "MISSED", None: "not measured"}
    lines = [[verdict[b.met], b.measured, b.wanted, b.what] for b in every]
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(3)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths)), line[3]]) for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print what a results file says.")
    parser.add_argument("file")
    parser.add_argument("--markdown", action="store_true", help="the README's tables")
    arguments = parser.parse_args()
    read = load(arguments.file)
    print(markdown(read) if arguments.markdown else "\n".join(bar_lines(read)))
