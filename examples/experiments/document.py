"""Brings results into the documentation: ``python examples/experiments/document.py RESULTS DOCS``.

Copies tables, figures and origins of RESULTS/NAME to DOCS/experiments/NAME, and writes the tables of
DOCS/experiments.md, each between ``<!-- summary: NAME -->``, ``<!-- findings: NAME -->`` or, of all of them,
``<!-- verdicts -->``, and ``<!-- end -->``.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

TABLE = re.compile(
    r"(?P<head><!-- (?P<what>verdicts|summary: |findings: )(?P<name>\w*) -->\n).*?(?=<!-- end -->)", re.DOTALL
)
KEPT = (".csv", ".json", ".png")
HELD = {"yes": "**held**", "partly": "in part", "no": "**did not hold**", "open": "open"}
READ = {"dtype": str, "keep_default_na": False}


def _markdown(frame: pd.DataFrame) -> str:
    escaped = frame.map(lambda cell: str(cell).replace("|", "\\|"))
    return escaped.to_markdown(index=False, disable_numparse=True) + "\n"


def _findings(folder: Path) -> pd.DataFrame:
    found = pd.read_csv(folder / "findings.csv", **READ)
    return pd.DataFrame({"claim": found.claim, "measured": found.measured, "": found.held.map(HELD)})


def _verdicts(results: Path, names: list[str]) -> pd.DataFrame:
    """How many claims of each experiment held, in the order of the page."""
    rows = []
    for name in names:
        held = pd.read_csv(results / name / "findings.csv", **READ).held
        rows.append({"experiment": name, **{text.strip("*"): (held == kind).sum() for kind, text in HELD.items()}})
    return pd.DataFrame(rows)


def write_tables(page: str, results: Path) -> str:
    """The page with its tables as the results have them."""
    names = list(dict.fromkeys(match["name"] for match in TABLE.finditer(page) if match["name"]))

    def table(match: re.Match) -> str:
        if match["what"] == "verdicts":
            frame = _verdicts(results, names)
        elif match["what"] == "findings: ":
            frame = _findings(results / match["name"])
        else:
            frame = pd.read_csv(results / match["name"] / "summary.csv", **READ)
        return match["head"] + _markdown(frame)

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
