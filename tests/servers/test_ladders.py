"""The ladders in docs/integration.md match the captured messages.

If one does not, the failure shows the captured ladder, which belongs in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.scenarios.setup import to_number, to_voicemail
from tests.servers import followed
from tests.servers.ladder import Capture, arrows, between, draw, read
from tests.servers.places import ENGINE, PHONE, SECOND_ENGINE, SERVER, TRUNK
from tests.servers.site import Site

MAILBOX_LINE = "+33972101001"
PHONE_LINE = "+33972101003"
LINE, MOBILE = "+33972101010", "+33612345678"
NUMBERS = {MAILBOX_LINE: "LINE", LINE: "LINE", MOBILE: "MOBILE", "ua": "phone"}


def check(
    name: str,
    capture: Capture,
    places: Mapping[str, str],
    again: str = "",
    keep: Callable[[str], bool] = lambda _: True,
) -> None:
    """The ladder of that name shows the captured messages that `keep` selects."""
    passed = [a for a in arrows(capture.passed, places, NUMBERS, again) if keep(a[2])]
    columns = list(dict.fromkeys([*places.values(), *([again] if again else [])]))
    drawn = draw(columns, passed)
    page = followed.ladders().get(name)
    assert page is not None, f"no ladder {name}:\n{drawn}"
    assert between(read(page)) == between(passed), drawn


async def test_a_busy_line_and_its_mailbox(site: Site) -> None:
    site.asterisk.empty(MAILBOX_LINE)
    site.asterisk.greet(MAILBOX_LINE)
    phone = await site.endpoint(PHONE)
    site.line(number=MAILBOX_LINE, to=[phone.uri()], forwards={"busy": to_voicemail(MAILBOX_LINE)})
    await site.settle()
    with Capture() as capture:
        call = await site.outside_call(MAILBOX_LINE)
        ring = await phone.incoming()
        ring.respond(486)
        await ring.receive("ACK")
        await site.answered(call, site.voice_of(call))
        await site.asterisk.until(lambda: "beep" in site.asterisk.played(), "a tone")
        await call.hang_up()
        await site.record_of(MAILBOX_LINE)
    places = {TRUNK: "trunk", SERVER: "Asterisk", SECOND_ENGINE: "engine", PHONE: "phone"}
    check("mailbox", capture, places, "its mailbox")


async def test_a_star_code_of_a_phone_of_asterisks(site: Site) -> None:
    site.line(number=PHONE_LINE, to=[f"sip:ph{PHONE_LINE}@{SERVER}:5070"])
    phone = await site.phone(PHONE_LINE)
    await site.settle()
    with Capture() as capture:
        await phone.dial("*21*0612345678#")
        await phone.talks()
        await phone.closed()
    places = {PHONE: "phone", SERVER: "Asterisk", ENGINE: "engine"}
    # Both sides may hang up, in either order.
    check("star-code", capture, places, keep=lambda label: "BYE" not in label)


async def test_a_call_that_comes_back_to_its_line(site: Site) -> None:
    phone = await site.endpoint(PHONE)
    site.line(number=LINE, to=[phone.uri()], forwards={"unconditional": to_number(MOBILE)})
    await site.settle()
    with Capture() as capture:
        call = await site.outside_call(LINE)
        out = await site.goes_out(MOBILE)
        diversion = out.first.one("Diversion")
        again = await site.outside_call(LINE, headers=[("Diversion", diversion)])
        ring = await phone.incoming()
        ring.respond(486)
        await again.receive(486)
        out.respond(486)
        await call.receive(486)
        await site.asterisk.until(lambda: len(site.new_records()) == 2, "both ended")
    places = {TRUNK: "trunk", SERVER: "Asterisk", ENGINE: "engine", PHONE: "phone"}
    check("loop", capture, places, keep=lambda label: label.startswith("INVITE") or label == "486")
