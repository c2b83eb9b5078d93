"""Brings results into the documentation: ``python examples/experiments/document.py RESULTS DOCS``.

Copies tables, figures and origins of RESULTS/NAME to DOCS/experiments/NAME, and writes the tables of
DOCS/experiments.md, each between ``<!-- summary: NAME -->`` or ``<!-- findings -->`` and ``<!-- end -->``.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

TABLE = re.compile(r"(<!-- (findings|summary: (\w+)) -->\n).*?(<!-- end -->)", re.DOTALL)
KEPT = (".csv", ".json", ".png")
HELD = {"yes": "**held**", "partly": "in part", "no": "**did not hold**", "open": "open"}


def _markdown(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def _findings(results: Path, order: list[str]) -> str:
    """One table of all experiments, in the order in which the page has them."""
    parts = []
    for name in order:
        found = pd.read_csv(results / name / "findings.csv")
        held = found.held.map(HELD)
        parts.append(pd.DataFrame({"claim": found.claim, "measured": found.measured, "": held}))
    return _markdown(pd.concat(parts))


def write_tables(page: str, results: Path) -> str:
    """The page with its tables as the results have them."""
    order = [name for _, _, name, _ in TABLE.findall(page) if name]

    def table(match: re.Match) -> str:
        head, what, name, end = match.groups()
        read = {"dtype": str, "keep_default_na": False}
        content = _findings(results, order) if what == "findings" else None
        return f"{head}{content or _markdown(pd.read_csv(results / name / 'summary.csv', **read))}\n{end}"

    return TABLE.sub(table, page)


def main(results: str, docs: str) -> None:
    kept = Path(docs) / "experiments"
    for folder in sorted(path.parent for path in Path(results).glob("*/findings.csv")):
        place = kept / folder.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            if path.suffix in KEPT:
                shutil.copyfile(path, place / path.name)
    page = Path(docs) / "experiments.md"
    page.write_text(write_tables(page.read_text(), kept))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
