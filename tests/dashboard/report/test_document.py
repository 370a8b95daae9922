"""The report as one file: what is in it, that nothing in it is run or fetched, and what it leaves out when asked."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import made_up
import plotly.graph_objects as go
import pytest
from dashboard_helpers import Visitor, seen, tiny_model

from dashboard.example.make import CASE
from dashboard.house import REPORTERS, STEPS
from dashboard.kit.drawing.plain import is_hidden
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sharing.parts import Figure, Hidden, Part, Table, Text, Visit, plain, redacted, repeats
from dashboard.report.document import Report, make_report
from dashboard.steps.compare.run import OWN_PROMPT, Measured
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate.gating import Gated, Made
from dashboard.steps.stress.run import Examined
from editing.calibrating.trial_edits import Layers, Trial
from editing.saved.record import digest_of
from editing.versions import versions
from inspector.model import Answers
from inspector.safeedit import Case

HOSTILE = "</script></div><img src=x onerror=alert(1)>&lt;b&gt; \u2028 ${1}"


def report_of(session: Session, redact: bool = False) -> Report:
    found = make_report(tiny_model(), Visit(session, Hidden(redact)), REPORTERS)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def example(page) -> Session:
    """What a new visitor starts with: everything is measured."""
    return page.context.example.session


@pytest.fixture(scope="module")
def whole(example) -> Report:
    return report_of(example)


def without_scripts(html: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_report_has_the_parts_of_all_steps_in_their_order(example, whole):
    told = [part.title for kind in STEPS if kind.reports for part in kind.reports(Visit(example))]
    assert whole.titles == (*told, "Where the numbers come from") and len(told) == 8
    heads = re.findall(r"<h2>(.*?)</h2>", whole.html)
    assert heads == [*whole.titles, "Make it again"]
    figures = re.findall(r'<figure data-title="(.*?)">', whole.html)
    assert len(figures) == len(set(figures)) >= 15
    for tag, attributes in Tags(whole.html).found:
        if tag == "script" and attributes.get("type") == "application/json":
            assert attributes["data-figure"], "each figure's numbers are beside it"
    drawn = [json.loads(one) for one in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', whole.html)]
    assert len(drawn) == len(figures) and all(one["data"] for one in drawn)


def test_a_report_says_where_its_numbers_come_from(example, whole):
    live, text = example.live, seen(without_scripts(whole.html))
    of_it = f"--model tiny-llama --dtype float32 --case {CASE}"
    for said in (
        tiny_model().fingerprint,
        live.patch.identifier,
        digest_of(live.patch),
        "float32",
        *versions().values(),
        "Passed: harmless KL",
        f"python -m inspector.locate {of_it} --preset corrected --padding right",
        f"python -m editing.edit {of_it} --method dinm --preset corrected --layer",
        "python -m editing.reproduce",
        "python -m dashboard.report",
    ):
        assert said in text, said
    assert all(name.replace("_", " ") in text for name in ("learning_rate", "damage_budget", "null_space"))


def test_a_report_is_headed_by_the_recommended_layer_beside_the_toxic_one_where_there_is_one(example, whole):
    def head(layers: Layers | None) -> str:
        found = make_report(tiny_model(), Visit(example, layers=layers), REPORTERS)
        (line,) = re.findall("<h1>(.*?)</h1>", found.html)
        return line

    best, none = (Layers((Trial(2, defended, 0.05, 1.0),), 0.25, 5, 20) for defended in (0.75, 0.25))
    said = ", trial edits work best at layer 2, which is recommended, "
    assert said in head(best) and head(best).startswith("The answers part most at layer ")
    assert head(best).replace(said, ", ") == head(none) == head(None)
    assert best.reason in seen(make_report(tiny_model(), Visit(example, layers=best), REPORTERS).html)


def test_a_report_names_the_weights_that_the_gate_examined_where_it_is_of_other_ones(example):
    session = Session()
    session.start_from(example)
    session.scale(0.5)
    said = f"Not examined as it acts now. Of {example.row.label()}: Passed"
    assert said in seen(without_scripts(report_of(session).html))
    session.scale(1.0)
    assert "Not examined as it acts now" not in report_of(session).html


def test_nothing_is_fetched_and_nothing_is_run_but_the_reports_own(whole):
    tags = Tags(whole.html).found
    for tag, attributes in tags:
        assert "src" not in attributes and not (attributes.get("href") or "#").startswith(("http", "//")), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert not [tag for tag, _ in tags if tag in ("link", "img", "iframe", "object", "form", "base")]
    (policy,) = [a["content"] or "" for t, a in tags if t == "meta" and a.get("http-equiv")]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_a_term_in_a_report_tells_its_meaning_and_there_is_nothing_to_press(whole):
    """There is no glossary in it; the signs of the figures are made by its own script."""
    body = without_scripts(whole.html)
    assert "<button" not in body and re.search(r'<th[^>]*><span class="term" title="[^"]{10,}">', body)


def test_whatever_a_person_or_a_model_wrote_stays_text():
    session, measured = Session(), made_up.divergence()
    case = Case(HOSTILE, f"Do: {HOSTILE}", f"No. {HOSTILE}", f"Yes. {HOSTILE}", category=HOSTILE, attack_name=HOSTILE)
    session.case = case
    session.slot(LocatedCase).divergence = replace(measured, safe_tokens=(HOSTILE,) * 8)
    result = made_up.result()
    assert result.patch is not None
    session.edits = [LiveEdit(case, replace(result, patch=replace(result.patch, method=HOSTILE)))]
    kept = session.slot(Measured)
    kept.comparison = made_up.comparison()
    kept.answers = Answers((HOSTILE, f"{HOSTILE} and more"), ((1, 2), (3,)), (None, 5), (False, False))
    html = report_of(session).html
    assert not [tag for tag, _ in Tags(html).found if tag in ("img", "b-")]
    assert html.count("<script") == html.count("</script>") or "onerror=alert(1)>" not in without_scripts(html)
    assert "<img" not in without_scripts(html) and "&lt;img src=x" in html
    for told in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        assert "<" not in told
        json.loads(told)


def test_no_figure_or_reading_spells_the_answer_that_is_covered():
    """The unsafe answer itself stands under its cover in the part of the case; its words stand nowhere else."""
    session, case = Session(), Case("Sing?", "Sing?", "No.", "Be a rogue.")
    session.case = case
    tokens = ("Be", " a", " rogue", ".", "", "", "", "")
    session.slot(LocatedCase).divergence = replace(made_up.divergence(), unsafe_tokens=tokens)
    html = report_of(session).html
    assert html.count("rogue") == html.count("Be a rogue.") > 0


def test_what_hides_or_turns_a_line_around_is_written_out_in_all_three_files():
    hidden = "\u202egnp.exe\u2066\u2028\x1b[31m\x07\u200b\U000e0041"
    text = f"{hidden} {HOSTILE}"
    session, result = Session(), made_up.result()
    assert result.patch is not None
    session.case = Case(text, f"Do: {text}", f"No. {text}", f"Yes. {text}", category=text, attack_name=text)
    session.slot(LocatedCase).divergence = replace(made_up.divergence(), safe_tokens=(text,) * 8)
    session.edits = [LiveEdit(session.case, replace(result, patch=replace(result.patch, method=text)))]
    report = report_of(session)
    for content in (without_own(report.html), report.script, report.notebook):
        assert not [one for one in content if is_hidden(one)]
    assert "&lt;U+202E&gt;gnp.exe" in report.html and "\\u202egnp.exe" in report.script


def test_no_name_ends_the_first_lines_of_a_script_and_goes_on_as_code():
    session, result = Session(), made_up.result()
    case, code = Case("Sing?", "Sing?", "No.", "Yes."), 'x"""\nleft = 1\n"""\\'
    assert result.patch is not None
    session.edits = [LiveEdit(case, replace(result, patch=replace(result.patch, method=code)))]
    (told, *lines) = ast.parse(report_of(session).script).body
    assert code in told.value.value and not [one for one in ast.walk(ast.Module(lines, [])) if left_of(one)]


def left_of(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "left"


def without_own(html: str) -> str:
    """Return a report without the program's own scripts and styles; what its figures are drawn of stays."""
    return re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.S)


