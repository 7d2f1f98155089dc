"""Digest authentication: the examples of RFC 7616 3.9.1, signed nonces, counted guesses."""

from __future__ import annotations

import pytest

from engine.registration.digest import Guesses, Nonces, challenges, ha1, is_right, read_answer

ANSWER = (
    'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", '
    'algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
    'response="{response}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
RIGHT = {
    "MD5": "8ca523f5e9506fed4657c9700eebdbec",
    "SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
}


@pytest.mark.parametrize("algorithm", RIGHT)
def test_the_vectors_of_rfc_7616(algorithm: str) -> None:
    secret = ha1(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
    answer = read_answer(ANSWER.format(algorithm=algorithm, response=RIGHT[algorithm]))
    assert answer is not None
    assert answer.username == "Mufasa"
    assert answer.count == 1
    assert is_right(answer, "GET", secret)
    assert is_right(answer, "GET", secret.upper())
    assert not is_right(answer, "REGISTER", secret)
    assert not is_right(answer, "GET", "")
    other = read_answer(ANSWER.format(algorithm=algorithm, response="0" * 32))
    assert other is not None
    assert not is_right(other, "GET", secret)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic QWxhZGRpbg==",
        "Digest",
        'Digest username="a"',
        ANSWER.format(algorithm="SHA-512-256", response="0"),
        ANSWER.format(algorithm="MD5", response="0").replace("qop=auth", "qop=auth-int"),
        ANSWER.format(algorithm="MD5", response="0").replace("qop=auth, ", ""),
        ANSWER.format(algorithm="MD5", response="0").replace("nc=00000001", "nc=1"),
        ANSWER.format(algorithm="MD5", response="0").replace("nc=00000001", "nc=0000000x"),
        ANSWER.format(algorithm="MD5", response="0").replace('cnonce="', 'cnonces="'),
    ],
)
def test_an_incomplete_answer_is_none(value: str) -> None:
    assert read_answer(value) is None


def test_a_nonce_is_accepted_by_every_worker_with_the_secret() -> None:
    nonce = Nonces(b"secret").make("+33972101001", 1_000_000)
    other = Nonces(b"secret")
    assert other.is_ours(nonce, "+33972101001")
    assert not other.is_ours(nonce, "+33972101002")
    assert not Nonces(b"another").is_ours(nonce, "+33972101001")
    assert not other.is_ours("", "+33972101001")
    assert not other.is_ours("x" * 48, "+33972101001")
    assert other.is_fresh(nonce, 1_000_299)
    assert not other.is_fresh(nonce, 1_000_301)


def test_the_stronger_algorithm_is_offered_first() -> None:
    first, second = challenges("renvoi", "n", sha256=True, stale=True)
    assert "SHA-256" in first
    assert "MD5" in second
    assert "stale=true" in first


def test_sha_256_is_not_offered_where_it_cannot_be_checked() -> None:
    (only,) = challenges("renvoi", "n", sha256=False, stale=False)
    assert "MD5" in only


def test_guesses_are_counted_for_a_minute_and_by_key() -> None:
    guesses = Guesses(most=3, keys=2)
    for _ in range(3):
        assert guesses.wait_s("a", 100.0) == 0
        guesses.wrong("a", 100.0)
    assert guesses.wait_s("a", 130.0) == 31
    assert guesses.wait_s("b", 130.0) == 0
    assert guesses.wait_s("a", 161.0) == 0
    guesses.wrong("a", 161.0)
    assert guesses.wait_s("a", 161.0) == 0
    for key in ("b", "c", "d"):
        guesses.wrong(key, 161.0)
    assert len(guesses._counts) == 2
