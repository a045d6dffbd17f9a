"""The command line."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from array import array
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import polars as pl
import psutil
import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.client.options import GROUPS
from ruo.compare.jobs import job_environment
from ruo.errors import RuoError
from ruo.learn.demo import Demo
from tests.client.conftest import late


def test_help_is_quick_and_names_every_verb() -> None:
    """`ruo --help` lists what there is and imports no package that is slow to import."""
    program = "import sys; from ruo.__main__ import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    listed, modules, _ = done.stdout.rsplit("\n", 2)

    for verb in ("score", "merge", "demo", "publish", "run", "sweep", "report", "compare-runs"):
        assert f"\n  {verb} " in listed
    assert "..." not in listed.partition("Commands:")[2]  # each is told in a line that fits
    assert not {"numpy", "pandas", "polars", "aiohttp", "yaml", "papermill"} & set(modules.split())


@pytest.mark.parametrize(
    "words", ["publish da", "serve da", "score da", "score t.csv u -o da", "score t.csv u --ca da", "run n.ipynb -f da"]
)
def test_shells_complete_paths(words: str) -> None:
    """Where a path belongs, the shell is told to complete the names of files."""
    last = str(len(words.split()))
    environment = {"COMP_WORDS": f"ruo {words}", "COMP_CWORD": last, "_RUO_COMPLETE": "bash_complete"}
    assert CliRunner(env=environment).invoke(main, prog_name="ruo").output == "file,da\n"


def test_it_runs_without_docstrings() -> None:
    """With -OO, which drops them, the options are the same, only without their meanings."""
    done = subprocess.run([sys.executable, "-OO", "-m", "ruo", "score", "--help"], capture_output=True, text=True)
    assert "--chunk-size" in done.stdout, done.stderr


def test_ctrl_c_while_it_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    """Whoever sees a mistake at once and stops it gets the status of an interruption, and nothing else."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    done = subprocess.run([sys.executable, "-m", "ruo"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_demo_is_known_by_its_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A marker says which demo is there; a wrong option leaves it, and what breaks off leaves one that says so."""
    (tmp_path / "testset.csv").touch()
    make = Mock(return_value=Demo(tmp_path / "testset.csv", {}, {}))
    monkeypatch.setattr("ruo.learn.demo.make_demo", make)
    for rows, marker, failure in [("1", "1", None), ("0", "1", None), ("5", "unfinished", RuoError), ("2", "2", None)]:
        make.side_effect = failure
        result = CliRunner().invoke(main, ["demo", f"--rows={rows}", f"--out={tmp_path}"])
        assert (result.exit_code == 0) == (rows == marker)
        assert [path.name for path in tmp_path.glob(".*")] == [f".rows-{marker}"]
    result = CliRunner().invoke(main, ["demo", "--rows=1", f"--out={tmp_path}"])
    assert result.output == f"{tmp_path}/testset.csv: 1 row, 0 MB\n"


