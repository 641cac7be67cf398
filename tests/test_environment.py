"""Do pyproject.toml, the lock, environment.yml, the Makefile and the cluster profiles agree with each other?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tipslib import project

ROOT = project.root()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
PLACES = {
    "linux, x86": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    "linux, arm": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
    "mac, arm": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
}


def locked(place: str, python: str) -> dict[str, Version]:
    """Name -> version of everything the lock installs there."""
    environment = {**default_environment(), **PLACES[place], "python_version": python, "python_full_version": f"{python}.1"}
    requirements = [Requirement(line) for line in LOCK]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
    names = [canonicalize_name(r.name) for r in chosen]
    assert len(set(names)) == len(names), "something is pinned twice"
    return {canonicalize_name(r.name): Version(next(iter(r.specifier)).version) for r in chosen}


def test_every_line_of_the_lock_pins_one_version_and_names_no_host() -> None:
    assert len(LOCK) > 100
    for line in LOCK:
        requirement = Requirement(line)
        assert [s.operator for s in requirement.specifier] == ["=="], line
        assert "*" not in str(requirement.specifier), line
        assert requirement.url is None, line
        assert "://" not in line, line
        assert not line.startswith("-"), line


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_every_dependency_at_a_version_that_is_allowed(place: str, python: str) -> None:
    pinned = locked(place, python)
    for line in [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["dev"]]:
        wanted = Requirement(line)
        assert canonicalize_name(wanted.name) in pinned, line
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier, line


def test_extras_are_those_the_set_up_knows() -> None:
    assert set(EXTRAS) == {"book", "dev"}


def test_conda_brings_python_and_pip_and_the_project_all_else() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    *conda, through_pip = environment["dependencies"]
    assert [re.split(r"[<>=]", spec)[0] for spec in conda] == ["python", "pip"]
    assert SpecifierSet(conda[0].removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert through_pip == {"pip": [f"-e .[{','.join(sorted(EXTRAS))}]"]}


def test_the_command_is_the_one_of_the_library() -> None:
    assert PROJECT["scripts"] == {"tipslib": "tipslib.cli:main"}
    assert PROJECT["requires-python"] == ">=3.11"


# set-up and make, tried on a copy that is set up in name only


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    return tmp_path


def ready(checkout: Path) -> Path:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".ready").touch()
    return checkout


def make(checkout: Path, *arguments: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROFILE", "JOBS", "NOTEBOOK")
    }
    done = subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_says_what_there_is_and_does_nothing(checkout: Path) -> None:
    said = make(checkout)
    for target in ("book", "test", "fuzz", "lab", "bench", "lock", "clean"):
        assert f"make {target} " in said
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("target", ["book", "test", "fuzz", "lab", "bench", "lock"])
def test_every_target_sets_up_first_and_only_once(checkout: Path, target: str) -> None:
    assert "sh workflow/setup.sh" in make(checkout, "-n", target)
    ready(checkout)
    assert "setup.sh" not in make(checkout, "-n", target)
    (checkout / "requirements.lock").touch()
    os.utime(checkout / "requirements.lock", (2**32, 2**32))
    assert "sh workflow/setup.sh" in make(checkout, "-n", target)


def test_make_book_is_narrowed_and_widened(checkout: Path) -> None:
    ready(checkout)
    assert "tipslib.cli reproduce  --profile smoke \n" in make(checkout, "-n", "book")
    narrowed = make(checkout, "-n", "book", "NOTEBOOK=stability", "PROFILE=gpu", "JOBS=3")
    assert "tipslib.cli reproduce stability --profile gpu --jobs 3\n" in narrowed


def test_make_test_checks_everything_and_ends_with_pytest(checkout: Path) -> None:
    ready(checkout)
    steps = [line.partition("-m ")[2] for line in make(checkout, "-n", "test").splitlines()]
    assert [step.split()[0] for step in steps] == ["ruff", "ruff", "pytest", "mypy", "pytest", "tipslib.cli", "pytest"]
    assert steps[2] == "pytest tests/book/test_chromium.py", "a missing browser is said before anything that takes long"
    one = [line.partition("-m ")[2] for line in make(checkout, "-n", "test", "NOTEBOOK=stability").splitlines()]
    assert [step.split()[0] for step in one] == ["ruff", "ruff", "mypy", "tipslib.cli", "pytest"]
    assert one[-1].endswith("-k 'stability'")


def test_make_fuzz_tries_many_more_cases(checkout: Path) -> None:
    ready(checkout)
    assert "TIPSLIB_FUZZ_CASES=5000 .venv/bin/python -m pytest tests/test_bad_bytes.py" in make(checkout, "-n", "fuzz")
    assert "TIPSLIB_FUZZ_CASES=9 " in make(checkout, "-n", "fuzz", "CASES=9")


def test_a_python_that_is_too_old_is_named(checkout: Path) -> None:
    old = checkout / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "book", f"PYTHON={old}"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"Python 3.11 or later is wanted; {old} is Python 3.9.1\n" in done.stderr
    assert "make setup PYTHON=/path/to/python3" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(("script", "shell"), [("workflow/setup.sh", "sh"), (".ci/run", "bash")])
def test_scripts_can_be_parsed(script: str, shell: str) -> None:
    done = subprocess.run([shell, "-n", str(ROOT / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_calls_make_test_and_can_be_executed() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


# clusters


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_cluster_profiles_hold_settings_that_snakemake_knows(name: str) -> None:
    from snakemake.cli import get_argument_parser

    settings = yaml.safe_load((ROOT / "workflow" / "profiles" / name / "config.yaml").read_text())
    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    assert {f"--{setting}" for setting in settings} <= known
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "workflow" / "Snakefile").read_text(), re.MULTILINE))
    assert set(settings["set-threads"]) <= rules


def test_the_kubernetes_job_calls_snakemake_with_its_profile() -> None:
    job = yaml.safe_load((ROOT / "workflow" / "profiles" / "kubernetes" / "job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert container["command"][:3] == ["snakemake", "--workflow-profile", "workflow/profiles/kubernetes"]
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
