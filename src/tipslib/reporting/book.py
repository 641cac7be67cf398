"""How do prose, executed notebooks and records become the book? Everything is put into one folder, and Jupyter Book binds it."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import tipslib
from tipslib import project
from tipslib.errors import CorruptFile, MissingData, StorageError, TipslibError
from tipslib.locks import alone
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import beside
from tipslib.reporting.artefacts import ARTEFACTS, kept_runs, state
from tipslib.reporting.claims import Verdict, claims
from tipslib.reporting.display import figure, findings_list, table
from tipslib.reporting.failures import failures_list
from tipslib.reporting.ledger import Entry, draw_ledger, ledger, ledger_table
from tipslib.reporting.printed import as_printed
from tipslib.reporting.publish import read_notebook
from tipslib.reporting.published import quoted, tables
from tipslib.reporting.style import use_style

_STAMP = "fingerprint.txt"


class BookFailed(TipslibError):
    """Jupyter Book warned or failed; the message holds what it said, and the book that was there before stays."""

    remedy = (
        "Mend what the lines name: most often a link, a label or a reference in `book/` or in a cell of text. If they name an executed "
        "notebook in `build/`, delete it: it is made again."
    )


def build_book(profile: str, output: Path) -> Path:
    """Assemble the book of a profile and bind it as HTML; when nothing has changed, the pages that are there stay.

    Parameters
    ----------
    profile
        Its executed notebooks are wanted in `build/notebooks/<profile>`.
    output
        Folder of the finished pages; replaced as a whole, and only by a whole book.

    Returns
    -------
    Path
        The page to open.

    Raises
    ------
    InvalidInput, MissingData
        No such profile; a notebook of the table of contents has not been executed.
    BookFailed
        Jupyter Book gave a warning or an error; `output` is left as it was.
    StorageError
        The disk is full, or a folder may not be written; `output` is left as it was.
    """
    index = output / "index.html"
    with alone(project.root() / "build" / "book" / f".{get_profile(profile).name}.lock", "another process that binds the book"):
        work = beside(output)
        source = assemble(profile)
        stamp = _fingerprint(source)
        if index.exists() and (output / _STAMP).exists() and (output / _STAMP).read_bytes() == stamp.encode():
            return index
        work.mkdir(parents=True)
        try:
            _jupyter_book(source, work)
            pages = work / "_build" / "html"
            (pages / _STAMP).write_text(stamp)
            if output.exists():
                output.rename(work / "before")
            pages.rename(output)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return index


def assemble(profile: str) -> Path:
    """Put the book's sources together in `build/book/<profile>`, and return that folder."""
    size, root = get_profile(profile), project.root()
    folder = root / "build" / "book" / size.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "book", folder, ignore=shutil.ignore_patterns("_build", "__pycache__", ".*"))
    shutil.copytree(root / "data" / "published", folder / "published")
    executed = root / "build" / "notebooks" / size.name
    (folder / "notebooks").mkdir()
    (folder / "extra" / "downloads").mkdir(parents=True)
    for name in re.findall(r"file: notebooks/([\w-]+)", _text(folder / "_toc.yml")):
        if not (executed / f"{name}.ipynb").exists():
            raise MissingData(f"{executed / name}.ipynb: this notebook has not been executed; `make book PROFILE={size.name}` does all")
        shutil.copyfile(executed / f"{name}.ipynb", folder / "notebooks" / f"{name}.ipynb")
        shutil.copyfile(root / "notebooks" / f"{name}.ipynb", folder / "extra" / "downloads" / f"{name}.ipynb")
    for path, text in (*_generated(size), *_api()):
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for page in folder.glob("*.md"):
        page.write_text(_filled(_text(page), size), encoding="utf-8")
    return folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path}: not text ({error}). Restore the file of this name in book/ from the repository") from error


def _filled(text: str, profile: Profile) -> str:
    """The text of a page with what stands for the profile, and `{{ quoted tips-step1-seconds }}` for a number that a paper prints."""
    text = text.replace("{{ profile }}", profile.name).replace("{{ profile_summary }}", profile.summary)
    return re.sub(r"\{\{ quoted ([\w-]+) \}\}", lambda m: f"{quoted(m[1]).value:g}", text)


