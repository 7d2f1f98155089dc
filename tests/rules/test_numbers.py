"""Numbers in the forms that people, programs and SIP peers use."""

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
        ("+33700000001", True),  # a range of 07 that the library lacks: 07 is mobile
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


@pytest.mark.parametrize(
    ("number", "refused"),
    [
        # a premium number with too many digits, or in any plan of its country code
        ("+4990012345670", "premium"),
        ("+499001234567890", "premium"),
        ("+49 (0)900 1234567 0", "premium"),
        ("+61190012345678", "premium"),
        ("+448701234567", "premium"),
        ("+41900123456", "premium"),
        ("+3906899123456", None),  # Rome, not 899
        ("+979123456789", "premium"),
        ("+491805123456", "shared_cost"),
        ("+33811123456", "shared_cost"),
        ("+41840123456", "shared_cost"),
        ("+80812345678", "shared_cost"),
        # short and directory services behind a country code
        ("+4911833", "short"),
        ("+49118331", "short"),
        ("+33118218", "short"),
        ("+333900", "short"),
        ("+331013", "short"),
        ("116000", "short"),
        ("0112", "short"),
        ("tel:112", "emergency"),
        ("sip:17@example.net", "emergency"),
        ("+1911", "emergency"),
        # no such range, or a wrong number of digits
        ("+33700000001", "invalid"),
        ("+19762345678", "invalid"),
        ("+43118877", "invalid"),
        ("+33118218000", "invalid"),  # a directory service with zeros: 01 18 is not assigned
        ("+33112000000", "invalid"),
        ("+61190012345", "invalid"),
        ("+88213123456", "invalid"),
        # complete numbers that begin like a short one, and toll-free ones
        ("+441189876543", None),
        ("+390891234567", None),
        ("+18005551234", None),
        ("+33806123456", None),
    ],
)
def test_every_kind_that_is_refused(number: str, refused: str | None) -> None:
    assert FRANCE.refusal(number) == refused


def test_what_is_dialled_is_what_was_checked() -> None:
    """In Brazil 90 before a number is a collect call, and a zero may follow."""
    found = FRANCE.recognise("+559005441956778").number
    assert FRANCE.recognise(found) == FRANCE.recognise("+559005441956778")


def test_further_digits_do_not_change_the_kind_of_a_premium_number() -> None:
    """With any further digits, as long as the library accepts a number."""
    for premium in ("+499001234567", "+33899123456", "+19002345678", "+3531580123456"):
        base = FRANCE.refusal(premium)
        for digits in ("0", "12", "345", "6789"):
            try:
                assert FRANCE.refusal(premium + digits) in (base, "premium"), premium + digits
            except NumberError:
                continue


@pytest.mark.parametrize(
    ("number", "country", "tariff", "mobile"),
    [
        ("+33612345678", "FR", "", True),
        ("+33123456789", "FR", "", False),
        ("+262692123456", "RE", "", True),
        ("+590690123456", "GP", "", True),
        ("+447911123456", "GG", "", True),  # Guernsey shares Britain's code
        ("+12845412345", "VG", "", True),
        ("+12129762345", "US", "", False),
        ("+447012345678", "GB", "personal", False),
        ("+4970012345678", "DE", "personal", False),
        ("+878101234567890", "001", "personal", False),
        ("+870773111632", "001", "satellite", True),
        ("+8816123456789", "001", "satellite", True),
        ("+8821612345678", "001", "satellite", False),
        ("+883510000000001", "001", "satellite", False),
        ("+80012345678", "001", "international_network", False),
        ("+88812345678901", "001", "international_network", False),
    ],
)
def test_countries_and_tariffs(number: str, country: str, tariff: str, mobile: bool) -> None:
    assert tuple(FRANCE.recognise(number)) == (number, mobile, None, country, tariff)


def test_a_range_that_is_newer_than_the_data_can_be_admitted() -> None:
    numbering = Numbering("FR", also_valid=["+33700", "+49900", "+33"])
    assert numbering.refusal("+33700000001") is None
    assert numbering.refusal("07 00 00 00 01") is None
    long = numbering.recognise("+33700123456789")  # 14 digits
    assert (long.number, long.mobile) == ("+33700123456789", True)
    for number, refused in (
        ("+4990012345670", "premium"),
        ("+33899123456", "premium"),
        ("+33811123456", "shared_cost"),
        ("+33112", "emergency"),
        ("+333900", "short"),
    ):
        assert numbering.refusal(number) == refused
    with pytest.raises(NumberError):
        numbering.recognise("+3370012345678901")  # 16 digits are no E.164


def test_countries_that_are_not_listed_are_refused() -> None:
    numbering = Numbering("FR", forward_countries=["FR", "BE", "001"])
    for number, refused in (
        ("+33612345678", None),
        ("+3227901234", None),
        ("+8816123456789", None),
        ("+447400123456", "country"),
        ("+262692123456", "country"),
        ("+499001234567", "premium"),  # the kind has precedence over the country
    ):
        assert numbering.refusal(number) == refused
    assert Numbering("FR", forward_countries=[]).refusal("+33612345678") == "country"


@pytest.mark.parametrize(
    "text", ["+33612345678;ext=12", "tel:+33612345678;EXT=1", "0612345678;isub=4"]
)
def test_a_target_has_no_extension(text: str) -> None:
    with pytest.raises(NumberError, match="extension"):
        FRANCE.recognise(text)


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("+33972101001", "FR"),
        ("+3227901234", "BE"),
        ("+33700000001", "FR"),
        ("+8816123456789", "FR"),  # no country of its own
    ],
)
def test_the_country_of_a_line(number: str, country: str) -> None:
    assert FRANCE.country_of(number) == country


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
