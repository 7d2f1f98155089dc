"""The API against its own description: `python -m tests.campaigns.api [--seconds N] [--seed S]`.

Schemathesis reads the OpenAPI description that a running manager serves and makes valid and invalid
requests from it, as a fleet and as an operator. Every answer must match the description. Invalid
requests must be refused, valid ones accepted, and no operation may be open without a token.
tests/manager/schemathesis.toml has the exceptions, each with its reason. `make test` installs
schemathesis and runs this for a short time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.manager.site import Manager, write
from tests.scenarios.processes import ROOT, RedisServer

PROGRAM = ROOT / ".venv-api" / "bin" / "schemathesis"
SETTINGS = ROOT / "tests" / "manager" / "schemathesis.toml"
TOKENS: Mapping[str, Sequence[str]] = {
    "--fleet acme": (),
    "--fleet acme --line +33972101001": (),
    "--operator": (),
}


class Wrong(AssertionError):
    """The API differs from its description; the text is schemathesis's report."""


def run(
    seconds: int | None = None,
    examples: int = 10,
    seed: int = 1,
    spoil: Callable[[str], str] = lambda text: text,
    tokens: Mapping[str, Sequence[str]] = TOKENS,
) -> str:
    """Test the API of a new manager; returns one line for each token.

    Args:
        seconds: duration of random requests; None = `examples` for each operation.
        spoil: changes the text of the description to test against.
        tokens: for each kind of token the operations to test, all if there are none.
    """
    if not PROGRAM.exists():
        raise Wrong(f"{PROGRAM} is missing: `make test` installs it")
    lines = []
    with tempfile.TemporaryDirectory(prefix="api") as name:
        folder = Path(name)
        server = RedisServer(folder)
        server.start()
        manager = Manager(folder, server.url)
        try:
            manager.start()
            _fill(server)
            description = folder / "openapi.json"
            description.write_text(spoil(manager.get("/api/v1/openapi.json").text))
            most = ["--seed", str(seed), "--max-examples", str(examples)]
            if seconds is not None:
                most += ["--max-time", str(max(1, seconds // len(tokens)))]
            for whose, operations in tokens.items():
                chosen = [part for o in operations for part in ("--include-operation-id", o)]
                report = _test(manager, manager.token(*whose.split()), description, most + chosen)
                lines.append(f"{whose}: {report}")
                if "Traceback" in manager.log:
                    raise Wrong(manager.log)
        finally:
            status = manager.stop()
            server.stop()
        if status != 0:
            raise Wrong(f"the manager ended with status {status}: {manager.log}")
    return "\n".join(lines)


def _fill(server: RedisServer) -> None:
    """Write the data for the examples of the description, and data that they must never get."""
    offer = {"fax": True, "mobile": "hours", "mobile_hours": 2}
    write(server.client, "+33972101001", label="Accueil", max_calls=2, offer=offer)
    write(server.client, "+33972101002", label="Atelier")
    write(server.client, "+33972101009", fleet="globex", label="Secret")


def _test(manager: Manager, token: str, description: Path, more: list[str]) -> str:
    """Do one run; returns its summary. Raises Wrong."""
    command = [str(PROGRAM), "--config-file", str(SETTINGS), "run", str(description)]
    command += ["--url", manager.url, "-H", f"Authorization: Bearer {token}"]
    command += ["--checks", "all", "--continue-on-failure", "--no-color", "--warnings", "off"]
    command += ["--request-timeout", "10", *more]
    # After a deletion there is nothing to test: that operation has its own tests.
    command += ["--exclude-method", "DELETE"]
    ended = subprocess.run(
        command, cwd=description.parent, capture_output=True, text=True, check=False
    )
    cases = [line.strip() for line in ended.stdout.splitlines() if " generated" in line]
    if ended.returncode != 0 or not cases:
        raise Wrong(ended.stdout + ended.stderr)
    return cases[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.api", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        print(run(seconds=given.seconds, seed=given.seed))
    except Wrong as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
