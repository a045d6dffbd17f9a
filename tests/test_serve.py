"""`ruo serve`: a model served from a terminal."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.deploy.serve import listen
from ruo.learn.demo import Demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def terminal(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ruo serve` in a folder that holds other modules of the server's names, and all that it printed until it was ready."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("server", "gunicorn"):
        (folder / f"{name}.py").write_text("raise SystemExit('not this one')")
    environment = {**os.environ, "KERAS_BACKEND": "openvino", "RUO_TOKEN": "secret", "MODEL_NAME": "Uroš's 1%"}
    command = [sys.executable, "-m", "ruo", "serve", str(demo.models["mlp"]), "--port=0", "--workers=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]  # as some managers of processes start it
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        yield process, "".join(lines)
        process.kill()


def test_it_says_where_and_what_next(demo: Demo, terminal: tuple[subprocess.Popen[str], str]) -> None:
    """The address, a line for curl that works as it stands and what to do next are all that is printed; no token is."""
    _, text = terminal

    assert re.fullmatch(
        rf"Loading {re.escape(str(demo.models['mlp']))} \.\.\.\n"
        r".*mlp\.keras version \d+, 1 worker: (http://127\.0\.0\.1:\d+)\n\n"
        r"  curl [^\n]+\n  ruo score TABLE\.csv \1 -o predictions\.csv\n  ruo status \1 --watch\n\n"
        r"Requests must carry the token; ruo takes it from the variable RUO_TOKEN\.\nCtrl-C ends it\.\n",
        text,
    ), text
    line = next(line.strip() for line in text.splitlines() if "curl" in line)
    command = shlex.split(line.replace("$RUO_TOKEN", "secret").replace("curl", "curl --silent --fail", 1))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"predictions":[[0.')


def test_ctrl_c_ends_it_cleanly(terminal: tuple[subprocess.Popen[str], str]) -> None:
    """Ctrl-C ends all processes with status 0 and one line, and the port is free again."""
    process, text = terminal
    port = int(re.search(r"127\.0\.0\.1:(\d+)", text)[1])

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=40)[0] == "Stopping ...\n"
    assert process.returncode == 0
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_what_cannot_be_served_is_one_sentence(tmp_path: Path) -> None:
    """A model that is missing or broken and a port in use end with status 2 and a sentence that says how to go on."""
    broken = tmp_path / "broken.keras"
    broken.write_text("no model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        in_use = rf"Port {port} is in use by process {os.getpid()} \(.*\); name another .*"
        for arguments, sentence in [
            (["none.keras", "--port=0", "--host="], r"There is no model at none\.keras, or none to read; make .*"),
            ([300 * "x", "--port=0"], r"There is no model at x+, or none to read; make one with: ruo demo --out data"),
            ([str(broken), "--port=0", "--workers=0"], r"The model at \S+broken\.keras cannot be loaded: .*"),
            ([str(broken), f"--port={port}"], in_use),
            ([str(broken), "--host=no.invalid"], r"no\.invalid:8000 cannot be listened at: [^()]*; name another\."),
        ]:
            result = CliRunner().invoke(main, ["serve", *arguments])
            assert result.exit_code == 2
            assert re.fullmatch(rf"(Loading .* \.\.\.\n)?Error: {sentence}\n", result.output), result.output
    result = CliRunner().invoke(main, ["serve", "nothing.keras", "--port=0", "--host=0.0.0.0"])
    assert result.output.startswith("Whoever reaches this machine can use it; --token asks for one.\n")


def test_the_next_free_port_is_taken() -> None:
    """Where a port is in use, the next one that is free is taken, if that is wanted."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port, takes_next=True) as listener:
            assert port < listener.getsockname()[1] <= port + 100