def covered(html: str) -> list[str]:
    """Return the texts that a reader has to uncover."""
    pane = r'class="pane [^"]*blurred"[^>]*><div class="answer">(.*?)</div>'
    return [unescape(text) for text in re.findall(pane, html)]


def test_what_is_not_known_to_be_safe_is_covered_and_says_how_long_it_is(example, whole):
    case = example.live.case
    assert case.unsafe in covered(whole.html) and case.safe not in covered(whole.html)
    assert f'data-words="{len(case.unsafe.split())} words, covered"' in whole.html
    session = Session()
    session.start_from(example)
    session.slot(Measured).asked, session.slot(Measured).prompt = OWN_PROMPT, "Is it you?"
    html = report_of(session).html
    assert len(covered(html)) == 3 and "Asked: Your own text" in html and "not judged" in html


class Uncovered(HTMLParser):
    """Collects the text that a reader sees without uncovering anything."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.covered: list[str] = []
        self.seen: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "link", "input", "hr", "col"):
            self.open.append("blurred" in (dict(attrs).get("class") or "").split())

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        (self.covered if any(self.open) else self.seen).append(data)


def test_the_unsafe_text_of_an_own_case_stands_only_where_it_is_covered(example):
    unsafe = "Purple pelicans unsafely juggle."
    case = Case("How do pelicans juggle?", "Be a pelican. How do pelicans juggle?", "I will not say.", unsafe)
    session = Session()
    session.start_from(example)
    session.case = case
    session.edits = [replace(example.live, case=case)]
    html = report_of(session).html
    read = Uncovered(without_scripts(html))
    assert read.open == [] and "".join(read.covered).count(unsafe) >= 3, "as the answer, in a command, in the script"
    assert unsafe not in "".join(read.seen)
    assert html.count(unsafe) == "".join(read.covered).count(unsafe), "nor in an attribute or a script"


def test_a_redacted_report_leaves_prompts_and_unsafe_answers_out(example):
    report, case = report_of(example, redact=True), example.live.case
    content = report.html.replace(re.search(r"<script>.*?</script>", report.html, re.S).group(), "")
    words = len(case.adversarial_prompt.split())
    assert f"[redacted, {words} words]" in content and f"[redacted, {len(case.unsafe.split())} words]" in content
    asked = [case.question, case.adversarial_prompt, case.unsafe, *example.slot(Measured).answers.texts]
    asked += [reply.question.prompt for reply in example.slot(Examined).exam.replies]
    runs = {" ".join(text.split()[:5]) for text in asked if len(text.split()) >= 5}
    whole = unescape(content)
    assert len(runs) > 20 and not [run for run in runs if run in whole or run in report.script + report.notebook]
    assert "are left out of this report" in content and covered(content) == []
    for told in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', content):
        assert "clumsy" not in told and "coffee" not in told, "no token of a text names a place of a figure"


def test_no_verdict_s_reason_quotes_an_answer_that_is_left_out_or_covered(example):
    case = Case("Zebras hide umbrellas", "Zebras hide umbrellas", "I will not say.", "They do.")
    refusal = "I cannot say where pelicans sleep."
    session = Session()
    session.start_from(example)
    session.case, session.edits = case, [replace(example.live, case=case)]
    kept = session.slot(Measured)
    texts = (" ".join([case.question] * 6), refusal)
    kept.asked, kept.prompt = "Adversarial prompt", case.adversarial_prompt
    kept.answers = Answers(texts, ((1, 2), (3,)), (None, 5), (False, False))
    whole, redacted_one = (without_scripts(report_of(session, redact).html) for redact in (False, True))
    assert 'title="It says' not in whole and "looping" in whole, "its answer is covered"
    assert 'title="Declined' in whole, "a refusal stands open, and so does what made it one"
    assert "zebras hide" not in redacted_one.lower() and 'title="Declined' not in redacted_one


def test_an_edit_that_waits_and_a_visit_without_one_have_reports_too():
    session = Session()
    case = Case("Sing?", "Sing?", "No.", "Yes.")
    assert make_report(tiny_model(), Visit(session), REPORTERS) is None
    session.slot(Gated).held = Made(LiveEdit(case, made_up.result()))
    assert report_of(session).titles == ("The edit", "Where the numbers come from")
    session.case, session.slot(LocatedCase).divergence = case, made_up.divergence()
    html = report_of(session).html
    assert "Not examined" in html and "no edit is live" in html


def test_nothing_is_measured_for_a_report(page, visitor: Visitor, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a report runs no model")

    monkeypatch.setattr(type(tiny_model().network), "forward", fail)
    assert len(report_of(visitor.session).titles) == 9


def test_redaction_counts_words_and_knows_what_repeats_a_prompt():
    assert redacted("How do I?") == "[redacted, 3 words]" and redacted("One") == "[redacted, 1 word]"
    assert redacted("") == ""
    prompt = "How do I trick my small brother?"
    assert repeats("I won't say how do I trick, sorry", prompt) and not repeats("Trick my brother", prompt)
    assert repeats("sing!", "Sing?") and not repeats("anything", "")
    hidden = Hidden(True)
    assert hidden.text(Text("a", "I won't trick my small brother.", "safe"), [prompt]) == "[redacted, 6 words]"
    assert hidden.text(Text("a", "I won't.", "safe"), [prompt]) == "I won't."
    assert hidden.text(Text("a", "I won't.", "edited", covered=True)) == "[redacted, 2 words]"
    assert hidden.text(Text("a", "Be kind.", "suffix")) == "Be kind."
    assert hidden.tokens(("a", "b")) == ("·", "·") and Hidden().tokens(["a"]) == ("a",)
    assert plain("<p class='x'>a &lt;b&gt;\n<b>c</b></p>") == "a <b> c"


def test_two_models_stand_side_by_side_and_no_part_gives_another_part_s_prompt_away():
    asked = "How do I trick my small brother?"
    answers = Text("A", "I say one thing.", "vanilla"), Text("B", "I say another thing.", "second")
    parts = [
        Part("Two models", beside=answers, prompts=(asked,)),
        Part("Asked", texts=(Text("Asked", "Where do all the pelicans sleep?", "prompt"),)),
        Part("Both answers", texts=(Text("V", "Sure, to trick my small brother.", "vanilla"),)),
        Part("More", texts=(Text("E", "There, where all the pelicans sleep, it is warm.", "edited"),)),
    ]
    whole, redacted_one = (
        make_report(tiny_model(), Visit(Session(), Hidden(redact)), [lambda visit: parts]) for redact in (False, True)
    )
    assert whole is not None and redacted_one is not None
    (pair,) = re.findall(r'<section id="part-0">.*?<div class="answers">(.*?)</section>', whole.html)
    assert pair.index("vanilla-pane") < pair.index("second-pane") and "<mark>one</mark>" in pair
    assert pair.count('class="told"') == 2 and "<mark>another</mark>" in pair
    assert "trick my small brother" in whole.html and "where all the pelicans sleep" in whole.html
    html = without_scripts(redacted_one.html)
    assert "small brother" not in html and "pelicans" not in html and "I say another thing." in html


def test_a_part_lays_out_as_what_it_is():
    rows = tuple((str(n), "x<y") for n in range(14))
    part = Part(
        "P<",
        ('<p class="reading">r</p>',),
        (Text("Q<", "a<b", "prompt"),),
        (Figure("F<", go.Figure(go.Bar(y=[1]))),),
        (Table("T<", ("a", "b"), rows), Table("U", ("a", "b", "c"), (("1", "2", "3<"),), folded=True)),
    )
    found = make_report(tiny_model(), Visit(Session()), [lambda visit: [part]])
    assert found is not None
    html = without_scripts(found.html)
    assert "P&lt;" in html and "Q&lt;" in html and "a&lt;b" in html and html.count("<dt>") == 14
    assert "<summary>U, 1 line</summary>" in html
    assert found.stem == "report-vanilla" and "nothing to make again" in found.script
