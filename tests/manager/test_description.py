"""The API matches its description, and the check detects differences."""

from __future__ import annotations

import json

import pytest

from tests.campaigns import api


def test_every_answer_is_as_described() -> None:
    # The other tokens have the same rights, except for these operations.
    one = ("list_lines", "get_line", "get_explanation", "put_forward")
    tokens = {
        "--fleet acme": (),
        "--fleet acme --line +33972101001": one,
        "--operator": ("list_lines", "put_line"),
    }
    print(api.run(examples=1, seed=20_261_125, tokens=tokens))


def test_an_answer_that_is_not_as_described_is_noticed() -> None:
    def spoil(text: str) -> str:
        description = json.loads(text)
        page = description["components"]["schemas"]["LinePage"]
        page["properties"]["total"] = {"type": "string"}
        return json.dumps(description)

    with pytest.raises(api.Wrong, match="is not of type"):
        api.run(examples=1, spoil=spoil, tokens={"--fleet acme": ("list_lines",)})
