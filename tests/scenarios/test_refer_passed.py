"""`sip.refer: passed`: the telephony server decides on targets, and bills itself."""

from __future__ import annotations

from urllib.parse import quote

from tests.scenarios.expect import part
from tests.scenarios.setup import Setup
from tests.scenarios.test_dialog_names import tells
from tests.scenarios.test_refer import sends
from tests.scenarios.test_transfer import own, talk

SETTINGS = {"sip": {"refer": "passed"}}


async def test_a_refer_to_passes_as_it_is(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    gateway = f"127.0.0.1:{setup.engine.ports['number']}"
    for target in (
        "<sip:+33899123456@h>",
        f"<sip:+881623400000@{gateway}?Diversion=x&Subject=y>",
        "<mailto:a@h>",
    ):
        assert await sends(ring, call, ("Refer-To", target)) == target
    await part(call, ring)


async def test_star_codes_and_others_dialogs_do_not(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    _, own_call, own_phone = await talk(setup, fleet="globex")
    own_call.request("REFER", headers=[("Refer-To", "<sip:%20*21*0612345678:pw@h>")])
    await own_call.receive(403, "REFER")
    own_call.request("REFER", headers=[("Refer-To", "<sip:a@h>, <sip:b@h>")])
    await own_call.receive(400, "REFER")
    refer_to = f"<sip:a@h?Replaces={quote(own(ring), safe='')}&X=y>"
    own_call.request("REFER", headers=[("Refer-To", refer_to)])
    request = await own_phone.receive("REFER")
    assert request.one("Refer-To") == "<sip:a@h?X=y>"
    assert not tells(request, ring)
    own_phone.respond(202, to=request)
    await own_call.receive(202, "REFER")
    await part(own_call, own_phone)
    await part(call, ring)
