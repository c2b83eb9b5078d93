"""``alias-ops bench``: the benchmark, where the package is installed."""

import sys
from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .errors import UserError

__all__ = ["run"]

NEEDED = {"pytest": "pytest", "pytest_benchmark": "pytest-benchmark"}


def _package() -> tuple[str, Path]:
    """The benchmark's importable name and its folder: beside the package in a checkout, else inside it."""
    checkout = Path(__file__).parents[2] / "benchmarks"
    if (checkout / "cases.py").is_file():
        sys.path.insert(0, str(checkout.parent))
        return "benchmarks", checkout
    spec = find_spec("alias_ops.benchmarks")
    if spec is None or spec.origin is None:
        raise UserError("the benchmark is not part of this installation")
    return "alias_ops.benchmarks", Path(spec.origin).parent


def _print(header: list[str], body: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *body)]
    for line in (header, *body):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    print()


def run(arguments: Namespace) -> None:
    """Run the benchmark and print what it measured.

    Args:
        arguments: as parsed by ``alias_ops.cli``.

    Raises:
        UserError: pytest-benchmark is missing, no case matches, a case failed, or with ``--strict`` a bar is missed.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"the benchmark needs {' and '.join(missing)}: pip install 'alias-ops[bench]'")
    if arguments.upstream and not Path(arguments.upstream).is_dir():
        raise UserError(f"--upstream: {arguments.upstream} is not a folder")
    if arguments.figures and find_spec("matplotlib") is None:
        raise UserError("--figures needs matplotlib: pip install 'alias-ops[bench]'")
    name, folder = _package()
    import pytest

    target = Path(arguments.json)
    options = [str(folder), "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    options += ["-o", "addopts=", "-o", "python_files=bench_*.py", "-o", "markers=quick: part of a quick run"]
    options += ["--benchmark-enable", "--benchmark-quiet", "--benchmark-disable-gc", "--bench-json", str(target)]
    options += ["--bench-device", arguments.device]
    options += ["--bench-quick"] * arguments.quick
    options += ["--bench-one-process"] * arguments.one_process
    options += ["--bench-keep-memory"] * arguments.keep_memory
    options += ["--bench-upstream", arguments.upstream] if arguments.upstream else []
    options += ["-k", arguments.k] if arguments.k else []
    if not arguments.quick and not arguments.k:
        print("about a quarter of an hour on two cores; --quick measures a part of it in a few", flush=True)
    before = target.stat().st_mtime_ns if target.exists() else None
    status = pytest.main(options)
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UserError(f"no case matches {arguments.k!r}")
    if not target.exists() or target.stat().st_mtime_ns == before:
        raise UserError("nothing was measured; what pytest printed above says why")
    report = import_module(f"{name}.report")
    document = report.load(target)
    _print(*report.rows(document))
    if document["memory"]:
        _print(*report.memory_rows(document))
    for line in report.bar_lines(document):
        print(line)
    if arguments.figures:
        for path in import_module(f"{name}.figures").draw(document, arguments.figures):
            print(f"wrote {path}")
    print(f"wrote {target}")
    if status != pytest.ExitCode.OK:
        raise UserError("some cases failed; what pytest printed above says which")
    missed = sum(bar.met is False for bar in report.bars(document))
    if arguments.strict and missed:
        raise UserError(f"{missed} bars missed")
