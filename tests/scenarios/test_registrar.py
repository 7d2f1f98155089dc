"""The registrar: a phone registers its contact with its password, and is called there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import pytest

from engine.registration.digest import ALGORITHMS, ha1
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.setup import KINDS, Setup

PASSWORD = "s3same"
SETTINGS = {
    "sip": {
        "trusted_peers": ["127.0.0.1/32"],
        "registrar_peers": ["127.0.0.1/32", "127.0.0.2/32"],
        "register_min_s": 60,
        "register_max_s": 600,
    }
}


def line_with_password(setup: Setup, *, strong: bool = False, **fields: bool) -> str:
    credentials = {"user": "accueil", "ha1": ha1("MD5", "accueil", "renvoi", PASSWORD)}
    if strong:
        credentials["ha1_sha256"] = ha1("SHA-256", "accueil", "renvoi", PASSWORD)
    return setup.line(credentials=credentials, **fields)  # type: ignore[arg-type]


class Phone:
    """A phone that registers, on its own socket."""

    def __init__(self, setup: Setup, endpoint: Endpoint, number: str) -> None:
        self.setup = setup
        self.endpoint = endpoint
        self.number = number
        self.registrar = setup.engine.address
        self.password = PASSWORD
        self.user = "accueil"
        self.count = 0
        self.algorithm = "MD5"

    async def send(self, *headers: tuple[str, str]) -> Message:
        """Send one REGISTER without further fields; returns the final answer."""
        call = self.endpoint.start(
            self.registrar,
            self.number,
            method="REGISTER",
            contact=False,
            to=f"<sip:{self.number}@renvoi>",
            headers=headers,
        )
        return await call.final("REGISTER")

    def contact(self, more: str = "") -> tuple[str, str]:
        return ("Contact", f"<{self.endpoint.uri()}>{more}")

    def authorization(self, challenge: Message, *, nc: int = 0) -> tuple[str, str]:
        """The answer to a 401."""
        offered = {
            text.partition("algorithm=")[2].partition(",")[0]: text
            for text in challenge.every("WWW-Authenticate")
        }
        nonce = offered[self.algorithm].partition('nonce="')[2].partition('"')[0]
        self.count += 1
        count = f"{nc or self.count:08x}"
        uri, cnonce, digest = "sip:renvoi", secrets.token_hex(4), ALGORITHMS[self.algorithm]
        a1 = ha1(self.algorithm, self.user, "renvoi", self.password)
        a2 = digest(f"REGISTER:{uri}".encode()).hexdigest()
        response = digest(f"{a1}:{nonce}:{count}:{cnonce}:auth:{a2}".encode()).hexdigest()
        return (
            "Authorization",
            f'Digest username="{self.user}", realm="renvoi", nonce="{nonce}", uri="{uri}", '
            f'response="{response}", algorithm={self.algorithm}, cnonce="{cnonce}", '
            f"qop=auth, nc={count}",
        )

    async def register(self, *headers: tuple[str, str]) -> Message:
        """REGISTER, challenge, REGISTER again; returns the answer to the second."""
        challenge = await self.send(*headers)
        assert challenge.code == 401
        self.count = 0
        return await self.send(*headers, self.authorization(challenge))


async def phone_of(setup: Setup, number: str = "") -> Phone:
    return Phone(setup, await setup.endpoint(), number or line_with_password(setup))


def contacts(answer: Message) -> list[str]:
    return [value.partition(">")[0].lstrip("<") for value in answer.every("Contact")]


def expires(answer: Message) -> list[int]:
    return [int(value.rpartition("expires=")[2]) for value in answer.every("Contact")]


async def call_rings(setup: Setup, phone: Phone) -> None:
    call = await setup.call(phone.number)
    ring = await phone.endpoint.incoming()
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_a_phone_registers_and_is_called_at_once(setup: Setup, algorithm: str) -> None:
    phone = await phone_of(setup, line_with_password(setup, strong=True))
    phone.algorithm = algorithm
    answer = await phone.register(phone.contact(";expires=300"))
    assert answer.code == 200
    assert contacts(answer) == [phone.endpoint.uri()]
    assert 295 <= expires(answer)[0] <= 300
    await call_rings(setup, phone)


async def test_a_challenge_offers_both_algorithms_the_stronger_first(setup: Setup) -> None:
    phone = await phone_of(setup, line_with_password(setup, strong=True))
    answer = await phone.send(phone.contact())
    assert answer.code == 401
    offers = answer.every("WWW-Authenticate")
    assert ["SHA-256" in offers[0], "MD5" in offers[1]] == [True, True]
    assert all('realm="renvoi"' in offer and 'qop="auth"' in offer for offer in offers)


async def test_an_algorithm_that_cannot_be_checked_is_not_offered(setup: Setup) -> None:
    """baresip 1.0 supports only MD5 and gives up if SHA-256 comes first."""
    for number in (line_with_password(setup), numbers.line_number()):
        phone = await phone_of(setup, number)
        answer = await phone.send(phone.contact())
        assert answer.code == 401
        assert "algorithm=MD5" in answer.one("WWW-Authenticate")


async def test_several_phones_of_a_line_all_ring(setup: Setup) -> None:
    first = await phone_of(setup)
    second = await phone_of(setup, first.number)
    await first.register(first.contact())
    answer = await second.register(second.contact(";q=1.0"))
    assert set(contacts(answer)) == {first.endpoint.uri(), second.endpoint.uri()}
    call = await setup.call(first.number)
    rings = [await phone.endpoint.incoming() for phone in (first, second)]
    rings[0].respond(180)
    await connect(call, rings[1])
    await rings[0].receive("CANCEL")
    await part(call, rings[1])


async def test_a_phone_removes_its_contact(setup: Setup) -> None:
    phone = await phone_of(setup)
    other = await phone_of(setup, phone.number)
    await other.register(other.contact())
    await phone.register(phone.contact())
    answer = await phone.register(phone.contact(";expires=0"))
    assert contacts(answer) == [other.endpoint.uri()]
    answer = await phone.register(("Contact", "*"), ("Expires", "0"))
    assert answer.code == 200
    assert contacts(answer) == []
    call = await setup.call(phone.number)
    await call.receive(480)


async def test_a_register_without_contact_lists_the_bindings(setup: Setup) -> None:
    phone = await phone_of(setup)
    await phone.register(phone.contact(";q=0.4;expires=120"))
    answer = await phone.register()
    assert answer.code == 200
    assert answer.every("Contact")[0].startswith(f"<{phone.endpoint.uri()}>;q=0.4;expires=1")


async def test_registering_again_replaces_what_was_there(setup: Setup) -> None:
    phone = await phone_of(setup)
    await phone.register(phone.contact(";q=0.4"), ("Path", "<sip:edge.example;lr>"))
    answer = await phone.register(phone.contact())
    assert len(answer.every("Contact")) == 1
    assert ";q=" not in answer.every("Contact")[0]
    assert setup.redis.zrange(f"reg:{phone.number}", 0, -1) == [phone.endpoint.uri()]


@pytest.mark.parametrize(
    ("headers", "granted"),
    [((), 600), ((("Expires", "200"),), 200), ((("Expires", "99999"),), 600)],
)
async def test_how_long_it_lasts(
    setup: Setup, headers: Sequence[tuple[str, str]], granted: int
) -> None:
    phone = await phone_of(setup)
    begun = time.time()
    answer = await phone.register(phone.contact(), *headers)
    assert granted - 5 <= expires(answer)[0] <= granted
    score = setup.redis.zscore(f"reg:{phone.number}", phone.endpoint.uri())
    assert isinstance(score, float)
    assert begun + granted - 1 <= score <= time.time() + granted + 1  # in whole seconds


async def test_too_short_a_time_is_refused_with_the_least(setup: Setup) -> None:
    phone = await phone_of(setup)
    answer = await phone.register(phone.contact(";expires=10"))
    assert answer.code == 423
    assert answer.one("Min-Expires") == "60"
    assert not setup.redis.exists(f"reg:{phone.number}")


async def test_the_path_is_stored_returned_and_used(setup: Setup) -> None:
    phone = await phone_of(setup)
    edge = await setup.endpoint()
    path = f"<{edge.uri('edge')};lr>"
    answer = await phone.register(phone.contact(), ("Path", path), ("Supported", "path"))
    assert answer.one("Path") == path
    call = await setup.call(phone.number)
    ring = await edge.incoming()
    assert ring.first.one("Route") == path
    assert ring.first.uri == phone.endpoint.uri()
    await connect(call, ring)
    await part(call, ring)


async def test_a_wrong_password_is_refused(setup: Setup) -> None:
    phone = await phone_of(setup)
    phone.password = "sesame"
    assert (await phone.register(phone.contact())).code == 403
    phone.password, phone.user = PASSWORD, "boss"
    assert (await phone.register(phone.contact())).code == 403
    assert not setup.redis.exists(f"reg:{phone.number}")


@pytest.mark.parametrize("kind", ["unknown", "without_credentials", "suspended"])
async def test_answers_do_not_show_which_lines_exist(setup: Setup, kind: str) -> None:
    number = numbers.line_number()
    if kind == "without_credentials":
        number = setup.line()
    elif kind == "suspended":
        number = line_with_password(setup, suspended=True)
    phone = await phone_of(setup, number)
    assert (await phone.register(phone.contact())).code == 403
    assert not setup.redis.exists(f"reg:{number}")


async def test_an_answer_cannot_be_used_again(setup: Setup) -> None:
    phone = await phone_of(setup)
    challenge = await phone.send(phone.contact())
    proof = phone.authorization(challenge)
    assert (await phone.send(phone.contact(), proof)).code == 200
    replayed = await phone.send(("Contact", "<sip:thief@192.0.2.66>"), proof)
    assert replayed.code == 401
    assert all("stale=true" in value for value in replayed.every("WWW-Authenticate"))
    assert contacts(await phone.send(phone.authorization(challenge))) == [phone.endpoint.uri()]


async def test_a_nonce_of_somebody_else_or_made_up_is_challenged_anew(setup: Setup) -> None:
    phone = await phone_of(setup)
    other = await phone_of(setup)
    challenge = await other.send(other.contact())
    answer = await phone.send(phone.contact(), phone.authorization(challenge))
    assert answer.code == 401
    assert "stale" not in answer.one("WWW-Authenticate")


async def test_a_repeated_register_gets_the_same_answer(setup: Setup) -> None:
    phone = await phone_of(setup)
    challenge = await phone.send(phone.contact())
    answer = await phone.send(phone.contact(), phone.authorization(challenge))
    call = phone.endpoint.calls[-1]
    call.repeat(call.first)
    call.repeat(call.first)
    answers = await call.copies(3, 200)
    assert len(answers) == 3
    assert {m.raw for m in answers} == {answer.raw}


async def test_passwords_cannot_be_tried_one_after_the_other(setup: Setup) -> None:
    phone = await phone_of(setup)
    via = f"SIP/2.0/UDP 192.0.2.9:5060;received=192.0.2.{secrets.randbelow(200)};branch=z9hG4bKx"
    challenge = await phone.send(phone.contact())
    phone.password = "wrong"
    codes = []
    for _ in range(12):
        answer = await phone.send(phone.contact(), phone.authorization(challenge), ("Via", via))
        codes.append(answer.code)
    assert set(codes) == {403}
    assert int(answer.one("Retry-After")) > 0
    phone.password = PASSWORD
    answer = await phone.send(phone.contact(), phone.authorization(challenge), ("Via", via))
    assert answer.code == 403  # for a while the right one is refused too
    assert setup.engine.metric("renvoi_registrations_total", result="limited") >= 2


async def test_guesses_are_counted_by_the_source_at_the_edge(setup: Setup) -> None:
    """The Vias below it may be forged by the phone."""
    phone = await phone_of(setup)
    challenge = await phone.send(phone.contact())
    phone.password = "wrong"
    seen = f"SIP/2.0/UDP 10.1.1.1;received=198.51.100.{secrets.randbelow(200)};branch=z9hG4bKy"
    for n in range(12):
        made_up = f"SIP/2.0/UDP 10.1.1.1;received=192.0.2.{n};branch=z9hG4bKz"
        vias = [("Via", seen), ("Via", made_up)]
        answer = await phone.send(phone.contact(), phone.authorization(challenge), *vias)
        assert answer.code == 403
    assert int(answer.one("Retry-After")) > 0


@pytest.mark.parametrize(
    "contact",
    [
        "<tel:+33140000001>",
        "<sip:a@h?Subject=x>",
        "*",
        "<sip:" + "a" * 1100 + "@h>",
    ],
)
async def test_a_contact_nobody_can_call_is_refused(setup: Setup, contact: str) -> None:
    phone = await phone_of(setup)
    assert (await phone.register(("Contact", contact))).code == 400
    assert not setup.redis.exists(f"reg:{phone.number}")


async def test_a_line_has_room_for_ten_phones(setup: Setup) -> None:
    phone = await phone_of(setup)
    many = ", ".join(f"<sip:p{n}@192.0.2.1>" for n in range(10))
    assert (await phone.register(("Contact", many + ", <sip:p10@192.0.2.1>"))).code == 403
    assert not setup.redis.exists(f"reg:{phone.number}")
    many = ", ".join(f"<sip:p{n}@192.0.2.1>" for n in range(9))
    many += ", <sip:first@192.0.2.1>;expires=500"
    assert (await phone.register(("Contact", many))).code == 200
    full = contacts(await phone.register(("Contact", "<sip:p3@192.0.2.1>")))
    assert len(full) == 10
    # One more replaces the one that would expire first.
    now = contacts(await phone.register(phone.contact()))
    assert set(now) == {*full, phone.endpoint.uri()} - {"sip:first@192.0.2.1"}
    await call_rings(setup, phone)


async def test_a_number_that_is_none_is_unknown(setup: Setup) -> None:
    phone = await phone_of(setup, "nobody")
    assert (await phone.send(phone.contact())).code == 404


async def test_the_right_to_register_gives_no_right_to_call(setup: Setup) -> None:
    number = line_with_password(setup)
    phone = Phone(setup, await setup.endpoint("127.0.0.2"), number)
    assert (await phone.register(phone.contact())).code == 200
    call = phone.endpoint.start(setup.engine.address, number)
    await call.receive(403)
    stranger = Phone(setup, await setup.endpoint("127.0.0.3"), number)
    assert (await stranger.send(stranger.contact())).code == 403


async def test_registrations_are_counted(setup: Setup) -> None:
    def count(result: str) -> float:
        return setup.engine.metric("renvoi_registrations_total", result=result)

    before = count("accepted"), count("challenged")
    phone = await phone_of(setup)
    await phone.register(phone.contact())
    assert (count("accepted"), count("challenged")) == (before[0] + 1, before[1] + 1)
    log = setup.engine.log
    assert PASSWORD not in log
    assert ha1("MD5", "accueil", "renvoi", PASSWORD) not in log


async def is_misplaced(setup: Setup, phone: Phone, *headers: tuple[str, str]) -> bool:
    """Whether a registration is refused for its Contact or Path, and leaves nothing."""
    before = setup.engine.metric("renvoi_registrations_total", result="misplaced")
    code = (await phone.register(*headers)).code
    refused = setup.engine.metric("renvoi_registrations_total", result="misplaced") - before
    assert (code, refused) in ((200, 0), (403, 1))
    assert setup.redis.exists(f"reg:{phone.number}") == (code == 200)
    return code == 403


async def phone_at(setup: Setup, host: str) -> Phone:
    """A phone of a new line: a trusted peer at 127.0.0.1, or a direct one at 127.0.0.2."""
    return Phone(setup, await setup.endpoint(host), line_with_password(setup))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_no_phone_registers_where_a_forward_goes_or_the_engine_is(
    setup: Setup, host: str
) -> None:
    """A caller of the line could otherwise reach any number from the engine's trusted address
    without billing, or the engine itself in a loop."""
    target = numbers.outside_number()
    ports = setup.engine.ports
    places = [f"{target}@127.0.0.1:{ports[kind]}" for kind in KINDS]
    places += [f"{target}@127.0.0.1:{setup.engine.address[1]}", f"localhost:{ports['fax']}"]
    places += [f"a@192.0.2.1:{ports['number']};%6daddr=127.0.0.1"]
    for place in places:
        phone = await phone_at(setup, host)
        assert await is_misplaced(setup, phone, ("Contact", f"<sip:{place}>")), place
    phone = await phone_at(setup, host)
    assert await is_misplaced(setup, phone, phone.contact(), ("Contact", f"<sip:{places[0]}>"))
    assert not await is_misplaced(setup, phone, phone.contact())


async def test_what_is_registered_there_from_before_can_be_taken_back(setup: Setup) -> None:
    phone = await phone_at(setup, "127.0.0.2")
    contact = f"sip:{numbers.outside_number()}@127.0.0.1:{setup.engine.ports['number']}"
    setup.register(phone.number, contact)
    assert (await phone.register(("Contact", f"<{contact}>;expires=0"))).code == 200
    assert not setup.redis.exists(f"reg:{phone.number}")


async def test_a_phone_that_comes_by_itself_gives_an_address_and_no_path(setup: Setup) -> None:
    phone = await phone_at(setup, "127.0.0.2")
    gateway = f"<sip:127.0.0.1:{setup.engine.ports['number']};lr>"
    for path in (gateway, "<sip:edge.example;lr>"):
        assert await is_misplaced(setup, phone, phone.contact(), ("Path", path))
    assert await is_misplaced(setup, phone, ("Contact", "<sip:a@its-own-name.example>"))


async def test_an_edge_that_is_the_gateway_too_registers_its_phones(setup: Setup) -> None:
    edge = setup.server("number")
    phone = await phone_at(setup, "127.0.0.1")
    path = f"<{edge.uri('edge')};lr>"
    assert not await is_misplaced(setup, phone, phone.contact(), ("Path", path))
    call = await setup.call(phone.number)
    ring = await edge.incoming()
    assert (ring.first.one("Route"), ring.first.uri) == (path, phone.endpoint.uri())
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize("by", [";received=sip:198.51.100.7:40000", ";ob"])
async def test_a_private_contact_may_be_any_if_the_edge_goes_by_its_path(
    setup: Setup, by: str
) -> None:
    """An edge that routes by the Contact instead would be a way to the gateway."""
    contact = ("Contact", f"<sip:a@127.0.0.1:{setup.engine.ports['number']}>")
    edge = await setup.endpoint()
    phone = await phone_at(setup, "127.0.0.1")
    assert await is_misplaced(setup, phone, contact, ("Path", f"<{edge.uri('edge')};lr>"))
    itself = f"<sip:127.0.0.1:{setup.engine.address[1]};lr{by}>"
    assert await is_misplaced(setup, phone, contact, ("Path", itself))
    assert not await is_misplaced(setup, phone, contact, ("Path", f"<{edge.uri('edge')};lr{by}>"))


@pytest.mark.parametrize("contact", ["sip:again@{}", '<sip:a@192.0.2.1>;path="<sip:{};lr>"'])
async def test_a_registered_contact_that_is_the_engine_is_never_rung(
    setup: Setup, contact: str
) -> None:
    """Written by any program: the call would come back to the line in a loop."""
    refused = setup.engine.metric("renvoi_documents_refused_total", kind="reg")
    itself = contact.format(f"127.0.0.1:{setup.engine.address[1]}")
    alone = setup.line(to=[itself])
    calls = setup.engine.metric("renvoi_sip_messages_total", direction="in", kind="INVITE")
    call = await setup.call(alone)
    await call.receive(480)
    phone = await setup.endpoint()
    call = await setup.call(setup.line(to=[itself, phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    invites = setup.engine.metric("renvoi_sip_messages_total", direction="in", kind="INVITE")
    assert invites - calls == 2
    # Each reading counts, and a line that changes while it is read is read again.
    assert setup.engine.metric("renvoi_documents_refused_total", kind="reg") >= refused + 2


INSTANCE = "<urn:uuid:00000000-0000-1000-8000-aabbccddeeff>"


@pytest.mark.parametrize(
    "more",
    [
        f';expires=0;+sip.instance="{INSTANCE}"',
        f';+sip.instance="{INSTANCE}" ; Expires = 0',
        ';x="a>;expires=300,\\"";expires=0',
    ],
)
@pytest.mark.parametrize("form", ["<{}>{}", '"p; <q>, \\"r" <{}>{}', "{}{}"])
async def test_a_contact_is_removed_whatever_else_it_says(
    setup: Setup, form: str, more: str
) -> None:
    """baresip unregisters with the first of these."""
    phone = await phone_of(setup)
    assert contacts(await phone.register(phone.contact())) == [phone.endpoint.uri()]
    taken = await phone.register(("Contact", form.format(phone.endpoint.uri(), more)))
    assert (taken.code, contacts(taken)) == (200, [])
    assert not setup.redis.exists(f"reg:{phone.number}")


async def test_what_is_in_quotes_is_no_parameter_of_a_contact(setup: Setup) -> None:
    phone = await phone_of(setup)
    more = ';x=";expires=0;q=0.1,<sip:a@192.0.2.1>";expires=300'
    answer = await phone.register(phone.contact(more))
    assert contacts(answer) == [phone.endpoint.uri()]
    assert 295 <= expires(answer)[0] <= 300
    assert "q=" not in answer.one("Contact")


async def test_only_an_edge_decides_that_it_routes_by_its_path(setup: Setup) -> None:
    """A phone may send a Path too: entries below the topmost one may be its own."""
    gateway = f"127.0.0.1:{setup.engine.ports['number']}"
    edge = (await setup.endpoint()).uri("edge")
    for paths in (
        [f"<{edge};lr>", f"<sip:{gateway};lr;ob>"],
        [f"<{edge};lr>, <sip:{gateway};lr;received=sip:192.0.2.1>"],
        [f"<{edge};lr>", f"<sip:a@192.0.2.9;maddr={gateway.partition(':')[0]}:1;lr>",
         f"<sip:{gateway}>"],
        [f"<{edge};lr>", f"<sip:127.0.0.1:{setup.engine.address[1]};lr;ob>"],
        [f"<{edge};lr;ob>", f"<sip:{gateway};lr>"],
    ):  # fmt: skip
        phone = await phone_at(setup, "127.0.0.1")
        path = [("Path", value) for value in paths]
        assert await is_misplaced(setup, phone, phone.contact(), *path), paths
    contact = ("Contact", f"<sip:+33899123456@{gateway}>")
    for paths in (
        [f"<{edge};lr>", "<sip:192.0.2.9;lr;ob>"],
        [f"<{edge};lr>", "<sip:192.0.2.9;lr;received=sip:192.0.2.1>"],
        [f"<sip:a;ob;b@{edge.partition('@')[2]};lr>"],
        [f'<{edge};lr>;x="<;ob>"'],
    ):
        phone = await phone_at(setup, "127.0.0.1")
        path = [("Path", value) for value in paths]
        assert await is_misplaced(setup, phone, contact, *path), paths
    phone = await phone_at(setup, "127.0.0.1")
    paths = [f"<{edge};lr;OB>", "<sip:192.0.2.9;lr>"]
    assert not await is_misplaced(setup, phone, contact, *[("Path", value) for value in paths])


async def rung(setup: Setup, number: str, *endpoints: Endpoint) -> int:
    """How many INVITEs these endpoints get from one call."""
    before = {id(call) for endpoint in endpoints for call in endpoint.invited()}
    call = await setup.call(number)
    ring = await endpoints[0].incoming()
    await connect(call, ring)
    await part(call, ring)
    calls = [call for endpoint in endpoints for call in endpoint.invited()]
    return len([call for call in calls if id(call) not in before])


async def test_equivalent_contacts_are_one_binding(setup: Setup) -> None:
    """RFC 3261 10.3 and 19.1.4: in any notation of the phone's URI."""
    phone = await phone_of(setup)
    where = f"127.0.0.1:{phone.endpoint.port}"
    for uri, more in (
        (f"sip:ua@{where};transport=udp;ob;x=1", ""),
        (f"SIP:ua@{where};X=1;OB;Transport=UDP", ";expires=100"),
        (f"sip:%75a@{where};transport=udp", ";q=0.5;expires=200"),
        (f"sip:u%61@{where};%74ransport=%75dp;y=2", ""),
    ):
        answer = await phone.register(("Contact", f"<{uri}>{more}"))
        assert contacts(answer) == [uri]
        assert ("q=0.5" in answer.one("Contact")) == ("q=0.5" in more)
    assert setup.redis.zcard(f"reg:{phone.number}") == 1
    assert await rung(setup, phone.number, phone.endpoint) == 1
    for uri in (f"sip:UA@{where};transport=udp", f"sip:ua@{where}", f"sips:ua@{where}"):
        assert len(contacts(await phone.register(("Contact", f"<{uri}>;expires=0")))) == 1
    taken = await phone.register(("Contact", f"<sip:ua@{where};transport=Udp;ob>;expires=0"))
    assert contacts(taken) == []


