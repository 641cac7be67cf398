"""README's table of artefacts is what the registry says."""

import re

from PIL import Image

from tipslib import project
from tipslib.reporting.artefacts import ARTEFACTS, kept_runs
from tipslib.reporting.ledger import digest, kept_ledger

PAPERS = {"tips": "TIPS", "progressive": "Progressive intelligence"}


def row(artefact):
    where = f"[`{artefact.notebook}`](notebooks/{artefact.notebook}.ipynb)"
    state = "recomputed at `smoke` by `make book`"
    if there := kept_runs(artefact):
        state += "; kept: `{}`, {} of {} runs".format(*there)
    return f"| {PAPERS[artefact.paper]}, {artefact.label} | {artefact.title} | {where} | {state} |"


def test_every_artefact_stands_in_the_readme_with_its_notebook_and_state():
    expected = [row(a) for a in ARTEFACTS.values()]
    lines = (project.root() / "README.md").read_text().splitlines()
    found = [line for line in lines if line.startswith(tuple(f"| {paper}, " for paper in PAPERS.values()))]
    assert found == expected, "the table in README.md should read\n" + "\n".join(expected)
    for artefact in ARTEFACTS.values():
        assert (project.root() / "notebooks" / f"{artefact.notebook}.ipynb").is_file()


def test_the_first_picture_is_the_ledger_of_the_records_that_are_kept():
    first = re.search(r"!\[[^\]]*\]\(([^)]*)\)", (project.root() / "README.md").read_text())
    assert first[1] == "book/images/ledger.png"
    with Image.open(project.root() / first[1]) as picture:
        shown = picture.info["Description"]
    assert shown == digest(kept_ledger()), (
        "verdicts have changed: python -m tipslib.reporting.publish ledger --output book/images/ledger.png"
    )


def test_the_cpu_build_in_the_readme_is_of_the_locked_versions():
    asked = re.findall(r"\b(torch(?:vision)?)==([\w.]+)", (project.root() / "README.md").read_text())
    locked = dict(re.findall(r"^(torch(?:vision)?)==([\w.]+)", (project.root() / "requirements.lock").read_text(), re.MULTILINE))
    assert set(locked) == {"torch", "torchvision"}
    assert dict(asked) == locked


def test_the_readme_names_only_files_that_exist():
    text = (project.root() / "README.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [link for link in links if not link.startswith(("http", "#"))]
    assert local
    assert [link for link in local if not (project.root() / link).exists()] == []
