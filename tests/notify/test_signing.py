"""Signatures, by the example of the specification, and secrets that are replaced."""

from __future__ import annotations

from notify.signing import OVERLAP_S, Secret, encode_secret, new_secret, read_secret, signed

# The example of the reference libraries (standard-webhooks, javascript/src/index.test.ts).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_example_of_the_specification() -> None:
    assert signed(Secret(SECRET), ID, AT + 0.9, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": str(AT),
        "webhook-signature": SIGNATURE,
    }


def test_a_replaced_secret_signs_for_a_while() -> None:
    secret = Secret(new_secret(), SECRET, until=AT + 10)
    both = signed(secret, ID, AT, BODY)["webhook-signature"].split()
    assert len(both) == 2
    assert both[1] == SIGNATURE
    assert SIGNATURE not in signed(secret, ID, AT + 10, BODY)["webhook-signature"]


def test_each_replaced_secret_signs_for_a_day() -> None:
    """Also if the new one is replaced within that day."""
    first = Secret(SECRET)
    second = first.renewed(AT)
    third = second.renewed(AT + 3600)
    assert len({first.secret, second.secret, third.secret}) == 3
    for after_s, expected in (
        (3600, [third.secret, second.secret, SECRET]),
        (OVERLAP_S - 1, [third.secret, second.secret, SECRET]),
        (OVERLAP_S, [third.secret, second.secret]),
        (OVERLAP_S + 3600, [third.secret]),
    ):
        assert third.valid(AT + after_s) == expected
    assert read_secret(encode_secret(third)) == third
    many = first
    for _ in range(50):
        many = many.renewed(AT)
    assert len(many.valid(AT)) == 5  # a receiver has a limit on header fields


def test_secrets_are_long_and_never_shown() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        secret = Secret(text)
        assert read_secret(encode_secret(secret)) == secret
        assert text not in repr(secret)
        assert text not in f"{secret}"


def test_what_another_program_wrote_is_no_secret() -> None:
    for raw in (None, b"", b"{", b"[]", b'{"secret": "whsec_?"}', b'{"secret": 1}', b"\xff"):
        assert read_secret(raw) is None
