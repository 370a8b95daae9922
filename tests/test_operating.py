"""The container file and the page on operating say what the program understands; no engine builds or runs it here."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path

import pytest
import uvicorn

import app
from dashboard import public
from dashboard.kit.door import copies, posts, routes, upload_room, uploads
from dashboard.kit.door.routes import GUESSES, HEALTH, WITHIN
from dashboard.kit.limits import BURST, DEMO, HOUR, MINUTE, OTHERS, SHARED_BY, Limits
from dashboard.kit.running import fetching, queue
from dashboard.kit.sessions import visitors
from dashboard.kit.sharing import links
from dashboard.steps.stress import judging
from inspector.model.patches.patch import STRONGEST

ROOT = Path(__file__).resolve().parents[1]
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "OPERATING.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch) -> None:
    for name in ("GRADIO_SERVER_NAME", public.PASSWORDS, public.PUBLIC):
        monkeypatch.delenv(name, raising=False)


def test_the_container_starts_the_program_with_options_that_it_has_and_with_a_decision_still_to_take():
    words = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKER, re.MULTILINE)[1])
    assert words[:2] == ["python", "app.py"]
    chosen = app.options().parse_args(words[2:])
    assert (chosen.host, chosen.port, chosen.metrics, chosen.log) == ("0.0.0.0", 7860, ("0.0.0.0", 9464), "-")
    with pytest.raises(ValueError, match="--public"):
        public.require_decision(chosen, None)
    assert f"{chosen.port} {chosen.metrics[1]}" in re.search(r"^EXPOSE (.*)$", DOCKER, re.MULTILINE)[1]
    assert f"127.0.0.1:{chosen.port}{HEALTH}" in DOCKER


def test_the_container_copies_what_is_there_and_runs_as_nobody_special():
    assert (ROOT / "requirements.txt").is_file() and "useradd --create-home --uid 1000" in DOCKER
    assert DOCKER.index("USER 1000") < DOCKER.index("ENTRYPOINT") and DOCKER.count("USER ") == 1
    made = ROOT / "inspector" / "model" / "embedded" / "__main__.py"
    assert made.is_file() and "python -m inspector.model.embedded" in DOCKER


def test_the_container_gets_the_program_s_own_folders_and_nothing_else_that_lies_beside_them():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*" and all(list(ROOT.glob(name)) for name in kept)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"scripts"}
    assert {"app.py", "assets", "requirements*.txt", *packages} <= set(kept)
    assert set(rules[1 + len(kept) :]) == {"assets/screenshots", "**/__pycache__"}


def commands() -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for language, block in blocks if not language for line in block.replace("\\\n", "").splitlines()]


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("docker run")])
def test_every_container_that_the_page_starts_gets_options_that_the_program_has_and_a_decision(command, monkeypatch):
    given, _, options = command.partition(" dinm-inspector")
    words = shlex.split(given)
    for name, _, value in (words[at + 1].partition("=") for at, word in enumerate(words) if word == "-e"):
        monkeypatch.setenv(name, value)
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKER, re.MULTILINE)[1])
    chosen = app.options().parse_args([*entry[2:], *shlex.split(options)])
    public.require_decision(chosen, public.logins(chosen))
    assert words[words.index("-p") + 1].endswith(f":{chosen.port}")
    for folder in (word.split(":")[-1] for at, word in enumerate(words) if words[at - 1] == "-v"):
        assert folder == "/tmp" or f"DINM_INSPECTOR_CACHE={folder} " in DOCKER


@pytest.mark.parametrize("command", [line for line in commands() if "app.py" in line])
def test_every_command_of_the_page_is_one_that_the_program_takes(command, monkeypatch):
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    assert words[:2] == ["python", "app.py"]
    chosen = app.options().parse_args(words[2:])
    known = [("ann", "one")] if chosen.auth_file else public.logins(chosen)
    public.require_decision(chosen, known)


def test_every_option_that_the_page_names_is_one_of_the_program_and_every_variable_is_read():
    known = {option for action in app.options()._actions for option in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"docker run (.|\\\n)*", "", PAGE)))
    assert named <= known
    assert set(re.findall(r"DINM_INSPECTOR_[A-Z]+", PAGE)) == {public.PASSWORDS, public.PUBLIC}


def test_the_numbers_in_the_page_s_table_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `--([a-z-]+)`[^|]*\| (.*) \|$", PAGE, re.MULTILINE))
    for option, (field, unit, _) in public.BOUNDS.items():
        own, theirs = rows[option.replace("_", "-")].split(" | ")
        for limits, said in ((Limits(), own), (OTHERS, theirs)):
            value = getattr(limits, field)
            assert said.startswith("any number" if value is None else f"{value // unit:,}"), option
    assert f"read-only {DEMO.prompts}" in rows["max-prompts"] and (SHARED_BY, HOUR) == (10, 3600)
    assert "ten times as many from one address" in rows["runs-an-hour"] and (GUESSES, WITHIN) == (10, 300)


@pytest.mark.parametrize("named", ["172.17.0.1", "*"], ids=["the bridge of containers", "all"])
def test_the_variable_that_names_the_proxy_is_said_for_containers_and_spaces_and_does_what_is_said(monkeypatch, named):
    for section in ("Behind a proxy with TLS", "In a container", "As a Space"):
        assert "FORWARDED_ALLOW_IPS" in PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0], section
    assert "FORWARDED_ALLOW_IPS" in DOCKER
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", named)
    seen: list[tuple[str, str]] = []

    async def page(scope, receive, send) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    config = uvicorn.Config(app=page, log_config=None)
    config.load()
    said = [(b"x-forwarded-for", b"9.9.9.9, 5.6.7.8"), (b"x-forwarded-proto", b"https")]
    for client in ("172.17.0.1", "172.17.0.9"):
        scope = {"type": "http", "client": (client, 1), "scheme": "http", "headers": said}
        asyncio.run(config.loaded_app(scope, None, None))
    if named == "*":
        assert seen == [("9.9.9.9", "https")] * 2, "the first one is believed, whoever wrote it"
    else:
        assert seen == [("5.6.7.8", "https"), ("172.17.0.9", "http")]


def head(text: str) -> dict[str, str]:
    """Return the entries of the first head of a Space in a text."""
    found = re.search(r"^---\n(.*?)^---$", text, re.MULTILINE | re.DOTALL)
    return dict(line.split(": ", 1) for line in found[1].splitlines())


def test_a_docker_space_gets_a_head_that_names_the_container_s_port_and_nothing_of_gradio_s(monkeypatch):
    gradio, docker = head((ROOT / "README.md").read_text(encoding="utf-8")), head(PAGE.partition("## As a Space")[2])
    words = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKER, re.MULTILINE)[1])[2:]
    assert (gradio["sdk"], docker["sdk"]) == ("gradio", "docker")
    assert int(docker["app_port"]) == app.options().parse_args(words).port
    only_gradio = {"sdk_version", "python_version", "app_file"}
    shared = {name: value for name, value in gradio.items() if name not in only_gradio}
    assert only_gradio <= set(gradio) and docker == {**shared, "sdk": "docker", "app_port": docker["app_port"]}
    assert all(f"`{name}`" in PAGE for name in only_gradio) and "useradd --create-home --uid 1000" in DOCKER
    served = []
    monkeypatch.setattr(app, "serve", lambda chosen, *_: served.append(chosen) or 0)
    monkeypatch.setenv("INSPECTOR_OPTIONS", re.search(r"`(--read-only --keep-for[^`]*)`", PAGE)[1])
    monkeypatch.setenv(public.PUBLIC, "1")
    for given in ([], words):
        assert app.main(given) == 0 and served[-1].read_only and served[-1].keep_for == 20
    assert served[-1].host == "0.0.0.0"


def test_every_number_for_prometheus_that_the_page_names_is_there():
    source = (ROOT / "dashboard" / "metrics.py").read_text(encoding="utf-8")
    for name in re.findall(r"`(dinm_[a-z_]+)`", PAGE):
        assert f'"{name.removesuffix("_total")}"' in source


def promises() -> list[str]:
    """Return the paragraphs and points of what SECURITY.md says is protected, without what only heads points."""
    protected = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## What is protected\n")[2]
    said = re.split(r"\n\n|\n(?=- )", protected.partition("\n## ")[0].strip())
    return [one for one in said if not re.fullmatch(r"\*\*[^*]*\*\*", one)]


TOLD = {
    "strengths": ("below 0 or above 1.5", STRONGEST == 1.5),
    "prompts": (f"{DEMO.prompts} prompts a test", True),
    "files": ("goes after an hour", copies.FILES_FOR == HOUR),
    "sent": ("nobody has read goes after ten minutes", uploads.PIECE_FOR == 600),
    "slow": ("whole in ten minutes keeps none", uploads.PIECE_FOR == 600),
    "at once": ("eight files at once", upload_room.AT_ONCE == 8),
    "room": ("four of the largest files", (upload_room.UPLOADED, upload_room.OF_ONE) == (4, 2)),
    "kept": (
        "used for two hours (`--keep-for`), a day at most",
        (visitors.GRACE, visitors.OPEN_FOR) == (2 * HOUR, 24 * HOUR),
    ),
    "pages": (f"the parts of {copies.COPIES} pages", True),
    "links": ("for a week (`--links-for`)", links.KEEP == 7 * 24 * HOUR),
    "of one": (f"At most {links.OF_ONE} of a visitor", True),
    "of all": (f"{links.MOST} and {links.MOST_BYTES // 2**20} MB of all pages", True),
    "guesses": ("ten wrong tries in five minutes", (GUESSES, WITHIN) == (10, 300)),
    "post": ("a post has at most 1 MiB", routes.POSTED == 2**20),
    "name": (f"no longer than {posts.LONGEST_NAME} characters", True),
    "events": (f"answered {OTHERS.events} times a minute, {OTHERS.events * BURST / MINUTE:.0f} times at once", True),
    "fetched": ("two of each are fetched at a time", fetching.AT_ONCE == 2),
    "hanging": ("loses its place after half an hour", fetching.LONGEST == HOUR / 2),
    "judges": ("two model judges stay loaded", judging.KEPT == 2),
    "shared": ("by visitor and, tenfold, by address", SHARED_BY == 10),
    "line": (f"turns of {queue.SLICE:.0f} s in one line of {queue.PLACES} places", True),
    "places": (f"One address has {OTHERS.in_line} of the places", True),
}
"""What SECURITY.md says in numbers, and whether that is so."""


@pytest.mark.parametrize("what", TOLD)
def test_the_numbers_in_what_is_promised_are_those_of_the_code(what):
    said, true = TOLD[what]
    assert said in " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split()) and true


def holds_tests(where: str, *test: str) -> bool:
    """Tell whether a folder or a file has tests; of a file, whether it has that one, if one is named."""
    path = ROOT / where
    if path.is_dir():
        return not test and any(path.rglob("test_*.py"))
    looked_for = rf"^def {test[0]}\(" if test else "^def test_"
    return path.is_file() and re.search(looked_for, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_test_that_the_promises_name_is_there():
    named = {name for promise in promises() for name in re.findall(r"`(tests/[^`]+)`", promise)}
    assert len(named) > 30 and len([name for name in named if "::" in name]) > 8
    assert [name for name in named if not holds_tests(*name.split("::"))] == []


def test_a_test_that_is_not_there_is_missed():
    assert holds_tests("tests/faults") and holds_tests("tests/test_operating.py")
    assert holds_tests("tests/test_operating.py", "test_every_test_that_the_promises_name_is_there")
    assert not holds_tests("tests/test_operating.py", "test_every_test_that_the_promises_name_is_th")
    assert (
        not holds_tests("tests/dashboard_helpers.py") and not holds_tests("tests/nowhere") and not holds_tests("assets")
    )


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise[:30])
def test_every_promise_names_a_test(promise):
    assert "`tests/" in promise
