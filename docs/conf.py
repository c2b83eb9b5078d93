"""Sphinx configuration: ``make docs``. Nothing is fetched while building, nor by a browser that reads the pages."""

import re
import sys
from types import ModuleType

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import alias_ops

project = "alias_ops"
author = "the alias_ops authors"
project_copyright = author
version = release = alias_ops.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Names of other projects: looking them up would need the network.
nitpick_ignore_regex = [(r"py:.*", r"(torch|collections|numpy|np|nn|dist)\..*|SummaryWriter")]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False

autodoc_inherit_docstrings = False  # nn.Module's, of forward
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

smartquotes = False  # "mean" is an argument
html_theme = "furo"
html_title = f"alias_ops {version}"
html_math_renderer = "mathml"
html_show_sphinx = False
copybutton_prompt_text = "$ "

# As files of the repository call each other, and what these are among the pages.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/NOTES.md": "notes.md",
    "docs/spectra.md": "spectra.md",
    "docs/frequency.md": "frequency.md",
}


# What alias_ops.integrations takes from optional libraries, which the build does without. Not autodoc_mock_imports:
# autodoc looks for the source of a mocked base class, and imports its library for it.
for name, members in {
    "eagerpy": {},
    "foolbox.attacks.base": dict.fromkeys(
        ("MinimizationAttack", "get_criterion", "raise_if_kwargs", "verify_input_bounds"), object
    ),
    "foolbox.criteria": dict.fromkeys(("Misclassification", "TargetedMisclassification"), object),
    "foolbox.distances": {"l2": None},
    "lightning.pytorch": {"Callback": object},
    "lightning.pytorch.utilities": {"rank_zero_info": print},
    "torch.utils.tensorboard": {"SummaryWriter": object},
    "torchmetrics": {"Metric": object},
}.items():
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(members)


def _read_included(app, path, parent, content):
    """Links between included files, to the pages that show them."""
    for file, page in PAGES.items():
        content[0] = content[0].replace(f"]({file})", f"]({page})")


def _mark_up(app, what, name, obj, options, lines):
    """Docstrings as they read in ``help()``, less what napoleon would take for something else.

    An indented block behind the summary is code, without ``::`` above it. Where ``Returns:`` has a colon in its
    text, what stands before it is no type.
    """
    headings = [i for i, line in enumerate(lines) if re.fullmatch(r"[A-Z]\w+:", line)]
    for i in reversed(headings):
        if lines[i] == "Returns:":
            lines[i : i + 2] = [f":returns: {lines[i + 1].strip()}"]
    summary = lines[: headings[0] if headings else None]
    for i, (before, line, after) in enumerate(zip(summary, summary[1:], summary[2:], strict=False)):
        if before and not line and after.startswith("    "):
            lines[i + 1 : i + 1] = ["", "::"]
            return


def _math(self, node, block):
    """MathML by docutils, which browsers show by themselves: no script, no fonts."""
    formula = tex2mathml(node.astext())
    if block:
        formula = formula.replace("<math ", '<math display="block" ', 1)
        formula = f'<div class="math">{formula}</div>'
    self.body.append(formula)
    raise nodes.SkipNode


def setup(app):
    app.connect("include-read", _read_included)
    app.connect("autodoc-process-docstring", _mark_up, priority=400)  # napoleon has 500
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: _math(self, node, False), None),
        (lambda self, node: _math(self, node, True), None),
    )
