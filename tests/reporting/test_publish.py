import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tipslib.errors import InvalidInput, MissingData
from tipslib.reporting import VEGA_LITE, book, publish
from tipslib.reporting.publish import NotebookFailed, chart_html, execute, parameters_of, published

PARAMETERS = 'profile = "smoke"\nseed = None'

CONFIGURATION = """
title: Small
author: ""
only_build_toc_files: true
execute:
  execute_notebooks: "off"
sphinx:
  config:
    html_extra_path: [extra]
"""


def write(folder: Path, name: str, *sources: str) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    cells = [new_markdown_cell("# A page"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells + [new_code_cell(s) for s in sources], metadata=kernel), folder / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return tmp_path


def test_two_runs_give_equal_bytes_without_times_and_paths(home):
    write(home, "page", "from IPython.display import HTML\nHTML(f'<b>{profile} {seed}</b>')", "import os\nos.environ['TIPSLIB_PROGRESS']")
    pages = [execute("page", "laptop", home / f"{i}.ipynb", {"seed": 3}).read_bytes() for i in range(2)]
    assert pages[0] == pages[1]
    assert str(home).encode() not in pages[0]
    page = nbformat.reads(pages[0].decode(), as_version=4)
    nbformat.validate(page)
    assert [c.metadata.get("tags") for c in page.cells] == [None, ["parameters", "remove-cell"], ["hide-input"], ["hide-input"]]
    assert page.cells[2].outputs[0].data["text/html"] == "<b>laptop 3</b>"
    assert page.cells[3].outputs[0].data["text/plain"] == "'0'"
    assert set(page.metadata) == {"kernelspec", "language_info"}


def test_notebooks_run_in_this_python_and_beside_their_source(home):
    write(home, "page", "import os, sys\nprint(sys.executable)\nprint(os.getcwd())")
    page = nbformat.read(execute("page", "smoke", home / "out" / "page.ipynb"), as_version=4)
    assert page.cells[2].outputs[0].text.splitlines() == [sys.executable, str(home / "notebooks")]


def test_what_a_notebook_takes_of_memory_is_written_down(home):
    write(home, "page", "large = bytearray(300_000_000)")
    peak = execute("page", "smoke", home / "out" / "page.ipynb").with_suffix(".peak")
    assert int(peak.read_text()) > 300e6


def test_failing_parameters_are_named_by_their_own_number(home):
    write(home, "page", "good = 1")
    path = home / "notebooks" / "page.ipynb"
    path.write_text(path.read_text().replace("seed = None", "seed = nothing"))
    with pytest.raises(NotebookFailed, match=r"cell 1 .* raised NameError"):
        execute("page", "smoke", home / "out.ipynb")


def test_failing_cell_is_named_and_the_run_kept(home):
    write(home, "page", "good = 1", "bad = good / 0")
    output = home / "out" / "page.ipynb"
    with pytest.raises(
        NotebookFailed, match=r"notebook page at profile smoke: cell 3 \('bad = good / 0'\) raised ZeroDivisionError"
    ) as error:
        execute("page", "smoke", output)
    assert not output.exists()
    failed = output.with_name("page.failed.ipynb")
    assert str(failed) in str(error.value)
    assert any(o.output_type == "error" for c in nbformat.read(failed, as_version=4).cells for o in c.get("outputs", []))
    write(home, "page", "good = 1")
    execute("page", "smoke", output)
    assert not failed.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing", "smoke"), "no notebook 'nothing'; there are page"),
        (("page", "huge"), "no profile 'huge'; there are smoke"),
        (("page", "smoke", {"speed": 1}), "no parameter 'speed'; there are profile, seed"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(home, arguments, words):
    write(home, "page", "raise SystemError('ran')")
    name, profile, *parameters = arguments
    with pytest.raises(InvalidInput, match=words):
        execute(name, profile, home / "out.ipynb", *parameters)


def test_parameters_are_the_names_the_tagged_cell_assigns():
    cells = [new_code_cell("a, b = 1, c", metadata={"tags": ["parameters"]}), new_code_cell("other = 1")]
    assert parameters_of(new_notebook(cells=cells)) == ["a", "b"]


def page_of(*outputs, tags=()):
    return published(new_notebook(cells=[new_code_cell("1", outputs=list(outputs), metadata={"tags": list(tags)})]), "page").cells[0]


def test_chart_and_its_caption_become_one_figure():
    about = {"name": "play", "alt": 'A "line"', "caption": "<figcaption>Play</figcaption>"}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.1.json",
        "mark": "line",
        "width": 400,
        "data": {"values": [{"x": "</script>"}]},
    }
    outputs = [
        new_output("display_data", {VEGA_LITE: spec, "text/plain": "A line"}, metadata={"tipslib": about}),
        new_output("display_data", {"text/html": about["caption"]}, metadata={"tipslib": "caption"}),
    ]
    (output,) = page_of(*outputs).outputs
    html = output.data["text/html"]
    assert html.count("Play") == 1
    assert 'aria-label="A &quot;line&quot;"' in html
    body = html.split('type="application/json">')[1].split("</script>")[0]
    drawn = json.loads(body)
    assert drawn["data"] == spec["data"]
    assert drawn["width"] == "container"
    assert "/v6." in drawn["$schema"]


def test_charts_beside_each_other_keep_their_widths():
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.1.json", "hconcat": []}
    html = chart_html(spec, {"name": "play", "alt": "Two", "caption": ""})
    assert "container" not in html
    assert "overflow-x:auto" in html


def test_what_a_cell_wrote_to_stderr_is_logged_and_not_shown(caplog):
    cell = page_of(new_output("stream", name="stderr", text="careful\n"), new_output("stream", name="stdout", text="fine\n"))
    assert [o.text for o in cell.outputs] == ["fine\n"]
    assert "notebook page, cell 0 wrote to stderr: careful" in caplog.text


def test_tags_that_say_how_to_show_a_cell_are_kept():
    assert page_of(tags=["remove-input"]).metadata["tags"] == ["remove-input"]
    assert page_of(tags=["other"]).metadata["tags"] == ["hide-input", "other"]


def test_links_of_the_footer_lead_to_pages_of_the_book():
    html = '<a class="tips-notebook" href="a.ipynb">n</a> <a class="tips-source" href="../src/tipslib/experiments/a.py">s</a>'
    (output,) = page_of(new_output("display_data", {"text/html": html})).outputs
    assert 'href="../downloads/a.ipynb"' in output.data["text/html"]
    assert 'href="../_modules/tipslib/experiments/a.html"' in output.data["text/html"]


def test_command_line_says_what_is_wrong_in_one_line(home, capsys):
    write(home, "page", "1")
    assert publish.main(["execute", "page", "--profile", "huge", "--output", str(home / "x.ipynb")]) == 1
    assert capsys.readouterr().err.startswith("no profile 'huge'")


def small_book(home: Path, text: str = "# Hello\n\nProfile {{ profile }}.\n") -> None:
    (home / "book").mkdir(exist_ok=True)
    (home / "data" / "published").mkdir(parents=True, exist_ok=True)
    (home / "book" / "_config.yml").write_text(CONFIGURATION)
    (home / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: notebooks/page\n")
    (home / "book" / "index.md").write_text(text)


@pytest.fixture
def plain(home, monkeypatch):
    """A book without generated parts, which have their own records to stand on."""
    monkeypatch.setattr(book, "_generated", lambda profile: [])
    monkeypatch.setattr(book, "_api", list)
    small_book(home)
    return home


def test_book_wants_every_notebook_of_its_contents_executed(plain):
    with pytest.raises(MissingData, match=r"page.ipynb: this notebook has not been executed"):
        book.build_book("smoke", plain / "build" / "html" / "smoke")


def test_book_is_built_whole_kept_when_nothing_changed_and_kept_when_a_build_fails(plain):
    write(plain, "page", "1 + 1")
    execute("page", "smoke", plain / "build" / "notebooks" / "smoke" / "page.ipynb")
    output = plain / "build" / "html" / "smoke"
    index = book.build_book("smoke", output)
    assert "Profile smoke." in index.read_text()
    assert (output / "downloads" / "page.ipynb").read_text() == (plain / "notebooks" / "page.ipynb").read_text()
    first = index.stat().st_mtime_ns
    book.build_book("smoke", output)
    assert index.stat().st_mtime_ns == first
    small_book(plain, "# Hello\n\n[nowhere](missing.md)\n")
    with pytest.raises(book.BookFailed, match=r"missing\.md"):
        book.build_book("smoke", output)
    assert "Profile smoke." in index.read_text()
    assert [p.name for p in output.parent.iterdir()] == ["smoke"]
    small_book(plain, "# Hello again\n")
    assert "Hello again" in book.build_book("smoke", output).read_text()


def test_no_page_of_the_library_is_left_out():
    pages = dict(book._api())
    for module in ("tipslib.records", "tipslib.experiments.stability", "tipslib.reporting.display", "tipslib.topology"):
        assert sum(f".. automodule:: {module}\n" in text for text in pages.values()) == 1


def test_publish_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "tipslib.reporting.publish", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "assemble" in done.stdout
