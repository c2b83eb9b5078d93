"""Tables: by rich on a terminal, else aligned text."""

import sys
from importlib.util import find_spec
from typing import Literal

from .rows import Row

__all__ = ["print_table", "show_table"]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cells(row: Row, with_reference: bool) -> list[str]:
    shape = "x".join(map(str, row.output_shape)) or "not run"
    cells = [row.layer, row.kind, shape, _number(row.am, ".4g"), _number(row.ms, ".2f")]
    if with_reference:
        cells += [_number(row.reference_ms, ".2f"), _number(row.ratio, ".1f")]
    return cells


def _print_plain(title: str, header: list[str], body: list[list[str]], texts: int) -> None:
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    print(f"{title}\n")
    for line in (header, ["-" * width for width in widths], *body):
        padded = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def _print_rich(title: str, header: list[str], body: list[list[str]], texts: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column, name in enumerate(header):
        # Only names may be folded: a number broken over two lines reads as two.
        justify: Literal["left", "right"] = "left" if column < texts else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=column > 0)
    for cells in body:
        table.add_row(*map(Text, cells))
    Console().print(table)


def show_table(title: str, header: list[str], body: list[list[str]], texts: int) -> None:
    """Print cells, the first ``texts`` columns to the left and numbers to the right."""
    # Into a file or a pipe rich would fold the lines at 80 columns and fill them with blanks.
    show = _print_rich if sys.stdout.isatty() and find_spec("rich") else _print_plain
    show(title, header, body, texts)


def print_table(title: str, rows: list[Row]) -> None:
    """Print the layers of ``alias-ops measure``, with the columns of the definition if it was timed."""
    with_reference = any(row.reference_ms is not None for row in rows)
    header = ["layer", "kind", "output", "AM", "ms"] + ["ref. ms", "ratio"] * with_reference
    show_table(title, header, [_cells(row, with_reference) for row in rows], 3)