async def test_equivalent_contacts_in_one_request_are_one_binding(setup: Setup) -> None:
    phone = await phone_of(setup)
    where = f"127.0.0.1:{phone.endpoint.port}"
    answer = await phone.register(
        ("Contact", f"<sip:ua@{where};x=1>, <sip:%75a@{where}>;expires=300"),
        ("Contact", f"<sip:other@{where};x=1>"),
    )
    assert sorted(contacts(answer)) == [f"sip:%75a@{where}", f"sip:other@{where};x=1"]


async def test_a_phone_that_others_list_twice_gets_one_invite(setup: Setup) -> None:
    phone = await phone_of(setup)
    where = f"127.0.0.1:{phone.endpoint.port}"
    for n, member in enumerate((
        f"sip:ua@{where};a=1;b=2",
        f"SIP:%75a@{where};b=2;A=1",
        f"<sip:ua@{where}>;q=0.3",
        f'<sip:elsewhere@{where}>;+sip.instance="<urn:uuid:F81D>"',
        f'<sip:ua@{where};c>;+sip.instance="<URN:UUID:f81d>"',
    )):  # fmt: skip
        setup.register(phone.number, member, expires_s=100 + n)
    assert await rung(setup, phone.number, phone.endpoint) == 1


async def test_a_phone_that_comes_back_from_another_port_replaces_its_binding(
    setup: Setup,
) -> None:
    """RFC 5626 6: the same instance and flow; the old port is not called."""
    old = await phone_of(setup)
    flow = f';+sip.instance="{INSTANCE}";reg-id=1'
    answer = await old.register(old.contact(flow))
    assert flow in answer.one("Contact")
    new = Phone(setup, await setup.endpoint(), old.number)
    again = f';+SIP.Instance="{INSTANCE.upper()}" ;reg-id=1;expires=300'
    assert contacts(await new.register(new.contact(again))) == [new.endpoint.uri()]
    assert await rung(setup, new.number, new.endpoint, old.endpoint) == 1
    # Another instance is another phone; another flow of an instance is another way to it.
    other = f';+sip.instance="{INSTANCE[:-2]}0>";reg-id=1'
    assert len(contacts(await old.register(old.contact(other)))) == 2
    second = f';+sip.instance="{INSTANCE}";reg-id=2'
    third = Phone(setup, await setup.endpoint(), old.number)
    assert len(contacts(await third.register(third.contact(second)))) == 3
    gone = await new.register(new.contact(f"{flow};expires=0"))
    assert len(contacts(gone)) == 2


async def test_phones_of_one_address_behind_two_edges_both_ring(setup: Setup) -> None:
    """Many phones have the same URI in their private networks: the way distinguishes them."""
    edges = [await setup.endpoint(), await setup.endpoint()]
    phone = await phone_of(setup)
    contact = "<sip:a@192.168.1.10:5060>"
    for n, edge in enumerate(edges):
        flow = f';+sip.instance="<urn:uuid:{n}>";reg-id=1'
        path = ("Path", f"<{edge.uri('flow')};lr;ob>")
        answer = await phone.register(("Contact", contact + flow), path)
        assert len(contacts(answer)) == n + 1
    call = await setup.call(phone.number)
    rings = [await edge.incoming() for edge in edges]
    rings[1].respond(180)
    await call.receive(180)
    await connect(call, rings[0])
    await rings[1].receive("CANCEL")
    await part(call, rings[0])
