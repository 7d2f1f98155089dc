"""Numbers as people, programs and SIP peers write them."""

from __future__ import annotations

import pytest

from rules.numbers import NumberError, Numbering

FRANCE = Numbering("FR")


@pytest.mark.parametrize(
    ("text", "e164"),
    [
        ("+33972101001", "+33972101001"),
        ("0033972101001", "+33972101001"),
        ("0972101001", "+33972101001"),
        ("09 72 10 10 01", "+33972101001"),
        ("09.72.10.10.01", "+33972101001"),
        ("09-72-10-10-01", "+33972101001"),
        ("+33 (0)9 72 10 10 01", "+33972101001"),
        ("+330972101001", "+33972101001"),
        ("09\u00a072\u202f10 10 01", "+33972101001"),
        ("tel:+33-972-101-001", "+33972101001"),
        ("tel:0972101001;phone-context=+33", "+33972101001"),
        ("sip:+33972101001@example.net", "+33972101001"),
        ("sip:+33972101001;npdi@example.net;user=phone", "+33972101001"),
        ("SIPS:%2B33972101001@example.net", "+33972101001"),
        ("+442079460000", "+442079460000"),
        ("+39061234567", "+39061234567"),
    ],
)
def test_every_way_of_writing_comes_to_e164(text: str, e164: str) -> None:
    assert FRANCE.normalise(text) == e164
    assert FRANCE.quick(text) == e164


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no telephone number"),
        ("+", "is no telephone number"),
        ("anonymous", "is no telephone number"),
        ("0800 FLEUR", "is no telephone number"),
        ("+33972101001\r\nX: y", "is no telephone number"),
        ("+33٠٧٢١٠١٠٠١", "is no telephone number"),
        ("097210100", "is too short to be a number"),
        ("+339721010011", "is too long to be a number"),
        ("+999123456789", "is no telephone number"),
        ("112", "is an emergency number"),
        ("3900", "is a short number"),
        ("9" * 500, "is too long to be a number"),
    ],
)
def test_what_is_no_number_is_refused_with_its_value(text: str, problem: str) -> None:
    with pytest.raises(NumberError) as refusal:
        FRANCE.normalise(text)
    assert refusal.value.problem == problem
    assert text.startswith(refusal.value.value)
    assert FRANCE.quick(text) is None


@pytest.mark.parametrize(
    ("number", "mobile"),
    [
        ("+33612345678", True),
        ("+33712345678", True),
        ("+33700000001", True),  # a range of 07 the library does not know: 07 is mobile
        ("+33972101001", False),
        ("+33123456789", False),
        ("+41791234567", True),
        ("+442079460000", False),
    ],
)
def test_mobiles(number: str, mobile: bool) -> None:
    assert FRANCE.is_mobile(number) is mobile


@pytest.mark.parametrize(
    ("number", "refused"),
    [
        ("+33899123456", "premium"),
        ("0892 12 34 56", "premium"),
        ("+19002345678", "premium"),
        ("15", "emergency"),
        ("+33112", "emergency"),
        ("118218", "short"),
        ("+33612345678", None),
        ("+33800123456", None),
    ],
)
def test_what_can_never_be_a_target(number: str, refused: str | None) -> None:
    assert FRANCE.refusal(number) == refused


def test_another_country_reads_its_own_national_numbers() -> None:
    assert Numbering("GB").normalise("020 7946 0000") == "+442079460000"


def test_an_unknown_country_is_named() -> None:
    with pytest.raises(ValueError, match="'ZZ'"):
        Numbering("ZZ")


def test_peers_cannot_fill_the_memory() -> None:
    numbering = Numbering("FR")
    assert numbering.quick("1" * 10_000) is None
    assert numbering._quick.cache_info().currsize == 0
    assert numbering._quick.cache_info().maxsize is not None