def test_make_leaves_nothing_of_a_demo_that_cannot_be(tmp_path: Path) -> None:
    """Of a number of rows that is none, make leaves no marker, which would have the next demo made anew."""
    command = ["make", "-f", Path("Makefile").absolute(), "-o", ".venv/installed", "demo", "ROWS=abc"]
    command += [f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(command, cwd=tmp_path, env=job_environment(), capture_output=True, text=True)
    assert "'abc' is not a valid integer" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_notebook_without_a_verdict_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a notebook wrote no verdict, a sentence says so, as that of a sweep does."""
    monkeypatch.setattr("ruo.notebook.run.run_notebook", lambda *_: "")
    result = CliRunner().invoke(main, ["run", __file__, f"--results={tmp_path}"])
    assert result.output.startswith("\nIt wrote no verdict.\n\n")


def test_publish_says_the_version(demo: Demo, tmp_path: Path) -> None:
    """Each publication of a model is the next version, in its own folder."""
    store = tmp_path / "store"
    for number, how in ((1, []), (2, ["--no-check"])):
        arguments = ["publish", str(demo.models["mlp"]), str(store), *how]
        result = CliRunner(env={"KERAS_BACKEND": "openvino"}).invoke(main, arguments)
        assert result.output == f"{store}: version {number}\n"
    assert sorted(path.name for path in store.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["score", "nothing.csv", "http://127.0.0.1:9"], "Error: nothing.csv does not exist"),
        (["score", __file__, "127.0.0.1:9"], "is not the address of a server"),
        (["run", __file__, "--results", "r"], "There is no notebook at"),
        (["demo", "--rows", "0", "--out", "."], "Invalid value for '--rows': 0 is not in the range x>=1."),
        (["demo", "--rows", "1", "--out", __file__], f"Error: {__file__}: File exists; name another path."),
        (["demo", "--rows=1", f"--out={__file__}/x"], f"Error: {__file__}/x: Not a directory; name another path."),
        (["compare-runs", __file__, __file__], f"Error: {__file__} has no provenance.json; pass the results_dir"),
        (["publish", "", "store"], "Invalid value for 'MODEL': it is empty; write a path, or . for this folder."),
        (["score", __file__, "http://127.0.0.1:9", "--null-value=\udcff"], "'\\udcff' is not in UTF-8."),
        (["publish", __file__, ""], "Invalid value for 'STORE': it is empty"),
        (["serve", ""], "Invalid value for 'MODEL': it is empty"),
        (["score", "", "http://127.0.0.1:9"], "Invalid value for 'SOURCE': it is empty"),
        (["run", __file__, "--results=r", "-f", sys.executable], "cannot be read as text in UTF-8"),
        (["compare", "--testset", __file__, "--model", ".", "--results=r"], "File '.' is a directory"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    """A user's mistake ends with a sentence and a status that is not 0, never with a traceback."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_rows_that_failed_have_their_own_status(small_csv: Path, scripted: Any, right_answer: Any, reply: Any) -> None:
    """With --errors collect the rest is scored, the failures are named, and the status is 3; else it is 1."""
    server = scripted(lambda number, body, headers: reply(500, b"boom") if number == 1 else right_answer(body, headers))
    arguments = ["score", str(small_csv), server.url, "--chunk-size=2", "--concurrency=1"]
    result = CliRunner().invoke(main, [*arguments, "--errors=collect"])
    assert result.exit_code == 3
    assert "2 rows not scored" in result.output
    assert "Rows 2 to 3 were not scored" in result.output

    server = scripted(lambda *_: reply(500, b"boom"))
    result = CliRunner().invoke(main, ["score", str(small_csv), server.url])
    assert result.exit_code == 1
    assert result.output.startswith("Error: Rows 0 to 9 were not scored")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "has_checkpoint"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGHUP, True)],
)
def test_an_interrupted_run_resumes_from_its_checkpoint(
    small_csv: Path, scripted: Any, tmp_path: Path, has_checkpoint: bool, ending: signal.Signals
) -> None:
    """Ctrl-C, SIGTERM, as process 1 too, and SIGHUP end a run at once; with a checkpoint, it then goes on from there."""
    stuck = threading.Event()

    def wait_s(number: int) -> float:
        if number == 3:
            stuck.set()
        return 30 if number == 3 else 0

    server, out = scripted(late(wait_s)), tmp_path / "p.csv"
    command = [sys.executable, "-m", "ruo", "score", str(small_csv), server.url, f"-o{out}", "--chunk-size=2"]
    command += ["--concurrency=1", *([f"--checkpoint={tmp_path / 'run.ruo'}"] if has_checkpoint else [])]
    first = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]  # as in a container
    is_first = ending == signal.SIGTERM and subprocess.run([*first, "true"], capture_output=True).returncode == 0
    process = psutil.Popen([*first * is_first, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert stuck.wait(30)
    [*children] = process.children()
    (children or [process])[0].send_signal(ending)
    output, _ = process.communicate(timeout=5)

    kept = "the same command goes on from there" if has_checkpoint else "nothing is kept without --checkpoint"
    assert (process.returncode, output) == (128 + ending, f"Interrupted; {kept}.\n")
    before = len(server.requests)
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert len(server.requests) - before == (2 if has_checkpoint else 5)
    assert pl.read_csv(out)["prediction_0"].to_list() == [2 * i + 1.5 for i in range(10)]


@pytest.mark.slow
def test_an_interrupt_ends_the_wait_for_standard_input(scripted: Any, answers: Any) -> None:
    """Ctrl-C ends a run whose standard input says nothing more."""
    command = [sys.executable, "-m", "ruo", "score", "-", scripted(answers).url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write("feature_000\n1\n")
        process.stdin.flush()
        waiting = array("i", [1])
        while waiting[0]:  # bytes that it has not read yet
            time.sleep(0.01)
            fcntl.ioctl(process.stdin, termios.FIONREAD, waiting)
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=10) == 130
        assert process.stderr.read() == "Interrupted; nothing is kept without --checkpoint.\n"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--output=p.csv", "--output=p.parquet", "--checkpoint=c"])
def test_a_full_disk_is_one_sentence(small_csv: Path, scripted: Any, answers: Any, tmp_path: Path, option: str) -> None:
    """Where nothing more can be written, the command says so in a sentence, and leaves no part of its predictions."""
    program = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (10, 10)); from ruo.__main__ import main; main()"
    command = [sys.executable, "-c", program, "score", str(small_csv), scripted(answers).url, option]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 1
    assert re.fullmatch(r"Error: .* cannot be written \(.*\); make room, or name another file\.\n", done.stderr)
    assert not [*tmp_path.glob("p.*")]


def test_an_output_that_is_full_is_one_sentence() -> None:
    """Where standard output takes nothing more, a sentence says so, and no more comes at Python's end."""
    command = [sys.executable, "-m", "ruo", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "Error: The output: No space left on device; name another path.\n")


def test_ctrl_c_has_its_status_with_every_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interruption is told in a word, and has the status that shells give it; a second one ends it without one."""
    monkeypatch.setattr("signal.signal", Mock())
    monkeypatch.setattr("ruo.model.store.publish", Mock(side_effect=KeyboardInterrupt))
    result = CliRunner().invoke(main, ["publish", __file__, str(tmp_path)])
    assert (result.exit_code, result.output) == (130, "Interrupted.\n")
    signal.signal.assert_called_with(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_nohup_is_heeded(handler: signal.Handlers) -> None:
    """Where SIGHUP is ignored, it stays so; else it ends a command as Ctrl-C does."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        CliRunner().invoke(main, ["report", "nothing"])
        assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == (handler is signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_copy_without_room_names_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system that names two files is told of the second, which is the one that cannot be written."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.keras", None, "store/1")
    monkeypatch.setattr("ruo.model.store.publish", Mock(side_effect=error))
    result = CliRunner().invoke(main, ["publish", __file__, "store"])
    assert result.output == "Error: store/1: No space left on device; name another path.\n"


def test_a_warning_is_one_line(scripted: Any, answers: Any, tmp_path: Path) -> None:
    """What Python code is warned of is a line on the command line, which names no code of ruo."""
    (tmp_path / "t.csv").write_text("a,b,c,Label_x,Label_y\n1,2,3,1,1\n")
    command = [sys.executable, "-m", "ruo", "score", str(tmp_path / "t.csv"), scripted(answers).url]
    done = subprocess.run(command, capture_output=True, text=True)
    told = "Warning: Row 0: its label columns do not name exactly one class, so scores.labels is None.\n"
    assert (done.returncode, done.stderr) == (0, told)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--shard=4/4", "'4/4' is no part; 0/4 is the first of four, 3/4 the last"),
        ("--shard=a", "'a' is no part"),
        ("--shard=0/²", "'0/²' is no part"),
        ("--chunk-size=²", "'²' is neither a whole number nor auto"),
        ("--chunk-size=ten", "'ten' is neither a whole number nor auto"),
        ("--output=nowhere/p.csv", "The folder nowhere does not exist"),
        ("--output=p.txt", "p.txt must end in .csv or .parquet"),
        ("--wire=v9", "'v9' is not one of 'v2', 'v2-json', 'v1', 'paper'"),
        ("--errors=ignore", "'ignore' is not one of"),
        ("--http-header=s3cret", "a header is written 'Name: value'"),
        ("--http-header=X-Key: a\nb", "the value of X-Key must be text"),
        ("--input=a,b", "'a,b' is no input; write NAME=a,b,c"),
        ("--datatype=float", "'float' is not one of 'BOOL'"),
    ],
)
def test_a_wrong_option_is_refused(option: str, sentence: str) -> None:
    """A wrong option is refused in one sentence, before anything is read or sent."""
    result = CliRunner().invoke(main, ["score", __file__, "http://127.0.0.1:9", option])
    assert result.exit_code == 2
    assert "s3cret" not in result.output
    assert sentence in " ".join(result.output.split())


