"""What does the book need beside Jupyter Book, so that reading it asks no other host? Formulas, charts and links to the code."""

from __future__ import annotations

import importlib
import re
import shutil
from importlib.metadata import files
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("config-inited", without_thebe, priority=1)
    app.connect("builder-inited", vendor_scripts)
    app.connect("html-page-context", add_chart_script)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("doctree-read", link_code)
    app.connect("viewcode-follow-imported", module_of)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def without_thebe(app: Sphinx, config: Any) -> None:
    """Unplug sphinx-thebe, which Jupyter Book always loads: it fetches a script from elsewhere, and declares a name twice."""
    for listeners in app.events.listeners.values():
        listeners[:] = [each for each in listeners if not each.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [each for each in app.registry.css_files if each[0] != "sphinx-thebe.css"]


def vendor_scripts(app: Sphinx) -> None:
    """Put MathJax (TeX input, HTML output) and the Vega runtime beside the pages."""
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    wanted = [f for f in files("sphinx-mathjax-offline") or [] if f.name == "tex-chtml.js" or "output/chtml" in f.as_posix()]
    for file in wanted:
        target = static / "mathjax" / file.as_posix().split("static/mathjax/")[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.locate(), target)
    import vl_convert

    script = static / "vega.js"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("(()=>{" + vl_convert.javascript_bundle() + "\n})();\n", encoding="utf-8")


def add_chart_script(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Load the Vega runtime on the pages that have a chart, and on no others: it weighs 0.9 MB."""
    if 'class="vega-chart"' in context.get("body", ""):
        app.add_js_file("vega.js", priority=400, loading_method="defer")


def plain_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Take a docstring as text with code in backticks: outside of these `|`, `*` and a trailing `_` mean themselves, as in |x|.

    What is indented after a line that ends in a colon and an empty line is shown as it stands.
    """
    block: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"[|*\\]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)
        after = lines[number + 1 : number + 3]
        opens = line.endswith(":") and len(after) == 2 and not after[0].strip() and after[1][: indent + 1].isspace()
        block = indent if opens else None
        if opens and not line.endswith("::"):
            lines[number] += ":"


def readable_defaults(app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str | None, returned: str | None) -> Any:
    """Write a dataclass's `<factory>` as `...`, which Sphinx can read as a signature."""
    return (given.replace("<factory>", "..."), returned) if given else None


def module_of(app: Sphinx, module: str, name: str) -> str | None:
    """The module whose code is shown for `name`: where it is described, for a value of a built-in type; else None, and Sphinx finds it."""
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return module if getattr(value, "__module__", None) == "builtins" else None


def link_code(app: Sphinx, doctree: nodes.document) -> None:
    """Turn a literal such as ``tipslib.topology.tas`` into a link to where it is described, if it is."""
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()")
        if not name.startswith("tipslib.") or isinstance(literal.parent, pending_xref | nodes.reference):
            continue
        reference = pending_xref(
            "", refdomain="py", reftype="obj", reftarget=name, refdoc=app.env.docname, refexplicit=False, refwarn=False
        )
        literal.replace_self(reference)
        reference += literal
