"""`renvoi` in a terminal: Tab, Ctrl-C, and the commands that the engine prints."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scenarios.processes import ROOT, START_S, Engine, RedisServer

RENVOI = Path(sys.executable).with_name("renvoi")
LONGEST_S = 120


def environment(**more: str) -> dict[str, str]:
    path = f"{RENVOI.parent}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}
    return {**kept, "PATH": path, **more}


def heed_ctrl_c() -> None:
    """As in a terminal: a process that a shell starts in the background ignores SIGINT, also this
    test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def completed(words: str) -> list[str]:
    """The completions of the last word in a real bash, after it has read `renvoi completion
    bash`."""
    script = f"""
        set -e
        source <({RENVOI} completion bash)
        complete -p renvoi > /dev/null
        COMP_WORDS=({words})
        [[ '{words}' == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _renvoi_completion renvoi
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=False,
        timeout=LONGEST_S, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("renvoi li", ["line"]),
        ("renvoi line imp", ["import"]),
        ("renvoi line import --re", ["--replace"]),
        ("renvoi forward set 0972101001 no", ["no_answer"]),
        ("renvoi forward off 0972101001 al", ["all"]),
        ("renvoi forward set 0972101001 busy fa", ["fax:"]),
        ("renvoi manager account p", ["password"]),
        ("renvoi cdr --outcome ans", ["answered"]),
    ],
)
def test_bash_completes_commands_options_and_names(words: str, expected: list[str]) -> None:
    assert completed(words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_a_script_that_they_can_read(shell: str, tmp_path: Path) -> None:
    script = subprocess.run(
        [str(RENVOI), "completion", shell], capture_output=True, text=True, check=True,
        timeout=LONGEST_S,
    ).stdout  # fmt: skip
    assert "_RENVOI_COMPLETE" in script
    assert "renvoi" in script
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_ctrl_c_is_status_130_and_no_traceback(shared_redis: RedisServer, tmp_path: Path) -> None:
    shared_redis.client.flushall()
    command = [str(RENVOI), "cdr", "--follow"]
    environ = environment(RENVOI_REDIS_URL=shared_redis.url)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=environ, preexec_fn=heed_ctrl_c,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + LONGEST_S
        while not any(client["cmd"] == "xread" for client in shared_redis.client.client_list()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, out, err.split()) == (130, "", ["renvoi:", "interrupted"])


def test_ctrl_c_before_a_command_has_begun_is_status_130_too(tmp_path: Path) -> None:
    """During the import of the modules, at any of them."""
    slow = tmp_path / "engine_is_slow"
    slow.mkdir()
    (slow / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    done = subprocess.run(
        [str(RENVOI), "--version"], capture_output=True, text=True, check=False,
        timeout=LONGEST_S, env=environment(PYTHONPATH=str(slow)), preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_commands_that_serve_prints_can_be_pasted_unchanged(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """In another directory, without `renvoi` on the path."""
    shared_redis.client.flushall()
    directory = tmp_path / "with a blank"
    directory.mkdir()
    engine = Engine(directory, shared_redis.url)
    shown = engine.config.rename(directory / "it's mine.yaml")
    terminal, end = pty.openpty()
    command = [str(RENVOI), "--config", shown.name, "serve"]
    with subprocess.Popen(
        command,
        cwd=directory,
        stdin=end,
        stdout=end,
        stderr=end,
        env=environment(PATH="/usr/bin:/bin"),
    ) as process:
        os.close(end)
        said = b""
        try:
            deadline = time.monotonic() + START_S * 3
            while not re.search(rb" explain [^\r\n]+\r\n", said):
                assert time.monotonic() < deadline, said
                with contextlib.suppress(OSError):
                    said += os.read(terminal, 65536)
            text = said.decode().replace("\r\n", "\n")
            lines = text.partition("in another terminal:\n")[2].splitlines()
            pasted = "\n".join(line for line in lines if line.startswith("  "))
            elsewhere = {"PATH": "/usr/bin:/bin"}
            done = subprocess.run(
                ["bash", "-e", "-c", pasted], cwd=ROOT.root, capture_output=True, text=True,
                check=False, timeout=LONGEST_S, env=elsewhere,
            )  # fmt: skip
            assert done.returncode == 0, done
            assert done.stdout.count("in force") == 2
            assert "sent to sip:" in done.stdout
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):
                while os.read(terminal, 65536):
                    pass
            os.close(terminal)
    assert process.returncode == 0
