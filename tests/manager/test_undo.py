"""A change is shown with before and after, and can be undone: from its page, and from the
history."""

from __future__ import annotations

import html
import re

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, text
from tests.manager.site import Manager, fill_log, read, write

LINE, PEER, OTHER = (f"+3397210100{n}" for n in (1, 2, 9))
FORM = f"/lines/{LINE}/forwards"
BEFORE = {"busy": {"on": True, "to": {"kind": "number", "number": PEER}}}


@pytest.fixture(scope="module")
def marie(manager: Manager) -> Visitor:
    for name, fleet in (("marie", "acme"), ("gil", "globex")):
        manager.command("manager", "account", "add", name, "--fleet", fleet, typed=PASSWORD + "\n")
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in client.scan_iter("audit:*"):
        client.delete(key)
    write(client, LINE, label="Accueil", offer={"mobile": "unlimited"}, forwards=BEFORE)
    write(client, PEER, label="Atelier")
    write(client, OTHER, fleet="globex", label="Secret")


def link(page: str, words: str) -> str:
    """The target of the link with this text."""
    found = re.search(rf'<a [^>]*href="([^"]+)"[^>]*>{words}', page)
    assert found is not None, words
    return html.unescape(found[1])


def turns_off_busy(marie: Visitor) -> str:
    """Turn the busy forward off; returns the page."""
    check = marie.submit(marie.get(FORM), FORM, step="check", busy__on=None)
    return marie.submit(check, FORM, step="validate").text


def test_the_panel_shows_before_and_after_and_nothing_without_a_change(marie: Visitor) -> None:
    page = text(marie.get(FORM))
    assert "Rien ne change pour l’instant." in page
    assert "Gratuit" not in page
    assert "Numéro ou ligne Atelier Une ligne du parc" in page  # the name beside the number
    shown = text(marie.submit(marie.get(FORM), FORM, step="check", busy__number="0612345678"))
    was, now = "ligne 09 72 10 10 02 (Atelier)", "numéro 06 12 34 56 78"
    assert f"Occupée : {was} → {now} Hors forfait" in shown
    assert "Pas de réponse :" not in shown


def test_undo_from_the_page_after_a_change(marie: Visitor, client: redis.Redis) -> None:
    done = turns_off_busy(marie)
    assert read(client, LINE)["forwards"]["busy"]["on"] is False
    form = marie.get(link(done, "Annuler ce changement"))
    shown = text(form)
    assert "tels qu’ils étaient avant ce changement" in shown
    assert "Occupée : Désactivé → ligne 09 72 10 10 02 (Atelier) Gratuit" in shown
    assert read(client, LINE)["forwards"]["busy"]["on"] is False  # unchanged until Valider
    marie.submit(form, FORM, step="validate")
    assert read(client, LINE)["forwards"] == BEFORE


def test_restore_from_the_history(marie: Visitor, client: redis.Redis) -> None:
    turns_off_busy(marie)
    page = marie.get(f"/lines/{LINE}").text
    form = marie.get(link(page, "Rétablir l’état d’avant"))
    marie.submit(form, FORM, step="validate")
    assert read(client, LINE)["forwards"] == BEFORE
    assert client.xlen("audit:acme") == 2


def test_a_history_that_is_not_read_to_its_begin_says_so(
    marie: Visitor, client: redis.Redis
) -> None:
    turns_off_busy(marie)
    fill_log(client, PEER)
    assert "Il peut y en avoir de plus anciens" in text(marie.get(f"/lines/{LINE}"))
    client.delete("audit:acme")
    assert "Aucun changement pour l’instant" in text(marie.get(f"/lines/{LINE}"))


@pytest.mark.parametrize("query", ["restore={}", "undo={}", "restore=x", "restore=*", "undo=x"])
def test_a_change_of_another_line_restores_nothing(
    manager: Manager, marie: Visitor, client: redis.Redis, query: str
) -> None:
    done = turns_off_busy(marie)
    entries = client.xrange("audit:acme")
    assert entries
    entry = entries[0][0]
    token = link(done, "Annuler ce changement").partition("undo=")[2]
    asked = query.format(token if "undo" in query else entry)
    peer = marie.get(f"/lines/{PEER}/forwards?{asked}")
    assert peer.status == 200
    assert "avant ce changement" not in text(peer)
    gil = Visitor(manager)
    gil.log_in("gil")
    assert gil.get(f"{FORM}?{asked}").status == 404
    theirs = gil.get(f"/lines/{OTHER}/forwards?{asked}")
    assert "avant ce changement" not in text(theirs)
