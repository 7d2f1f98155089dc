"""Media that bypasses Asterisk too, if its administrator has configured that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.scenarios.endpoint import Call
from tests.servers.chroot import Chroot
from tests.servers.media import Media
from tests.servers.places import PHONE, TRUNK
from tests.servers.site import Site


@pytest.fixture
async def direct(site: Site, chroot: Chroot) -> AsyncIterator[Site]:
    """Asterisk with direct_media=yes."""

    async def has(old: str, new: str) -> None:
        place = "/etc/asterisk/renvoi/pjsip.conf"
        chroot.sh(f"sed -i 's/^direct_media={old}/direct_media={new}/' {place}")
        site.asterisk.cli("module reload res_pjsip.so")
        value = "true" if new == "yes" else "false"
        await site.asterisk.until(
            lambda: any(
                line.split()[-1:] == [value]
                for line in site.asterisk.cli("pjsip show endpoint renvoi-2").splitlines()
                if line.strip().startswith("direct_media ")
            ),
            f"direct_media {new}",
        )

    await has("no", "yes")
    yield site
    await has("yes", "no")


async def taken(side: Call, media: Media) -> str:
    """Accept a re-INVITE; returns the media address in it."""
    request = await side.receive("INVITE")
    side.respond(200, to=request, body=media.sdp)
    await side.receive("ACK")
    return next(line for line in request.body.decode().split("\r\n") if line.startswith("c="))


async def test_media_goes_from_end_to_end_when_asterisk_lets_it(direct: Site) -> None:
    phone = await direct.endpoint(PHONE)
    line = direct.line(number="+33972101011", to=[phone.uri()])
    await direct.settle()
    call = await direct.outside_call(line)
    ring = await phone.incoming()
    media = await direct.talk(call, ring)
    assert await taken(ring, media) == f"c=IN IP4 {TRUNK}"
    assert await taken(call, direct.voice_of(call)) == f"c=IN IP4 {PHONE}"
    call.request("BYE")
    await taken(ring, media)  # Asterisk redirects the media to itself before it hangs up
    await ring.receive("BYE")
    await call.receive(200, "BYE")
