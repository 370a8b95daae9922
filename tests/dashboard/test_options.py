"""The options of the command line: their help, their defaults, and what the environment names."""

from __future__ import annotations

import pytest

from dashboard.options import options

NAMES = (
    "no-calibration",
    "no-example",
    "model",
    "revision",
    "device",
    "dtype",
    "device-map",
    "max-memory",
    "path",
    "host",
    "port",
    "share",
    "auth",
    "ledger",
    "read-only",
    "open",
    "keep-for",
    "session-memory",
    *("public", "auth-file", "allow-source", "max-tokens", "max-steps", "max-prompts", "runs-an-hour"),
    *(
        "runs-in-line",
        "events-a-minute",
        "visitor-memory",
        "max-upload",
        "files-an-hour",
        "free-disk",
        "log",
        "metrics",
    ),
    "mcp",
    "links-for",
)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch) -> None:
    """No host from the environment."""
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_in_the_help_with_words_of_its_own(name):
    action = next(a for a in options()._actions if f"--{name}" in a.option_strings)
    assert action.help and f"--{name}" in options().format_help()


def test_there_is_no_option_without_a_test():
    known = {option for action in options()._actions for option in action.option_strings}
    assert known == {f"--{name}" for name in NAMES} | {"-h", "--help"}


def test_by_default_only_this_machine_can_reach_the_page_and_nothing_is_shared():
    chosen = options().parse_args([])
    assert chosen.host == "127.0.0.1" and not chosen.share and not chosen.open and chosen.auth is None
    assert chosen.model is None and (chosen.device, chosen.dtype) == ("auto", "auto")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--keep-for", "2000000"], "give a number of minutes above 0 and below 1,000,000"),
        (["--session-memory", "0"], "give a number of gigabytes above 0 and below 1,000,000"),
        (["--links-for", "100000"], "give a number of hours above 0 and below 100,000"),
    ],
)
def test_a_number_out_of_its_bounds_is_refused_with_both_of_them(given, words, capsys):
    with pytest.raises(SystemExit):
        options().parse_args(given)
    assert words in capsys.readouterr().err


def test_a_space_names_the_address_in_its_environment(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert options().parse_args([]).host == "0.0.0.0"
