"""What is asked of a destination's server."""

from __future__ import annotations

import pytest

from engine.probing import probed_uri


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("sip:{number}@127.0.0.1:5091", "sip:127.0.0.1:5091"),
        ("sips:{national}@gw.test;user=phone", "sips:gw.test;user=phone"),
        ("sip:{number}@gw.test;transport=tcp;for={number};x=1", "sip:gw.test;transport=tcp;x=1"),
        ("sip:fax@{national}.enum.test", None),
        ("sip:gw.test", "sip:gw.test"),
    ],
)
def test_the_uri_of_a_destinations_server(template: str, uri: str | None) -> None:
    assert probed_uri(template) == uri
