"""Each event from its cause to the message: real calls and commands, a real engine, Redis, HTTP
server and SMTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.month import this_month
from tests.notify.site import Json, Notifier, Receiver, SmtpServer
from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.expect import call_off, connect, part
from tests.scenarios.setup import RunningEngine, Setup, to_number, to_voicemail
from tests.scenarios.sipp import HOST
from tests.scenarios.test_star_codes import dial

MAIL = "marie@example.com"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def notifier(
    running_engine: RunningEngine, receiver: Receiver, smtp: SmtpServer
) -> Iterator[Notifier]:
    """A prevented forward is reported again after a second, not an hour."""
    url = running_engine.redis.connection_pool.connection_kwargs["path"]
    notifier = Notifier(
        running_engine.directory, f"unix://{url}", prevented_s=1, smtp_host=HOST,
        smtp_port=smtp.port, smtp_security="none", timeout_s=15,
    )  # fmt: skip
    notifier.start()
    notifier.active()
    yield notifier
    assert notifier.stop() == 0, notifier.log
    assert "Traceback" not in notifier.log


_fleets = iter(range(1000))


class Inbox:
    """One fleet with all notifications, at its own path and address."""

    def __init__(
        self, setup: Setup, receiver: Receiver, smtp: SmtpServer, **fields: object
    ) -> None:
        self.fleet = f"f{next(_fleets)}"
        self._receiver, self._smtp, self._setup = receiver, smtp, setup
        self.address = f"{self.fleet}@example.com"
        notify = {"webhook": {"url": receiver.url(f"/{self.fleet}")}, "email": [self.address]}
        document = {"name": self.fleet, "label": "Acme", "notify": notify, **fields}
        setup.redis.set(f"fleet:{self.fleet}", json.dumps(document))

    async def of(self, event: str) -> tuple[Json, str]:
        """The data of the only webhook about such an event, and the e-mail about it."""
        posted = await asyncio.to_thread(self._receiver.one, event, f"/{self.fleet}")
        mail = await asyncio.to_thread(self._smtp.one, self.address, event)
        whole = self._setup.redis.get(f"notify:secret:fleet:{self.fleet}")
        assert isinstance(whole, str)
        assert posted.is_signed_with(json.loads(whole)["secret"])
        return posted.json["data"], f"{mail['Subject']}\n{mail.get_content()}"

    def events(self) -> list[str]:
        return [posted.json["type"] for posted in self._receiver.of(f"/{self.fleet}")]


@pytest.fixture
def inbox(setup: Setup, notifier: Notifier, receiver: Receiver, smtp: SmtpServer) -> Inbox:
    return Inbox(setup, receiver, smtp)


async def test_a_call_that_nobody_picks_up(setup: Setup, inbox: Inbox) -> None:
    line, phone = await setup.line_with_phone(fleet=inbox.fleet, label="Accueil")
    caller = numbers.mobile_number()
    call = await setup.call(line, caller=caller)
    await call_off(call, await phone.incoming())
    record = await setup.ended(call.call_id, outcome="cancelled")
    data, mail = await inbox.of("missed_call")
    assert (data["caller"], data["line"], data["call"]) == (caller, line, record["id"])
    assert "Appel manqué de 0" in mail
    assert "l'appelant a raccroché avant la réponse" in mail


async def test_a_call_that_a_voicemail_answers(setup: Setup, inbox: Inbox) -> None:
    line = setup.line(fleet=inbox.fleet)
    setup.change(line, forwards={"unreachable": to_voicemail(line)})
    await setup.settle()
    call = await setup.call(line)
    mailbox = await setup.server("voicemail").incoming()
    await connect(call, mailbox)
    await part(call, mailbox)
    data, mail = await inbox.of("missed_call")
    assert (data["voicemail"], data["outcome"], data["condition"]) == (
        True, "answered", "unreachable",
    )  # fmt: skip
    assert "vers la messagerie" in mail


async def test_a_caller_who_withholds_the_number(setup: Setup, inbox: Inbox) -> None:
    line = setup.line(fleet=inbox.fleet)
    caller = numbers.mobile_number()
    call = await setup.call(line, caller=caller, headers=[("Privacy", "id")])
    assert (await call.final()).code == 480
    data, mail = await inbox.of("missed_call")
    assert (data["caller"], data["withheld"]) == (None, True)
    assert "numéro masqué" in mail
    assert caller[3:] not in json.dumps(data) + mail.replace(" ", "")


async def test_an_answered_call_is_not_missed(setup: Setup, inbox: Inbox) -> None:
    line, phone = await setup.line_with_phone(fleet=inbox.fleet)
    call = await setup.call(line)
    answered = await phone.incoming()
    await connect(call, answered)
    await part(call, answered)
    await setup.ended(call.call_id, outcome="answered")
    missed = await setup.call(line)
    await call_off(missed, await phone.incoming())
    await inbox.of("missed_call")
    assert inbox.events() == ["missed_call"]


async def test_a_forward_that_a_phone_changes(setup: Setup, inbox: Inbox) -> None:
    line, phone = await setup.line_with_phone(fleet=inbox.fleet)
    target = numbers.mobile_number()
    answer, _ = await dial(setup, phone, f"*21*{target.replace('+33', '0')}#", line)
    assert answer.code == 200
    data, mail = await inbox.of("forward_changed")
    assert (data["who"], data["how"], data["what"]) == (line, "phone", "forwards")
    after = data["to"]["forwards"]["unconditional"]
    assert after["on"]
    assert after["to"]["number"] == target
    assert "Tous les appels : désactivé -> numéro 0" in mail


async def test_a_forward_that_a_command_changes(
    setup: Setup, inbox: Inbox, notifier: Notifier
) -> None:
    line = setup.line(fleet=inbox.fleet)
    done = await asyncio.to_thread(
        notifier.command, "forward", "set", line, "no_answer", "voicemail", "--after", "15"
    )
    assert done.returncode == 0, done.stderr
    data, mail = await inbox.of("forward_changed")
    assert data["how"] == "cli"
    assert data["to"]["forwards"]["no_answer"]["after_s"] == 15
    assert "Sur non-réponse : désactivé -> messagerie" in mail


async def talk(setup: Setup, line: str, target: str, seconds: float = 1.2) -> None:
    """A call of this length that the line forwards to the target."""
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await asyncio.sleep(seconds)
    await part(call, away)
    await setup.ended(call.call_id, outcome="answered")


async def test_a_plan_at_80_and_100_percent(setup: Setup, inbox: Inbox, receiver: Receiver) -> None:
    mobile = numbers.mobile_number()
    line = setup.line(
        fleet=inbox.fleet,
        offer={"mobile": "hours", "mobile_hours": 1},
        forwards={"unconditional": to_number(mobile)},
    )
    key = f"usage:{line}:{this_month()}"
    setup.redis.hset(key, "deducted", 2800)
    await talk(setup, line, mobile)  # below 80 %
    setup.redis.hset(key, "deducted", 2880)
    await talk(setup, line, mobile)
    data, mail = await inbox.of("plan_used")
    assert (data["percent"], data["of_s"], data["line"]) == (80, 3600, line)
    assert data["used_s"] >= 2880  # the usage at the time of reading
    assert "80 % du forfait mobiles" in mail
    await talk(setup, line, mobile)  # reported once a month
    setup.redis.hset(key, "deducted", 3599)
    await talk(setup, line, mobile)

    def steps() -> list[int]:
        of = receiver.of(f"/{inbox.fleet}")
        return [p.json["data"]["percent"] for p in of if p.json["type"] == "plan_used"]

    async with asyncio.timeout(within(10)):
        while len(steps()) < 2:
            await asyncio.sleep(0.05)
    assert steps() == [80, 100]


async def test_a_cap_that_is_used_up_and_one_that_is_lowered(
    setup: Setup, notifier: Notifier, receiver: Receiver, smtp: SmtpServer
) -> None:
    inbox = Inbox(setup, receiver, smtp, cap_seconds=1000)
    mobile = numbers.mobile_number()
    line = setup.line(fleet=inbox.fleet, forwards={"unconditional": to_number(mobile)})
    setup.redis.hset(f"usage:fleet:{inbox.fleet}:{this_month()}", "out_of_plan", 850)
    await setup.settle(fleets=True)
    await talk(setup, line, mobile)
    data, mail = await inbox.of("cap_used")
    assert (data["percent"], data["of_s"], "line" in data) == (80, 1000, False)
    assert "80 % du plafond mensuel de Acme" in mail
    document = json.loads(str(setup.redis.get(f"fleet:{inbox.fleet}")))
    file = setup.running_engine.directory / "fleet.json"
    file.write_text(json.dumps({**document, "cap_seconds": 800}))
    done = await asyncio.to_thread(notifier.command, "fleet", "set", str(file))
    assert done.returncode == 0, done.stderr

    def steps() -> list[tuple[int, int]]:
        of = [p.json for p in receiver.of(f"/{inbox.fleet}") if p.json["type"] == "cap_used"]
        return [(each["data"]["percent"], each["data"]["of_s"]) for each in of]

    async with asyncio.timeout(within(10)):
        while len(steps()) < 2:
            await asyncio.sleep(0.05)
    assert steps() == [(80, 1000), (100, 800)]


async def test_a_forward_that_does_not_happen(setup: Setup, inbox: Inbox) -> None:
    """Its target is a premium number that another program wrote; then it is corrected."""
    line = setup.line(fleet=inbox.fleet, forwards={"unconditional": to_number("+33899123456")})
    for _ in range(2):
        call = await setup.call(line)
        assert (await call.final()).code == 480
        await setup.ended(call.call_id, condition="none")
    data, mail = await inbox.of("forward_prevented")
    assert (data["line"], data["condition"], data["reason"]) == (line, "unconditional", "premium")
    assert data["calls"] >= 1
    assert "sa destination est un numéro surtaxé" in mail
    field = f"{line} unconditional"
    assert setup.redis.hexists("{notify}:prevented", field)
    mobile = numbers.mobile_number()
    setup.change(line, forwards={"unconditional": to_number(mobile)})
    await setup.settle()
    await talk(setup, line, mobile, 0)
    async with asyncio.timeout(within(10)):
        while setup.redis.hexists("{notify}:prevented", field):
            await asyncio.sleep(0.05)
    assert inbox.events().count("forward_prevented") == 1


async def test_the_commands_test_and_secret(
    setup: Setup, notifier: Notifier, receiver: Receiver, smtp: SmtpServer
) -> None:
    inbox = Inbox(setup, receiver, smtp)

    async def command(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(notifier.command, "notify", *arguments)
        return done.returncode, done.stdout, done.stderr

    status, out, _ = await command("test", inbox.fleet, "--json")
    results = json.loads(out)
    assert status == 0
    assert [(r["channel"], r["result"]) for r in results] == [
        ("webhook", "delivered"), ("email", "delivered"),
    ]  # fmt: skip
    await inbox.of("test")
    _, secret, _ = await command("secret", inbox.fleet)
    _, again, _ = await command("secret", inbox.fleet)
    assert secret == again
    _, new, _ = await command("secret", inbox.fleet, "--new")
    assert new != secret
    receiver.got.clear()
    line = setup.line(fleet=inbox.fleet)
    assert (await command("test", line))[::2] == (
        2, f"renvoi: line:{line}: has no notify in its document; "
        f"its fleet has: renvoi notify test {inbox.fleet}\n",
    )  # fmt: skip
    await command("test", inbox.fleet)
    (posted,) = receiver.of(f"/{inbox.fleet}")
    assert posted.is_signed_with(secret.strip())
    assert posted.is_signed_with(new.strip())
    assert (await command("test", numbers.line_number()))[0] == 2
    assert (await command("secret", "nobody"))[0] == 2
    dead = {"webhook": {"url": "http://127.0.0.1:1/"}}
    setup.change(line, notify=dead)
    status, out, _ = await command("test", line)
    assert status == 1
    assert "failed (connection)" in out
    assert await command("waiting") == (0, "nothing waits\n", "")


async def test_what_holds_a_secret_shows_it_to_nobody(
    setup: Setup, inbox: Inbox, notifier: Notifier
) -> None:
    line = setup.line(fleet=inbox.fleet, notify={"webhook": {"url": "http://127.0.0.1:1/"}})
    await asyncio.to_thread(notifier.command, "notify", "test", line)
    held = setup.redis.get(f"notify:secret:line:{line}")
    assert isinstance(held, str)
    secret = json.loads(held)["secret"]
    for command in (
        ("line", "show", line, "--json"), ("line", "export"), ("fleet", "show", inbox.fleet),
        ("audit", "--json"), ("notify", "waiting", "--json"),
    ):  # fmt: skip
        done = await asyncio.to_thread(notifier.command, *command)
        assert done.returncode == 0, (command, done.stderr)
        assert secret not in done.stdout + done.stderr
    shown = await asyncio.to_thread(notifier.command, "line", "show", line)
    assert "notifies       webhook 127.0.0.1: forward_changed, missed_call, " in shown.stdout
    shown = await asyncio.to_thread(notifier.command, "fleet", "show", inbox.fleet)
    assert f"webhook 127.0.0.1, {inbox.address}: forward_changed, missed_call, " in shown.stdout
    assert secret not in notifier.log + setup.engine.log
