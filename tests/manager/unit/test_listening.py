"""The manager cannot listen: one line that names the key and the address."""

import errno
from typing import Any

import pytest

from engine.config import read
from manager import serve


def test_a_system_without_ipv6_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("socket.socket", refuses)
    config = read({"manager": {"listen": "[::1]:0"}})
    assert serve.serve(config, "unix:///no.sock") == 1
    assert capsys.readouterr().err == (
        "renvoi: manager.listen: cannot listen on [::1]:0: "
        "Address family not supported by protocol\n"
    )
