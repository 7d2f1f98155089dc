"""What hostile messages once did to the core, and must not do again: each found by a campaign."""

from __future__ import annotations

import pytest

from tests.sip.core.house import CALLER, PHONE, SDP, answer, house, request
from tests.sip.core.test_endpoint import talk


@pytest.mark.parametrize("number", ["256", "2147483648", "4294967295", "4294967296", "9" * 60])
async def test_a_max_forwards_that_fits_no_integer_is_a_400(number: str) -> None:
    """An attribute of the compiled core holds 31 bits: the rest was an exception."""
    with house() as home:
        invite = request("INVITE").replace(b"Forwards: 70", b"Forwards: " + number.encode())
        home.feed(invite, CALLER)
        assert home.line(CALLER).heard() == ["400"]


@pytest.mark.parametrize("code", [100, 180])
async def test_a_relayed_invite_that_outlives_its_call_ends(code: int) -> None:
    """The call ends while a re-INVITE waits; a provisional response then took its time limit."""
    with house() as home:
        tag = talk(home)
        reinvite = request(
            "INVITE", tag=tag, cseq=2, body=SDP, fields=("Content-Type: application/sdp",)
        )
        home.feed(reinvite, CALLER)
        relayed = home.line(PHONE).sent[-1]
        assert relayed.method == b"INVITE"
        home.feed(request("BYE", tag=tag, cseq=3), CALLER)
        home.feed(answer(relayed, code), PHONE)
        home.pass_time(70_000)
        assert home.endpoint.layer.clients == {}


async def test_a_refusal_does_not_need_what_it_is_for() -> None:
    """To, From, Call-ID or CSeq missing: 400 with what is there, and its To, if any, with a tag."""
    for missing in (b"From", b"To", b"Call-ID", b"CSeq"):
        with house() as home:
            lines = request("INVITE").split(b"\r\n")
            home.feed(
                b"\r\n".join(line for line in lines if not line.startswith(missing)), CALLER
            )
            [sent] = home.line(CALLER).sent
            assert (sent.status, sent.phrase) == (400, b"Bad Request (%s)" % missing)
            names = [name for name, _, _ in sent.fields]
            assert missing.lower() not in names
            assert (sent.to_tag is None) == (missing == b"To")
