"""The documentation: its code runs as printed, its links lead somewhere, the site has every public name."""

import doctest
import html
import importlib
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest
from helpers import run_python, vision

import alias_ops

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LARGEST_FIGURE = 100_000
# Optional libraries that a page shows in use; building the site has to do without them.
OPTIONAL = {
    "antialiased_cnns",
    "eagerpy",
    "foolbox",
    "kornia",
    "lightning",
    "matplotlib",
    "rich",
    "tensorboard",
    "timm",
    "torchmetrics",
    "triton",
}

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not in a checkout")

# A block of Python, what it needs beyond the package, and what it prints if the page says so.
BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<needs>[\w., ]+) -->\n)?^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def runs() -> list:
    """Each page with the blocks that need nothing, and once more for each library that further blocks need."""
    found = []
    for page in PAGES:
        needs = dict.fromkeys(block["needs"] or "" for block in BLOCK.finditer(page.read_text()))
        found += [pytest.param(page, need, id=" ".join(filter(None, (page.name, need)))) for need in needs]
    return found


@pytest.mark.parametrize(("page", "needs"), runs())
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, needs, tmp_path, monkeypatch, capsys):
    for name in filter(None, needs.split(", ")):
        vision(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # a machine's name need not resolve
    namespace, text = {}, page.read_text()
    for block in BLOCK.finditer(text):
        if block["needs"] and block["needs"] != needs:
            continue
        before = text.count("\n", 0, block.start("code"))
        exec(compile("\n" * before + block["code"], str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        if block["output"] is not None:
            same = doctest.OutputChecker().check_output(
                block["output"], printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            assert same, f"{page.name}, line {before + 1} prints\n{printed}instead of\n{block['output']}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_python_is_one_that_runs(page):
    text = page.read_text()
    assert len(re.findall(r"^ *```+ *py", text, re.MULTILINE)) == len(BLOCK.findall(text))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)\"", page.read_text())
    local = [a or b for a, b in targets if "://" not in (a or b)]
    included = re.findall(r"^```\{include\} (\S+)", page.read_text(), re.MULTILINE)
    assert [target for target in local + included if not (page.parent / target).exists()] == []


def test_adding_a_pooling_works_as_it_is_told(tmp_path):
    """The example of CONTRIBUTING.md, done to the sources as they are."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    diff, code = (
        re.search(rf"^   ```{kind}\n(.*?)^   ```$", text, re.DOTALL | re.MULTILINE)[1] for kind in ("diff", "python")
    )
    spectrum, at = (ROOT / "alias_ops/designs/spectrum.py").read_text().splitlines(keepends=True), 0
    for line in diff.splitlines(keepends=True):
        mark, changed = line[3], line[4:]
        if mark == "@":
            continue
        if mark == "+":
            spectrum.insert(at, changed)
            at += 1
            continue
        at = spectrum.index(changed, at)
        if mark == "-":
            del spectrum[at]
        else:
            at += 1
    (tmp_path / "spectrum.py").write_text("".join(spectrum))
    (tmp_path / "code.py").write_text(re.sub("^   ", "", code, flags=re.MULTILINE))
    done = run_python(
        "import sys, torch\n"
        "from importlib import util\n"
        "import importlib.abc\n"
        "class Changed(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'alias_ops.designs.spectrum':\n"
        f"            return util.spec_from_file_location(name, {str(tmp_path / 'spectrum.py')!r})\n"
        "sys.meta_path.insert(0, Changed())\n"
        "import alias_ops\n"
        f"exec(open({str(tmp_path / 'code.py')!r}).read(), vars(alias_ops.functional))\n"
        "x = torch.rand(3, 14, 15)\n"
        "y = alias_ops.functional.hann_pool2d(x)\n"
        "assert y.shape == (3, 7, 8)\n"
        "assert torch.allclose(y.mean((-1, -2)), x.mean((-1, -2)), atol=1e-6)\n"
        "assert not torch.allclose(y, alias_ops.asap_pool2d(x), atol=1e-3)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_pictures_are_those_that_the_pages_show(tmp_path):
    pytest.importorskip("matplotlib")
    linked = re.findall(r"!\[[^]]*\]\((?:docs/)?([^)]+\.png)\)", "".join(page.read_text() for page in PAGES))
    assert set(linked) == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.png") if "_build" not in path.parts}
    shown = {link.removeprefix("img/") for link in linked}
    subprocess.run([sys.executable, str(DOCS / "figures.py"), str(tmp_path)], check=True)
    drawn = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert drawn
    assert drawn.keys() <= shown
    assert {name: size for name, size in drawn.items() if size > LARGEST_FIGURE} == {}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does; a warning fails it."""
    for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    arguments = ["-W", "--keep-going", "-q", "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")]
    done = run_python(
        "import sys\n"
        "from sphinx.cmd.build import main\n"
        f"failed = main({arguments})\n"
        f"imported = [name for name in {OPTIONAL} if getattr(sys.modules.get(name), '__file__', None)]\n"
        "sys.exit(failed or (f'imports {imported}' if imported else 0))\n"
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_site_has_every_public_name_and_no_private_one(site):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    # Name, kind, priority: -1 is of a second name, which no page shows.
    names = {entry[0] for entry in map(str.split, inventory) if entry[1].startswith("py:") and entry[2] != "-1"}
    public = {f"alias_ops.{name}" for name in alias_ops.__all__ if not isinstance(getattr(alias_ops, name), ModuleType)}
    for name in ("models", "frequency", "reference", "ops", "designs", "spectra", "plots"):
        public |= {f"alias_ops.{name}.{member}" for member in importlib.import_module(f"alias_ops.{name}").__all__}
    assert public - names == set()
    assert [name for name in names if re.search(r"\._[^_]", name)] == []


def test_no_markup_is_left_on_a_page(site):
    left = {}
    for page in [*DOCS.glob("*.md")]:
        text = (site / f"{page.stem}.html").read_text()
        article = text[text.index("<article") : text.index("</article>")]
        assert "<blockquote" not in article
        prose = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"(?s)<(pre|code)\b.*?</\1>", "", article)))
        if found := re.findall(r"``|:\w+:`|\]\(|\$\$|\*\*\w+\*\*|\{py:|\\mathrm", prose):
            left[page.name] = found
    assert left == {}


def test_a_browser_fetches_nothing(site):
    pages = "".join((site / f"{page.stem}.html").read_text() for page in DOCS.glob("*.md"))
    assert re.findall(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"", pages) == []
