"""How does a notebook become a page: executed at a profile, then cleaned so that equal results give equal bytes?"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import nbformat

from tipslib import project
from tipslib.errors import CorruptFile, InvalidInput, TipslibError, unreadable
from tipslib.profiles import get_profile
from tipslib.progress import watched
from tipslib.records import write_atomically
from tipslib.reporting import VEGA_LITE

log = logging.getLogger(__name__)

_SHOWN_AS_THEY_ARE = {"remove-cell", "remove-input", "hide-input", "hide-cell", "show-input"}


class NotebookFailed(TipslibError):
    """A cell of a notebook raised; the message names notebook, cell and exception, and where the failed run lies."""

    remedy = (
        "If the exception is one of this page, do what is said there. Else open the failed run in JupyterLab (`make lab`), where the cell "
        "shows its traceback; the notebook itself can be run there cell by cell."
    )


def notebooks() -> list[str]:
    """The names of the notebooks there are."""
    return sorted(path.stem for path in (project.root() / "notebooks").glob("*.ipynb"))


def execute(name: str, profile: str, output: Path, parameters: Mapping[str, Any] | None = None) -> Path:
    """Run `notebooks/<name>.ipynb` at a profile through papermill, and write the page it makes to `output`.

    Parameters
    ----------
    name, profile
        Which notebook, how large.
    output
        The published notebook; written aside and renamed. A failed run is kept beside it as `<stem>.failed.ipynb`. In `<stem>.peak`
        stands how much memory the notebook took, in bytes (of several executed by one process, the largest).
    parameters
        Other variables of the notebook's parameters cell.

    Raises
    ------
    InvalidInput
        No such notebook, profile or parameter; nothing was run.
    CorruptFile
        The notebook is none, or was cut or altered so that it cannot be read; nothing was run.
    NotebookFailed
        A cell raised, or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source = project.root() / "notebooks" / f"{name}.ipynb"
    if name not in notebooks():
        raise InvalidInput(f"no notebook {name!r}; there are {', '.join(notebooks())}")
    given = {"profile": get_profile(profile).name, **(parameters or {})}
    allowed = parameters_of(read_notebook(source))
    for key in given:
        if key not in allowed:
            raise InvalidInput(f"notebook {name} has no parameter {key!r}; there are {', '.join(allowed)}")
    failed = output.with_suffix(".failed.ipynb")
    with tempfile.TemporaryDirectory() as folder, _this_python(Path(folder)):
        raw = Path(folder) / f"{name}.ipynb"
        try:
            papermill.execute_notebook(
                source, raw, given, kernel_name="python3", language="python", cwd=source.parent, progress_bar=watched()
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            kept, run = "", None
            if raw.exists():
                run = nbformat.read(raw, as_version=4)
                output.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(raw, failed)
                kept = f". The run up to there: {failed}"
            raise NotebookFailed(f"notebook {name} at profile {profile}: {_reason(error, run)}{kept}") from error
        page = published(nbformat.read(raw, as_version=4), name)
    write_atomically(output.with_suffix(".peak"), f"{peak_memory()}\n".encode())
    write_atomically(output, nbformat.writes(page).encode())
    failed.unlink(missing_ok=True)
    return output


def peak_memory() -> int:
    """Bytes that the largest of the processes this one has started and seen end held at once."""
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_notebook(path: Path) -> Any:
    """A notebook that keeps to the format, whose parameters are written in Python.

    Raises
    ------
    CorruptFile
        It is no notebook.
    StorageError
        It may not be read.
    """
    try:
        content = path.read_bytes().decode()
        nbformat.validate(json.loads(content))
        notebook = nbformat.reads(content, as_version=4)
        parameters_of(notebook)
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # nbformat raises whatever it runs into
        reason = str(error).strip().partition("\n")[0]
        raise CorruptFile(f"{path}: not a whole notebook ({type(error).__name__}: {reason}). Restore it from the repository") from error
    return notebook


def published(notebook: Any, name: str) -> Any:
    """What of an executed notebook goes into the book.

    Papermill's own cell and all metadata of the run (times, paths) are dropped; cells are numbered; code is folded and the
    parameters hidden; charts become HTML that works without a kernel; what cells wrote to stderr is logged instead.
    """
    cells: list[Any] = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if "injected-parameters" in tags:
            continue
        if cell.cell_type == "code":
            if "parameters" in tags:
                tags.add("remove-cell")
            elif not tags & _SHOWN_AS_THEY_ARE:
                tags.add("hide-input")
            cell.outputs = list(_outputs(cell.outputs, f"notebook {name}, cell {len(cells)}"))
            cell.execution_count = None
        cell.id = f"cell-{len(cells)}"
        kept = {"mystnb": cell.metadata["mystnb"]} if "mystnb" in cell.metadata else {}
        cell.metadata = nbformat.from_dict(kept | ({"tags": sorted(tags)} if tags else {}))
        cells.append(cell)
    notebook.cells = cells
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    return notebook


def parameters_of(notebook: Any) -> list[str]:
    """The names that the cell tagged `parameters` assigns."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    assigned = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(node.id for node in assigned if isinstance(node.ctx, ast.Store)))


def chart_html(spec: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """A Vega-Lite specification as HTML: the book's script draws it, as wide as there is room."""
    spec = {**spec, "$schema": spec["$schema"].replace("/v5", "/v6")}  # JupyterLab draws version 5, the book what altair writes
    width = spec.get("width", 560)
    box = "overflow-x:auto"
    if ("mark" in spec or "layer" in spec) and isinstance(width, int | float):
        spec |= {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
        box = f"width:100%;max-width:{width + 100:.0f}px"
    body = json.dumps(spec, sort_keys=True, ensure_ascii=False).replace("</", "<\\/")
    return (
        f'<figure id="{about["name"]}" class="tips-figure" style="margin:1.5em 0">'
        f'<div class="vega-chart" role="group" aria-label="{escape(about["alt"])}" style="{box}"></div>'
        f'<script type="application/json">{body}</script>{about["caption"]}</figure>'
    )


def _outputs(outputs: list[Any], where: str) -> Iterator[Any]:
    for output in outputs:
        about = output.get("metadata", {}).get("tipslib")
        if about == "caption":
            continue
        if output.output_type == "stream" and output.name == "stderr":
            log.warning("%s wrote to stderr: %s", where, output.text.strip())
            continue
        if "data" in output:
            data = dict(output.data)
            if VEGA_LITE in data and about:
                data = {"text/html": chart_html(data[VEGA_LITE], about), "text/plain": data["text/plain"]}
            if "text/html" in data:
                data["text/html"] = _book_links(data["text/html"])
            yield nbformat.v4.new_output("display_data", data)
        else:
            yield output


def _book_links(html: str) -> str:
    html = re.sub(r'(class="tips-notebook" href=")([\w-]+\.ipynb)', r"\1../downloads/\2", html)
    return re.sub(r'(class="tips-source" href=")\.\./src/([\w/-]+)\.py', r"\1../_modules/\2.html", html)


def _reason(error: Exception, run: Any) -> str:
    """What went wrong, with the number of the cell in the notebook as it is written, counted from 0 as in the pages."""
    if not hasattr(error, "ename"):
        return f"the kernel died ({error})"
    cell = getattr(error, "cell_index", "?")
    if run is not None and isinstance(cell, int):
        tags = [set(c.metadata.get("tags", [])) for c in run.cells]
        written = [t for t in tags if "papermill-error-cell-tag" not in t]  # those it puts in after the run
        cell -= sum("injected-parameters" in t for t in written[:cell])
    line = next((line for line in str(getattr(error, "source", "")).splitlines() if line.strip()), "")
    return f"cell {cell} ({line!r}) raised {error.ename}: {getattr(error, 'evalue', '')}"


@contextmanager
def _this_python(folder: Path) -> Iterator[None]:
    """Make `python3` mean the Python that runs now, with no progress bars, whatever other kernels the user has installed."""
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
    env = {"TIPSLIB_PROGRESS": "0", "PYTHONHASHSEED": "0"}
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python", "env": env}))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(folder / "jupyter"), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def main(arguments: list[str] | None = None) -> int:
    """`python -m tipslib.reporting.publish assemble --profile smoke --output build/html/smoke`."""
    parser = argparse.ArgumentParser(prog="python -m tipslib.reporting.publish", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    book = commands.add_parser("assemble", help="bind the executed notebooks and the prose into the HTML book")
    page = commands.add_parser("execute", help="run one notebook and write its page")
    page.add_argument("name")
    for command in (book, page):
        command.add_argument("--profile", default="smoke")
        command.add_argument("--output", type=Path, required=True)
    commands.add_parser("ledger", help="draw the verdicts on the kept records, for README").add_argument(
        "--output", type=Path, required=True
    )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "assemble":
            from tipslib.reporting.book import build_book  # slow to load, and a notebook does not need it

            print(build_book(chosen.profile, chosen.output))
        elif chosen.command == "ledger":
            from tipslib.reporting.book import titles
            from tipslib.reporting.ledger import kept_ledger, picture

            write_atomically(chosen.output, picture(kept_ledger(), titles()))
            print(chosen.output)
        else:
            print(execute(chosen.name, chosen.profile, chosen.output))
    except TipslibError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        places = f"{project.root() / 'build'} and in the folder of temporary files, which TMPDIR names"
        print(f"{chosen.output}: cannot be made ({reason}). Free space or allow writing in {places}, then repeat", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
