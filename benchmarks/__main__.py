"""Every claim of speed, measured again beside its bound: ``make bench``, or ``python -m benchmarks.__main__ --help``.

The jobs of a group are interleaved: each block holds every job once, in an order drawn anew, each in a fresh client
process, and every answer is compared with what the model says in one process. All samples are kept in samples.jsonl.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from benchmarks.peers.servers import PEERS, peer_variables
from benchmarks.targets import SCALING_SIZES, SIZES, judge, markdown
from ruo.compare.run import check_answers
from ruo.compare.systems import paper_body, paper_server, run_command, run_job
from ruo.deploy.local import LocalServer, local_server
from ruo.errors import RuoError
from ruo.learn.demo import make_testset
from ruo.machine import cpu_limit, session_rss_mb, wait_until_quiet
from ruo.provenance import fingerprint, machine

__all__ = ["main"]

Job = Callable[[Path], dict[str, Any]]  # writes its predictions to a file, and tells what it measured

_TIMEOUT_S = 900.0
_QUIET, _PATIENCE_S = 0.15, 10.0
_SCALING_ROWS = 200_000
_LONG_ROWS = 5_000_000
_BACKENDS = ("tensorflow", "openvino")
GROUPS = ("mlp", "cnn", "scaling", "peers", "memory", "start")


class Bench:
    """The files that are measured with, and the samples so far."""

    def __init__(self, testset: Path, models: Mapping[str, Path], results: Path, runs: int, seed: int) -> None:
        self.testset = testset
        self.models = models
        self.runs = runs
        self.cpus = max(1, int(cpu_limit()))
        self.samples: list[dict[str, Any]] = []
        self._file = results / "samples.jsonl"
        self._chance = random.Random(seed)  # noqa: S311  an order, not a secret

    def mlp(self) -> None:
        """The light model: the system of 2023, ruo at every request size with both backends, a bare socket, and no network."""
        model = self.models["mlp"]
        with paper_server(model) as paper, _served(model) as ours, _served(model, "openvino") as lean:
            paper.warm(paper_body(self.testset))
            jobs = {f"bound {backend} mlp": self._bound(self.testset, model, backend) for backend in _BACKENDS}
            jobs["bound tensorflow mlp labels"] = self._bound(self.testset, model, "tensorflow", reads_labels=True)
            jobs |= {f"bare socket {backend} mlp": self._bare_socket(model, backend) for backend in _BACKENDS}
            jobs |= {f"tensorflow mlp {rows}": self._ours(ours.url, self.testset, rows) for rows in (100, *SIZES)}
            jobs |= {
                f"openvino mlp {rows}": self._ours(lean.url, self.testset, rows) for rows in (5_000, 10_000, 50_000)
            }
            jobs["tensorflow mlp whole"] = self._ours(ours.url, self.testset, 0)
            jobs["paper mlp 10000"] = self._papers(paper.url)
            jobs["paper client mlp 10000"] = self._papers(f"{ours.url}/test")
            self._measure(jobs, self._reference(jobs["bound tensorflow mlp"]))

    def cnn(self) -> None:
        """The heavy model, with all CPUs, beside the same in one process."""
        model = self.models["cnn"]
        with _served(model) as ours:
            jobs = {
                "bound tensorflow cnn": self._bound(self.testset, model, "tensorflow", 2_000),
                "tensorflow cnn 10000": self._ours(ours.url, self.testset, 10_000),
            }
            self._measure(jobs, self._reference(jobs["bound tensorflow cnn"]))

    def scaling(self) -> None:
        """The heavy model with one worker on one CPU, and with a worker on each."""
        model = self.models["cnn"]
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part.csv"
            pl.read_csv(self.testset, n_rows=_SCALING_ROWS).write_csv(part)
            with local_server(model, 1, cores=1) as one, local_server(model, self.cpus, cores=1) as several:
                jobs = {}
                for rows in SCALING_SIZES:
                    jobs[f"one worker cnn {rows}"] = self._ours(one.url, part, rows)
                    jobs[f"{self.cpus} workers cnn {rows}"] = self._ours(several.url, part, rows)
                self._measure(jobs, self._reference(self._bound(part, model, "tensorflow", 2_000)))

    def peers(self) -> None:
        """The light model in other servers, each with its own client, beside ruo; what cannot be had or started here is left out."""
        model = self.models["mlp"]
        with ExitStack() as stack:
            jobs = {"peers ruo": self._ours(stack.enter_context(_served(model)).url, self.testset, 10_000)}
            for name, serve in PEERS.items():
                try:
                    command = stack.enter_context(serve(model, self.cpus))
                except RuoError as error:
                    self._keep({"job": f"peers {name}", "block": 0, "error": str(error)})
                    continue
                jobs[f"peers {name}"] = self._peers(command)
            reference = self._reference(self._bound(self.testset, model, "tensorflow"))
            with tempfile.TemporaryDirectory() as folder:
                for job in jobs.values():  # a server's first requests are slower
                    job(Path(folder) / "answers.npy")
            self._measure(jobs, reference)

    def memory(self) -> None:
        """What the server needs for the whole set at once, and the client for a table ten times as long."""
        with _served(self.models["mlp"]) as server, tempfile.TemporaryDirectory() as folder:
            whole = self._ours(server.url, self.testset, 0)
            whole(Path(folder) / "answers.npy")
            for block in range(1, self.runs + 1):
                with _growth_of(server) as grown:
                    whole(Path(folder) / "answers.npy")
                self._keep({"job": "server memory", "block": block, "mb": grown[0]})
            long = Path(folder) / "long.csv"
            make_testset(long, _LONG_ROWS)
            measured = run_job(["ruo.compare.score_job", str(long), server.url, "--by-blocks"], _TIMEOUT_S)
            self._keep({"job": "client memory", "block": 1, "mb": measured.get("peak_rss_mb"), **measured})

    def start(self) -> None:
        """How long imports take, and how long a server needs until it is ready."""
        for block in range(1, self.runs + 1):
            for statement in ("import ruo", "from ruo import score_csv"):
                program = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
                done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
                self._keep({"job": statement, "block": block, "total_s": float(done.stdout)})
            for backend in _BACKENDS:
                began = time.perf_counter()
                with _served(self.models["mlp"], backend):
                    self._keep({"job": f"ready {backend}", "block": block, "total_s": time.perf_counter() - began})

    def _ours(self, url: str, testset: Path, rows: int) -> Job:
        return _job("ruo.compare.score_job", str(testset), url, "--chunk-size", str(rows))

    def _papers(self, url: str) -> Job:
        return _job("ruo.compare.paper.client", str(self.testset), url, "--chunk-size", "10000")

    def _peers(self, client: list[str]) -> Job:
        command = [*client, str(self.testset), "10000"]
        return lambda answers: run_command([*command, str(answers)], _TIMEOUT_S, peer_variables())

    def _bound(
        self, testset: Path, model: Path, backend: str, rows_per_call: int = 50_000, reads_labels: bool = False
    ) -> Job:
        options = ["--rows-per-call", str(rows_per_call), *(["--labels"] if reads_labels else [])]
        return _job("ruo.compare.in_process", str(testset), str(model), *options, backend=backend)

    def _bare_socket(self, model: Path, backend: str) -> Job:
        return _job("benchmarks.bare_socket", str(self.testset), str(model), backend=backend)

    def _reference(self, bound: Job) -> np.ndarray[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "answers.npy"
            measured = bound(answers)
            if not answers.exists():
                raise RuoError(f"The model cannot score the test set in one process: {measured.get('error')}")
            predictions: np.ndarray[Any, Any] = np.load(answers)
            return predictions

    def _measure(self, jobs: Mapping[str, Job], reference: np.ndarray[Any, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "answers.npy"
            for block in range(1, self.runs + 1):
                for name in self._chance.sample(list(jobs), len(jobs)):
                    answers.unlink(missing_ok=True)
                    busy, _ = wait_until_quiet(_QUIET, _PATIENCE_S)
                    measured = jobs[name](answers)
                    _, difference, error = check_answers(measured, answers, reference)
                    self._keep({"job": name, "block": block, "busy_before": busy, "difference": difference, **measured, "error": error})  # fmt: skip

    def _keep(self, sample: dict[str, Any]) -> None:
        self.samples.append({"error": None, **sample})
        with self._file.open("a") as stream:
            stream.write(json.dumps(self.samples[-1]) + "\n")
        figure = sample.get("error") or (
            f"{sample['total_s']:.3f} s" if "total_s" in sample else f"{sample['mb']:.0f} MB"
        )
        click.echo(f"  {sample['job']}, block {sample['block']}: {figure}", err=True)


def _job(*arguments: str, backend: str | None = None) -> Job:
    environment = {} if backend is None else {"KERAS_BACKEND": backend}
    return lambda answers: run_job([*arguments, "--answers", str(answers)], _TIMEOUT_S, environment)


@contextmanager
def _served(model: Path, backend: str = "tensorflow") -> Iterator[LocalServer]:
    """A server with a worker for each CPU, which takes the demo's test set as one request."""
    before = dict(os.environ)
    os.environ.update({"KERAS_BACKEND": backend, "MAX_REQUEST_MB": "1024"})
    with ExitStack() as stack:
        try:
            server = stack.enter_context(local_server(model))
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield server