def _generated(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "generated/failures.md", failures_list()
    for paper in ("tips", "progressive"):
        yield f"generated/artefacts-{paper}.md", _artefacts(paper, profile)
    entries = ledger()
    yield "generated/ledger-picture.md", _picture(entries)
    yield "generated/ledger.md", ledger_table(entries).html
    yield "generated/claims.md", _claims(entries)
    yield "generated/verdict-counts.md", _verdict_counts(entries)
    yield "generated/profiles.md", _profiles()
    yield "generated/settings.md", _settings(profile)
    for name in tables():
        yield f"generated/printed-{name}.md", _printed(name)


def _picture(entries: Sequence[Entry]) -> str:
    counts = Counter(entry.finding.verdict for entry in entries)
    real = sum(entry.profile not in (None, "smoke") for entry in entries)
    said = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    rows = [(e.claim.page, e.claim.id, e.finding.verdict.value, e.profile) for e in entries]
    use_style()
    return figure(
        draw_ledger(entries, titles()),
        name="ledger-picture",
        caption=f"All {len(entries)} claims, by the page that tests them: {said}. Large squares: tested on kept records of a profile "
        f"above smoke ({real}).",
        alt=f"A row of coloured squares for each page, one for each claim: {said}.",
        data=pd.DataFrame(rows, columns=["page", "claim", "verdict", "profile"]),
    ).html


def _printed(name: str) -> str:
    frames = as_printed(name).items()
    shown = [
        table(frame, name=f"printed-{name}-{i}", caption=caption, formats=dict.fromkeys(frame.columns, str), data=False).html
        for i, (caption, frame) in enumerate(frames, start=1)
    ]
    return "\n\n".join(shown)


def _artefacts(paper: str, profile: Profile) -> str:
    rows = []
    for artefact in ARTEFACTS.values():
        if artefact.paper == paper:
            done = state(artefact, profile) == "recomputed"
            printed = ", [as printed](published.html)" if artefact.id in tables() else ""
            label = f"[{artefact.label}](notebooks/{artefact.notebook}.html)"
            said = f"**✔ recomputed** at {profile.name}" if done else f"○ not run{printed}"
            there = kept_runs(artefact)
            more = "–" if there is None else f"{there[0]}, {there[1]} of {there[2]} runs"
            rows.append({"Artefact": label, "State": said, "Records kept": more, "What it shows": artefact.title})
    return table(pd.DataFrame(rows), name=f"artefacts-{paper}", caption="Figures and tables of the paper", data=False).html


def _verdict_counts(entries: Sequence[Entry]) -> str:
    rows = []
    for page, tested in _by_page(entries).items():
        counts = {verdict.value: [entry.finding.verdict for entry in tested].count(verdict) for verdict in Verdict}
        rows.append({"Page": f"[{_title(page)}](notebooks/{page}.html)", "Claims": len(tested)} | counts)
    return table(pd.DataFrame(rows), name="verdict-counts", caption="How many claims of each page hold", data=False).html


def _claims(entries: Sequence[Entry]) -> str:
    parts = []
    for page, tested in _by_page(entries).items():
        shown = findings_list([(e.claim, e.finding, e.profile) for e in tested], page=f"notebooks/{page}.html")
        parts.append(f"## [{_title(page)}](notebooks/{page}.ipynb)\n\n{shown.html}\n")
    return "\n".join(parts)


def titles() -> dict[str, str]:
    """The title of every page that has claims, by the name of its notebook."""
    return {page: _title(page) for page in dict.fromkeys(claim.page for claim in claims().values())}


def _title(page: str) -> str:
    """The first heading of a notebook."""
    cells = read_notebook(project.root() / "notebooks" / f"{page}.ipynb").cells
    return (cells[0].source.splitlines() or [page])[0].removeprefix("# ") if cells else page


def _by_page(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries by the notebook that shows them."""
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.claim.page, []).append(entry)
    return grouped


def _profiles() -> str:
    rows = []
    for profile in map(get_profile, PROFILES):
        data = ", ".join(name if count is None else f"{name} ({count:,} images)" for name, count in profile.datasets.items())
        rows.append({"Profile": profile.name, "What it is": profile.summary, "Data": data, "Seeds": len(profile.seeds)})
    return table(pd.DataFrame(rows), name="profiles", caption="The profiles").html


def _settings(profile: Profile) -> str:
    parts: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]
    parts = [(experiment, {}, values) for experiment, values in profile.settings.items()]
    parts += [(experiment, cell.of, cell.settings) for experiment, cells in profile.cells.items() for cell in cells]
    rows = [
        {"Experiment": experiment, "Where": ", ".join(map(str, of.values())) or "–", "Parameter": name, "Value": str(value)}
        for experiment, of, values in parts
        for name, value in values.items()
    ]
    if not rows:
        return "None: every experiment runs with the paper's own parameters."
    caption = f"Settings of the profile {profile.name}; what is set for one network or data set comes before what is set for all"
    return table(pd.DataFrame(rows), name="settings", caption=caption).html


def _api() -> Iterator[tuple[str, str]]:
    """One page per package of the library, and one for the modules that stand by themselves."""
    alone = []
    for module in pkgutil.iter_modules(tipslib.__path__, "tipslib."):
        if not module.ispkg:
            if module.name != "tipslib.__main__":
                alone.append(module.name)
            continue
        package = importlib.import_module(module.name)
        inside = [] if hasattr(package, "__all__") else sorted(m.name for m in pkgutil.walk_packages(package.__path__, f"{module.name}."))
        yield f"api/{module.name.rpartition('.')[2]}.md", _api_page(module.name, [module.name, *inside])
    yield "api/foundations.md", _api_page("Foundations", ["tipslib", *alone])


def _api_page(title: str, modules: list[str]) -> str:
    parts = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n" for name in modules]
    return f"# {title}\n\n" + "\n".join(parts)


def _jupyter_book(source: Path, folder: Path) -> None:
    start = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*start, "build", str(source), "--path-output", str(folder), "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "0"})
    if done.returncode:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).splitlines()
        if refused := [line for line in lines if "[Errno " in line]:
            raise StorageError(f"{source} cannot be bound ({refused[0]}). Free space or allow writing in {folder.parent}, then repeat")
        said = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-30:]
        raise BookFailed("\n".join([f"Jupyter Book could not bind {source}:", *said]))


def _fingerprint(source: Path) -> str:
    package = Path(tipslib.__file__).parent
    digest = hashlib.sha256(f"{version('jupyter-book')} {version('sphinx-book-theme')} {version('vl-convert-python')}".encode())
    for folder in (source, package):
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