def test_help_lists_every_option_by_its_group() -> None:
    """`ruo score --help` has a section for each group, with an option for each field of its dataclass."""
    output = CliRunner().invoke(main, ["score", "--help"]).output
    own, *groups = re.split(r"\n(?:The )(?:table|run|server):\n", output)

    assert "-o, --output" in own
    shown = [re.findall(r"^  --([a-z-]+)", section, re.MULTILINE) for section in groups]
    counts = [len([option for option in fields(group) if option.name != "pipelined"]) for group in GROUPS.values()]
    assert list(map(len, shown)) == counts
    assert {"columns", "keep", "separator", "header", "null-value"} < {*shown[0]}
    assert {"http-header", "token", "input-name"} < {*shown[2]}


def test_options_reach_the_run(scripted: Any, right_answer: Any, tmp_path: Path) -> None:
    """Columns, a header, names and the class come from the command line as from Python; - is standard input."""
    seen: list[dict[str, str]] = []
    server = scripted(lambda number, body, headers: seen.append(headers) or right_answer(body, headers))
    out = tmp_path / "p.csv"
    command = [sys.executable, "-m", "ruo", "score", "-", server.url, f"-o{out}", "--columns", 'c,a,"b, too"']
    command += ["--keep=id", "--separator=;", "--null-value=?", "--null-value=NA"]
    command += ["--http-header=X-Key: k:1", "--prediction-names=sum"]
    text = "id;a;b, too;c\n007;1;2;3\n008;?;NA;3\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Predictions: {out}\nScoredFile(2 rows x 1 output, ")
    assert out.read_text() == "id,sum\n007,6.0\n008,NaN\n"
    assert seen[0]["X-Key"] == "k:1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("scipy", "import ruo.experiment"),
        ("matplotlib", "import ruo.figures"),
        ("yaml", "from ruo.notebook import prepare"),
        ("sklearn", "from ruo.__main__ import main; main(['demo', '--rows=10', '--out=x'])"),
    ],
)
def test_a_missing_package_is_one_sentence(missing: str, call: str, tmp_path: Path) -> None:
    """Where a package of an extra is not installed, the last line says so, and how to install it."""
    program = f"import sys; sys.modules[{missing!r}] = None; sys.path.insert(0, {str(Path.cwd())!r}); {call}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"Error: {missing} is not installed; run: pip install 'ruo\[[a-z,]+\]'$", last), done.stderr
    assert done.stderr.count("\n") == 1 or "main" not in call
