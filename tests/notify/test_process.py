"""A real `renvoi notify` between a real Redis, a real HTTP server and a real SMTP server."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.notify.conftest import Start
from tests.notify.site import (
    Notifier,
    Receiver,
    SmtpServer,
    add_record,
    certificate,
    status,
    until,
    write_fleet,
    write_line,
)
from tests.patience import within
from tests.scenarios.processes import RedisServer
from tests.scenarios.sipp import HOST, free_port

LINE = "+33972101001"


def asks(client: redis.Redis, url: str, **more: object) -> None:
    """Fleet acme wants to be notified at a URL."""
    write_fleet(client, "acme", {"webhook": {"url": url}, **more})
    write_line(client, LINE, "acme", label="Accueil")


def test_a_missed_call_is_posted_signed_and_mailed(
    client: redis.Redis, receiver: Receiver, smtp: SmtpServer, start: Start
) -> None:
    asks(client, receiver.url(), email=["marie@example.com"], language="en")
    notifier = start(smtp_host=HOST, smtp_port=smtp.port, smtp_security="none")
    notifier.active()
    call = add_record(client, LINE)
    posted = receiver.one("missed_call")
    secret = notifier.command("notify", "secret", "acme").stdout.strip()
    assert posted.is_signed_with(secret)
    assert posted.headers["content-type"] == "application/json"
    data = posted.json["data"]
    assert data | {"received": 0, "ended": 0} == {
        "fleet": "acme", "fleet_label": "", "line": LINE, "label": "Accueil", "call": call,
        "caller": "+33140000000", "withheld": False, "outcome": "no_answer", "voicemail": False,
        "condition": "none", "received": 0, "ended": 0, "rang_s": 11,
    }  # fmt: skip
    mail = smtp.one("marie@example.com", "missed_call")
    assert mail["Subject"] == "Missed call from 01 40 00 00 00 to Accueil (09 72 10 10 01)"
    assert mail["From"] == "Renvoi <renvoi@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "nobody picked up" in mail.get_content()

    def sent(channel: str) -> float:
        return notifier.metric("renvoi_notify_sent_total", channel=channel, event="missed_call")

    until(lambda: sent("webhook") == sent("email") == 1, "both are counted")
    until(lambda: client.hlen("{notify}:waiting") == 0, "nothing waits")


def test_nothing_is_off_by_default_and_what_is_not_missed_is_not_notified(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    write_line(client, "+33972101002", "other")
    notifier = start()
    notifier.active()
    add_record(client, "+33972101002")  # a fleet without notifications
    add_record(client, "+33972101009")  # no line of ours
    add_record(client, LINE, outcome="answered", destination="line")
    add_record(client, LINE, outcome="answered", destination="number", forwards='[{"line": "x"}]')
    add_record(client, LINE, outcome="rejected", code=403)
    add_record(client, LINE, outcome="answered", destination="voicemail", caller=LINE)
    client.xadd("cdr", {"of": "another program"})
    last = add_record(client, LINE)
    assert receiver.one("missed_call").json["data"]["call"] == last
    assert len(receiver.got) == 1


def test_a_record_that_is_written_again_is_known_by_its_message(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    """As engines do when Redis has lost it: the entry is another one, the call is not."""
    asks(client, receiver.url())
    start().active()
    add_record(client, LINE, id="call-1")
    until(lambda: len(receiver.got) == 1, "it is posted")
    until(lambda: client.hlen("{notify}:waiting") == 0, "nothing waits")
    add_record(client, LINE, id="call-1")
    until(lambda: len(receiver.got) == 2, "it is posted again")
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_withheld_caller_is_in_no_message(
    client: redis.Redis, receiver: Receiver, smtp: SmtpServer, start: Start
) -> None:
    hidden = "+33611223344"
    asks(client, receiver.url(), email=["marie@example.com"])
    notifier = start(smtp_host=HOST, smtp_port=smtp.port, smtp_security="none")
    notifier.active()
    add_record(client, LINE, caller="", caller_withheld=hidden)
    posted = receiver.one("missed_call")
    assert (posted.json["data"]["caller"], posted.json["data"]["withheld"]) == (None, True)
    mail = smtp.one("marie@example.com", "missed_call")
    assert "numéro masqué" in mail["Subject"]
    for text in (
        posted.body.decode(),
        mail.as_string(),
        notifier.log,
        repr(client.dump("cdr"))[:0],
    ):
        assert hidden not in text
        assert hidden[3:] not in text


def test_the_first_process_does_not_send_old_events(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    add_record(client, LINE)
    time.sleep(0.01)  # stream ids have a resolution of milliseconds
    notifier = start()
    notifier.active()
    new = add_record(client, LINE)
    assert receiver.one("missed_call").json["data"]["call"] == new


def test_a_restart_loses_nothing_and_repeats_nothing(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    notifier = start()
    notifier.active()
    first = [add_record(client, LINE) for _ in range(5)]
    until(lambda: len(receiver.got) == 5, "the first five")
    assert notifier.stop() == 0
    then = [add_record(client, LINE) for _ in range(600)]  # more than one page
    notifier.start()
    until(lambda: len(receiver.got) >= 605, "all")
    assert [posted.json["data"]["call"] for posted in receiver.got] == first + then


def test_what_a_killed_process_left_waiting_is_sent_by_the_next(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    receiver.answers["/hook"] = status(503)
    asks(client, receiver.url())
    notifier = start()
    notifier.active()
    calls = {add_record(client, LINE) for _ in range(20)}
    until(lambda: client.hlen("{notify}:waiting") == 20, "they wait")
    shown = notifier.command("notify", "waiting", "--json")
    (waiting,) = json.loads(shown.stdout)
    assert (waiting["owner"], waiting["waiting"]) == ("fleet:acme", 20)
    until(lambda: len(receiver.got) > 1, "attempts")
    notifier.kill()
    refused = {posted.id for posted in receiver.got}
    receiver.got.clear()
    del receiver.answers["/hook"]
    client.delete("{notify}:lease")  # instead of waiting for its expiry
    notifier.start()
    until(lambda: client.hlen("{notify}:waiting") == 0, "all are sent")
    assert {posted.json["data"]["call"] for posted in receiver.got} == calls
    assert refused <= {posted.id for posted in receiver.got}  # the ids show the repeats


def test_a_message_of_a_newer_version_waits_for_it_and_blocks_none(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    """After a rollback, its event is not known here."""
    asks(client, receiver.url())
    notifier = start()
    notifier.active()
    notifier.stop()
    newer = {
        "id": "msg_newer", "owner": "fleet:acme", "channel": "webhook", "target": receiver.url(),
        "event": "line_painted", "at": time.time() - 60, "data": {},
    }  # fmt: skip
    client.hset("{notify}:waiting", "msg_newer", json.dumps(newer))
    notifier = start()
    notifier.active()
    add_record(client, LINE)
    receiver.one("missed_call")
    until(lambda: client.hkeys("{notify}:waiting") == ["msg_newer"], "the other one is sent")
    assert "Traceback" not in notifier.log


def test_of_two_processes_one_sends_and_the_other_takes_over(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    first = start()
    first.active()
    second = start()
    assert second.get("/readyz") == "ready, but another process is the active one\n"
    calls = [add_record(client, LINE) for _ in range(50)]
    until(lambda: len(receiver.got) >= 50, "all")
    assert second.metric("renvoi_notify_active") == 0
    first.stop()
    second.active()
    calls += [add_record(client, LINE) for _ in range(50)]
    until(lambda: len(receiver.got) >= 100, "all")
    assert [posted.json["data"]["call"] for posted in receiver.got] == calls


def test_a_process_that_hung_and_lost_its_lease_writes_nothing(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    first = start()
    first.active()
    second = start()
    first.signal(signal.SIGSTOP)
    client.delete("{notify}:lease")  # as when it expires
    second.active()
    calls = [add_record(client, LINE) for _ in range(50)]
    until(lambda: len(receiver.got) >= 50, "all")
    first.signal(signal.SIGCONT)
    until(lambda: first.metric("renvoi_notify_active") == 0, "the first is no longer active")
    calls += [add_record(client, LINE) for _ in range(10)]
    until(lambda: len(receiver.got) >= 60, "all")
    assert [posted.json["data"]["call"] for posted in receiver.got] == calls


def test_redis_may_be_away(
    server: RedisServer, client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    asks(client, receiver.url())
    notifier = start()
    notifier.active()
    add_record(client, LINE)
    until(lambda: len(receiver.got) == 1, "the first")
    server.kill()
    until(lambda: notifier.get("/readyz").startswith("503 redis"), "it says so")
    server.start()
    add_record(client, LINE)
    until(lambda: len(receiver.got) == 2, "the second", within(10))
    assert notifier.events("notify.redis_away")


# Targets


def test_a_dead_and_a_slow_target_delay_no_other(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    def slow(_handler: object) -> None:
        receiver.closing.wait()

    gone = free_port(socket.SOCK_STREAM)
    for n in range(40):
        url = receiver.url("/slow") + str(n) if n % 2 else f"http://{HOST}:{gone}/{n}"
        receiver.answers[f"/slow{n}"] = slow
        write_fleet(client, f"f{n}", {"webhook": {"url": url}})
        write_line(client, f"+3397210{2000 + n}", f"f{n}")
    asks(client, receiver.url())
    notifier = start(timeout_s=30)
    notifier.active()
    for n in range(40):
        add_record(client, f"+3397210{2000 + n}")
    until(lambda: notifier.metric("renvoi_notify_failing_targets") >= 20, "the dead ones fail")
    calls = [add_record(client, LINE) for _ in range(10)]
    until(lambda: len(receiver.of()) == 10, "the others arrive", within(8))
    assert [posted.json["data"]["call"] for posted in receiver.of()] == calls
    (failed,) = {event["reason"] for event in notifier.events("notify.failed")}
    assert failed == "connection"


def test_a_message_that_is_always_refused_does_not_hold_up_the_others(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    bad: list[str] = []

    def answer(handler: Any) -> None:
        data = handler.posted.json["data"]
        status(500 if data["call"] in bad else 204)(handler)

    receiver.answers["/hook"] = answer
    asks(client, receiver.url())
    notifier = start(give_up_s=4)
    notifier.active()
    bad.append(f"test-refused-{time.time()}")
    add_record(client, LINE, id=bad[0])
    until(lambda: len(receiver.got) >= 2, "it is tried again")
    calls = {add_record(client, LINE) for _ in range(3)}
    until(lambda: calls <= {p.json["data"]["call"] for p in receiver.got}, "the others")
    until(
        lambda: notifier.metric("renvoi_notify_dropped_total", channel="webhook", why="expired"),
        "it is given up", within(10),
    )  # fmt: skip
    until(lambda: client.hlen("{notify}:waiting") == 0, "nothing waits")
    assert len({p.id for p in receiver.got if p.json["data"]["call"] == bad[0]}) == 1


def test_redirects_are_not_followed_and_private_addresses_not_reached(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    receiver.answers["/away"] = status(302, Location=receiver.url("/followed"))
    receiver.answers["/meta"] = status(307, Location="http://169.254.169.254/latest/meta-data/")
    targets = [
        receiver.url("/away"),
        receiver.url("/meta"),
        f"http://localhost:{receiver.port}/name",  # a name that leads to ::1 too, or nowhere
        "http://169.254.169.254/latest/meta-data/",
        f"http://[::ffff:127.0.0.2]:{receiver.port}/mapped",
        "http://10.1.2.3/",
        "http://[fe80::1]/",
    ]
    for n, url in enumerate(targets):
        write_fleet(client, f"f{n}", {"webhook": {"url": url}})
        write_line(client, f"+3397210{2000 + n}", f"f{n}")
    notifier = start(allow_networks=["127.0.0.1/32"], retry_s=60)
    notifier.active()
    for n in range(len(targets)):
        add_record(client, f"+3397210{2000 + n}")
    certain = {f"fleet:f{n}" for n in (0, 1, 3, 4, 5, 6)}
    reasons: dict[str, str] = {}

    def all_have_failed() -> bool:
        reasons.update((e["owner"], e["reason"]) for e in notifier.events("notify.failed"))
        return certain <= reasons.keys()

    until(all_have_failed, notifier.log)
    assert [reasons[f"fleet:f{n}"] for n in (0, 1)] == ["status", "status"]
    assert [reasons[f"fleet:f{n}"] for n in (3, 4, 5, 6)] == ["forbidden"] * 4
    assert {posted.path for posted in receiver.got} <= {"/away", "/meta", "/name"}


@pytest.mark.parametrize(
    "kind", ["endless", "garbage", "drip", "informational", "long_head", "cut"]
)
def test_hostile_answers_are_bounded(
    client: redis.Redis, receiver: Receiver, start: Start, kind: str
) -> None:
    def answer(handler: object) -> None:
        out = handler.wfile  # type: ignore[attr-defined]
        handler.close_connection = True  # type: ignore[attr-defined]
        if kind == "endless":  # the head is valid: delivered, the body does not matter
            out.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not receiver.closing.is_set():
                out.write(b"1000\r\n" + bytes(4096) + b"\r\n")
        elif kind == "garbage":
            out.write(bytes(range(256)) * 100)
        elif kind == "drip":
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X" * 1000:
                out.write(bytes([byte]))
                if receiver.closing.wait(0.05):
                    return
        elif kind == "informational":
            for _ in range(1000):
                out.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        elif kind == "long_head":
            while not receiver.closing.is_set():
                out.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536)
        else:
            out.write(b"HTTP/1.1 200")

    receiver.answers["/hostile"] = answer
    asks(client, receiver.url("/hostile"))
    notifier = start(retry_s=60, timeout_s=1 if kind == "drip" else 15)
    notifier.active()
    add_record(client, LINE)
    if kind == "endless":
        until(lambda: client.hlen("{notify}:waiting") == 0 and receiver.got, "it is delivered")
        return
    (event,) = until(lambda: notifier.events("notify.failed"), "it fails")
    assert event["reason"] == ("timeout" if kind == "drip" else "protocol")


def test_https_needs_a_certificate_that_is_trusted(
    client: redis.Redis, start: Start, tmp_path: Path
) -> None:
    context, trusted = certificate(tmp_path)
    receiver = Receiver(context)
    try:
        asks(client, receiver.url())
        notifier = start()
        notifier.active()
        add_record(client, LINE)
        (event,) = until(lambda: notifier.events("notify.failed"), "it fails")
        assert event["reason"] == "tls"
        assert receiver.got == []
        notifier.stop()
        start(tls_ca=str(trusted))
        receiver.one("missed_call")
    finally:
        receiver.close()


def test_a_target_has_a_bounded_queue(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    receiver.answers["/hook"] = status(503)
    asks(client, receiver.url())
    notifier = start(queue=7)
    notifier.active()
    for _ in range(20):
        add_record(client, LINE)
    until(
        lambda: notifier.metric("renvoi_notify_dropped_total", channel="webhook", why="full") == 13,
        "the others are dropped",
    )
    assert client.hlen("{notify}:waiting") == 7
    assert notifier.metric("renvoi_notify_waiting") == 7
    until(lambda: notifier.metric("renvoi_notify_oldest_seconds") > 0, "the age of the oldest")


def test_what_is_no_longer_wanted_is_dropped_and_410_ends_a_message(
    client: redis.Redis, receiver: Receiver, start: Start
) -> None:
    receiver.answers["/hook"] = status(503)
    receiver.answers["/gone"] = status(410)
    asks(client, receiver.url())
    notifier = start()
    notifier.active()
    add_record(client, LINE)
    until(lambda: receiver.of("/hook"), "an attempt")
    asks(client, receiver.url("/gone"))

    def dropped(why: str) -> float:
        return notifier.metric("renvoi_notify_dropped_total", channel="webhook", why=why)

    until(lambda: dropped("withdrawn") == 1, "withdrawn")
    add_record(client, LINE)
    until(lambda: dropped("refused") == 1, "refused")
    assert len(receiver.of("/gone")) == 1


# E-mail


def test_mails_by_starttls_with_a_password(
    client: redis.Redis, start: Start, server: RedisServer, tmp_path: Path
) -> None:
    context, trusted = certificate(tmp_path)
    smtp = SmtpServer(context, auth=True)
    try:
        write_fleet(client, "acme", {"email": ["marie@example.com", "gone@example.com",
                                               "later@example.com"]})  # fmt: skip
        write_line(client, LINE, "acme")
        smtp.refuses["gone@example.com"] = "550 no such mailbox"
        smtp.refuses["later@example.com"] = "451 greylisted"
        notifier = Notifier(
            tmp_path, server.url, smtp_host=HOST, smtp_port=smtp.port, smtp_user=smtp.USER,
            tls_ca=str(trusted), timeout_s=15,
        )  # fmt: skip
        notifier.environment["RENVOI_SMTP_PASSWORD"] = smtp.PASSWORD
        notifier.start()
        try:
            notifier.active()
            add_record(client, LINE)
            smtp.one("marie@example.com", "missed_call")
            until(
                lambda: notifier.metric(
                    "renvoi_notify_dropped_total", channel="email", why="refused"
                ),
                "550 is final",
            )
            until(
                lambda: notifier.metric(
                    "renvoi_notify_failed_total", channel="email", reason="smtp"
                ) > 2,
                "451 is tried again",
            )  # fmt: skip
            del smtp.refuses["later@example.com"]
            smtp.one("later@example.com", "missed_call")
            assert smtp.logins >= 3
            assert smtp.PASSWORD not in notifier.log
        finally:
            assert notifier.stop() == 0, notifier.log
        assert "Traceback" not in notifier.log
    finally:
        smtp.close()


def test_a_mailbox_gets_so_many_an_hour(
    client: redis.Redis, smtp: SmtpServer, start: Start
) -> None:
    write_fleet(client, "acme", {"email": ["marie@example.com"]})
    write_line(client, LINE, "acme")
    notifier = start(smtp_host=HOST, smtp_port=smtp.port, smtp_security="none", mails_per_hour=5)
    notifier.active()
    for _ in range(12):
        add_record(client, LINE)
    until(
        lambda: notifier.metric("renvoi_notify_dropped_total", channel="email", why="rate") == 7,
        "the others are dropped",
    )
    until(lambda: len(smtp.messages) >= 5, "five arrive")
    assert len(smtp.messages) == 5
    assert len({message["Message-ID"] for message in smtp.messages}) == 5


def test_without_an_smtp_server_mails_are_dropped_and_counted(
    client: redis.Redis, start: Start
) -> None:
    write_fleet(client, "acme", {"email": ["marie@example.com"]})
    write_line(client, LINE, "acme")
    notifier = start()
    notifier.active()
    add_record(client, LINE)
    until(
        lambda: notifier.metric("renvoi_notify_dropped_total", channel="email", why="off") == 1,
        "off",
    )


def test_a_user_with_minimal_rights(
    client: redis.Redis, running: RedisServer, receiver: Receiver, tmp_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "notifications.md").read_text()
    words = page.partition("ACL SETUSER notify ")[2].partition("```")[0].split()
    if int(client.info("server")["redis_version"].split(".")[0]) < 7:
        words = ["resetchannels", *(word.replace("%R~", "~") for word in words)]
    acl: Any = client
    acl.execute_command("ACL", "SETUSER", "notify", "reset", *words)
    asks(client, receiver.url())
    path = running.url.removeprefix("unix://")
    notifier = Notifier(tmp_path, f"unix://notify:secret@{path}")
    notifier.start()
    try:
        notifier.active()
        call = add_record(client, LINE)
        assert receiver.one("missed_call").json["data"]["call"] == call
        until(lambda: client.hlen("{notify}:waiting") == 0, "nothing waits")
        assert "secret" not in notifier.log
    finally:
        assert notifier.stop() == 0, notifier.log
        acl.execute_command("ACL", "DELUSER", "notify")
    assert not notifier.events("notify.redis_away"), notifier.log