@contextmanager
def _growth_of(server: LocalServer) -> Iterator[list[float]]:
    """Megabytes that the server's processes together had at most, above what they have now."""
    idle, grown, done = session_rss_mb(server.pid), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            grown[0] = max(grown[0], session_rss_mb(server.pid) - idle)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield grown
    finally:
        done.set()
        watching.join()


@click.command()
@click.option("--testset", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mlp", required=True, type=click.Path(exists=True, path_type=Path), help="The light model.")
@click.option("--cnn", required=True, type=click.Path(exists=True, path_type=Path), help="The heavy model.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Blocks.")
@click.option("--groups", default=",".join(GROUPS), show_default=True, help="What to measure.")
@click.option("--results", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same order of jobs.")
def main(testset: Path, mlp: Path, cnn: Path, runs: int, groups: str, results: Path, seed: int) -> None:
    """Measure what ruo claims, and say for each target whether it is reached."""
    wrong = [name for name in groups.split(",") if name not in GROUPS]
    if wrong:
        raise click.ClickException(f"There is no group {wrong[0]!r}; the groups are {', '.join(GROUPS)}.")
    results.mkdir(parents=True, exist_ok=True)
    bench = Bench(testset, {"mlp": mlp, "cnn": cnn}, results, runs, seed)
    try:
        for name in groups.split(","):
            click.echo(f"{name} ...", err=True)
            getattr(bench, name)()
    except RuoError as error:
        raise click.ClickException(str(error)) from error
    table = judge(bench.samples, bench.cpus)
    facts = {"machine": machine(), "testset_sha256": fingerprint(testset), "runs": runs, "seed": seed}
    (results / "bench.json").write_text(json.dumps({**facts, "targets": table.to_dict("records"), "samples": bench.samples}, indent=1))  # fmt: skip
    (results / "bench.md").write_text(markdown(table) + "\n")
    click.echo(markdown(table))


if __name__ == "__main__":
    main()
