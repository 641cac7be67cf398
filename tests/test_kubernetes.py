"""Does the batch run where each of its jobs is a pod? The cluster is a server here, which speaks as much of Kubernetes as it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_shell import Shell

PROFILE = "workflow/profiles/kubernetes"
GPU = ("--set-resources", "run:gpu=1", "run:gpu_manufacturer=nvidia", "run:scale=0")


class Cluster(ThreadingHTTPServer):
    """Runs the container of each job as a process, in an empty folder. Allows what `access.yaml` does."""

    def __init__(self, home: Path, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Call)
        self.folder, self.environment = folder, environment
        self.specs: list[dict[str, Any]] = []  # of every pod there ever was
        self.processes: dict[str, subprocess.Popen[bytes]] = {}  # of the jobs that were not deleted
        self.secrets: dict[str, dict[str, str]] = {}
        self.unlucky = 0  # the how-manieth pod is killed
        self.asked: set[tuple[str, str, str]] = set()
        (role,) = (part for part in yaml.safe_load_all((home / PROFILE / "access.yaml").read_text()) if part["kind"] == "Role")
        rules = [(rule["apiGroups"][0], rule["resources"][0], rule["verbs"]) for rule in role["rules"]]
        self.allowed = {(group, resource, verb) for group, resource, verbs in rules for verb in verbs}

    def submit(self, name: str, spec: dict[str, Any]) -> None:
        (container,) = spec["containers"]
        command = [*container["command"], *container["args"]]
        if len(self.specs) + 1 == self.unlucky:
            command = ["/bin/sh", "-c", "echo no memory is left; kill -KILL $$"]
        place = self.folder / name
        place.mkdir()
        environment = self.environment | {"HOME": str(place)}
        for variable in container["env"]:
            secret = variable["valueFrom"]["secretKeyRef"]
            environment[variable["name"]] = b64decode(self.secrets[secret["name"]][secret["key"]]).decode()
        with place.with_suffix(".log").open("wb") as log:
            self.processes[name] = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
        self.specs.append(spec)

    def code(self, name: str) -> int | None:
        """What the container of a job ended with, as Kubernetes tells it."""
        code = self.processes[name].poll()
        return 128 - code if code is not None and code < 0 else code


class Call(BaseHTTPRequestHandler):
    server: Cluster

    def do_POST(self) -> None:
        self.answer("create", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self.answer("get")

    def do_DELETE(self) -> None:
        self.answer("delete")

    def answer(self, verb: str, body: dict[str, Any] | None = None) -> None:
        url = urlsplit(self.path)
        root, _, rest = url.path.partition("/namespaces/default/")
        kind, name, part = (*rest.split("/"), "", "")[:3]
        verb = "list" if verb == "get" and not name else verb
        what = {"/api/v1": "", "/apis/batch/v1": "batch"}[root], f"{kind}/{part}".rstrip("/"), verb
        self.server.asked.add(what)
        if what not in self.server.allowed:
            return self.send(403, {"message": f"{what} is forbidden"})
        try:
            self.send(200, self.found(what, name, parse_qs(url.query), body))
        except KeyError:
            self.send(404, {"message": f"{self.path} not found"})
        except ValueError as error:
            self.send(400, {"message": str(error)})

    def found(self, what: tuple[str, str, str], name: str, query: dict[str, list[str]], body: dict[str, Any] | None) -> object:
        match what, body:
            case (_, "secrets", "create"), {"metadata": {"name": made}, "data": data}:
                self.server.secrets[made] = data
            case (_, "secrets", "delete"), _:
                del self.server.secrets[name]
            case (_, "jobs", "create"), {"metadata": {"name": made}, "spec": {"template": {"spec": spec}}}:
                self.server.submit(made, spec)
            case (_, "jobs", "delete"), _:
                self.server.processes.pop(name).kill()
            case (_, "jobs/status", "get"), _:
                code = self.server.code(name)
                return {"status": {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}}
            case (_, "pods", "list"), _:
                job = query["labelSelector"][0].removeprefix("job-name=")
                code = self.server.code(job)
                state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
                container = {"name": "snakemake", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
                return {"items": [{"metadata": {"name": f"{job}-pod"}, "status": {"containerStatuses": [container]}}]}
            case (_, "pods/log", "get"), _:
                if "previous" in query:
                    raise ValueError(f'previous terminated container "snakemake" in pod "{name}" not found')
                return (self.server.folder / f"{name.removesuffix('-pod')}.log").read_text()
        return body or {}

    def send(self, code: int, content: object) -> None:
        sent = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster(pages: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that the commands in `pages` know of."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(pages.home, folder, dict(pages.environment)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = {"name": "toy", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "toy", "context": {"cluster": "toy", "user": "toy"}}
        known = {"clusters": [address], "users": [{"name": "toy", "user": {}}], "contexts": [context], "current-context": "toy"}
        (folder / "kubeconfig").write_text(json.dumps(known))
        pages.environment |= {"KUBECONFIG": str(folder / "kubeconfig"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        yield server
        server.shutdown()
        thread.join()


def submit(shell: Shell, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Do what the container of `job.yaml` does, with the project's folder for the volume and the notebook `page`."""
    text = (shell.home / PROFILE / "job.yaml").read_text()
    for here, there in {"/checkout": str(shell.home), "profile=gpu": "profile=smoke", "notebooks=stability": "notebooks=page"}.items():
        text = text.replace(here, there)
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    environment = dict(shell.environment)
    for variable in container["env"]:
        before = environment.get(variable["name"], "")
        environment[variable["name"]] = os.pathsep.join(filter(None, [variable["value"], before]))
    program, *rest = container["command"]
    command = [sys.executable, "-m", program, "--seconds-between-status-checks", "1", *rest, *arguments]
    options = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, env=environment, cwd=container["workingDir"], check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_runs_and_page_are_pods_on_the_volume_and_nothing_is_submitted_twice(pages: Shell, cluster: Cluster) -> None:
    pages.let_go(1, 2, 3)
    done = submit(pages)
    assert done.returncode == 0, done.stderr
    assert pages.shown() == "[1, 2, 3]\n"
    assert len(cluster.specs) == 4, "three runs and a page"
    for spec in cluster.specs:
        (container,) = spec["containers"]
        assert {"name": "checkout", "persistentVolumeClaim": {"claimName": "checkout"}} in spec["volumes"]
        assert {"name": "checkout", "mountPath": str(pages.home)} in container["volumeMounts"]
        assert container["image"] == "python:3.13"
        assert [variable["name"] for variable in container["env"]] == ["TIPSLIB_DATA"]
    assert (cluster.processes, cluster.secrets) == ({}, {}), "what is done is taken away"

    again = submit(pages)
    assert again.returncode == 0, again.stderr
    alone = pages.run("reproduce", "page")
    assert (alone.returncode, alone.stderr) == (0, ""), "what a cluster began one machine goes on with, and finds it finished"
    assert len(cluster.specs) == 4

    lost = pages.records()[2]
    lost.unlink()
    assert submit(pages, *GPU).returncode == 0
    assert len(cluster.specs) == 6, "the lost run, and the page that reads it"
    assert pages.records()[2] == lost
    limits = [spec["containers"][0]["resources"].get("limits", {}).get("nvidia.com/gpu") for spec in cluster.specs]
    assert limits == [None] * 4 + ["1", None]


def test_a_pod_that_is_killed_fails_the_batch_and_is_repeated_by_the_next(pages: Shell, cluster: Cluster) -> None:
    pages.let_go(1, 2, 3)
    cluster.unlucky = 2
    done = submit(pages)
    assert done.returncode == 1
    assert "Error in rule run:" in done.stderr
    assert "no memory is left" in done.stderr, "the log of the pod"
    assert "Traceback" not in done.stderr
    assert len(cluster.specs) == 3, "no page without its runs"
    assert len(pages.records()) == 2
    assert (cluster.processes, cluster.secrets) == ({}, {})

    assert submit(pages).returncode == 0
    assert len(cluster.specs) == 5, "the run and the page"
    assert pages.shown() == "[1, 2, 3]\n"
    assert cluster.asked == cluster.allowed, "access.yaml grants what is needed, no more"
