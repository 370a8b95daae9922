"""Readings, badges and clocks say what the data say, in numbers for people, with everything foreign escaped."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict, replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from dashboard_helpers import model_at_rest, seen
from made_up import comparison, divergence, likelihood, result, steps

from dashboard import heading
from dashboard.kit.drawing import html as kit_html
from dashboard.kit.running.queue import Place
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.case import texts as case_texts
from dashboard.steps.case.run import PromptView
from dashboard.steps.compare import texts as compare_texts
from dashboard.steps.compare.changes import FIGURES
from dashboard.steps.locate import texts as locate_texts
from dashboard.steps.operate import texts as operate_texts
from editing import Preparation
from editing.gate.budgets import Check
from editing.gate.gate import RECORD
from editing.progress import STOP_TEXT
from inspector.divergence import DISTANCES
from inspector.model import VANILLA, Row
from inspector.safeedit import bundled_cases

MARKUP = "<script>alert(1)</script>&<b>x"


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


@pytest.fixture
def session() -> Session:
    made = Session()
    made.add(LiveEdit(bundled_cases()[0], result(block=2)))
    return made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0"),
        (1e-9, "<0.0001"),
        (9.9e-5, "<0.0001"),
        (1.234e-4, "0.000123"),
        (0.12345, "0.123"),
        (12.34, "12.3"),
        (123456.7, "123,457"),
    ],
)
def test_a_number_is_readable_and_small_ones_are_never_a_bare_zero(value, shown):
    assert kit_html.number(value) == shown


@pytest.mark.parametrize("value", [999.4, 999.6, 999.99, 1000.0, -999.7])
def test_a_number_near_a_thousand_is_not_in_scientific_notation(value):
    assert "e" not in kit_html.number(value)
    assert float(kit_html.number(value).replace(",", "")) == pytest.approx(value, abs=1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "<0.0001"), (9e-5, "<0.0001"), (1e-4, "0.0001"), (0.0042, "0.0042"), (0.5, "0.500"), (1.0, "1.000")],
)
def test_a_probability_is_readable_and_never_reads_as_nothing(value, shown):
    assert kit_html.probability(value) == shown


def test_no_probability_is_written_as_zero():
    for value in np.geomspace(1e-12, 1.0, 200):
        assert float(kit_html.probability(value).lstrip("<")) > 0
        assert float(kit_html.number(value).lstrip("<")) > 0


def test_everything_foreign_is_escaped():
    with model_at_rest() as model:
        named = replace(model, name=MARKUP, fingerprint='"><script>alert(1)</script>')
        hostile = replace(divergence(), safe_tokens=("<script>",) * 8, unsafe_tokens=("<b>x</b>",) * 8)
        written = (
            heading.header(named),
            kit_html.reading(MARKUP),
            kit_html.message(MARKUP),
            operate_texts.clock(Preparation(MARKUP, 0.5)),
            kit_html.weights_badge(VANILLA, MARKUP),
            case_texts.prompt_reading(PromptView(MARKUP, 1, 2, (MARKUP,))),
            locate_texts.heatmap_reading(hostile),
            locate_texts.heatmap_reading(replace(hostile, safe_tokens=hostile.unsafe_tokens)),
        )
    for html in written:
        assert "<script" not in html and "<b>x" not in html
    assert f'title="{escape(MARKUP)} ' in written[0] and MARKUP in seen(written[1])
    assert "'<script>'" in seen(written[6]) and "'<b>x</b>'" in seen(written[7])


def test_a_patch_s_method_is_escaped_on_both_badges(session):
    patch = replace(session.live.patch, method=MARKUP)
    session.edits = [LiveEdit(session.live.case, replace(session.live.result, patch=patch))]
    for html in (kit_html.live_badge(session), kit_html.weights_badge(session.row)):
        assert "<script" not in html and MARKUP in seen(html)


def test_the_header_names_model_layers_and_number_type(tmp_path):
    with model_at_rest() as model:
        text = seen(heading.header(model))
        of_a_folder = heading.header(replace(model, name=str(tmp_path)))
    assert f'title="{tmp_path.name} ' in of_a_folder and str(tmp_path.parent) not in of_a_folder
    assert "tiny-llama" in text and "3 layers" in text and "float32" in text and "cpu" in text


def test_only_the_views_stand_in_the_row_that_scrolls_on_a_phone():
    """What copies a link, turns the theme and opens the help is always in sight."""
    row, _, after = heading.views({"operate": "Operate", "keep": "Keep"}).partition("</div>")
    assert row.count("<a ") == 2 and "<button" not in row and after.count("<button") == 3


def recorded_on(session: Session, word: dict) -> None:
    """Let the live patch bear a word of the gate."""
    live = session.live
    patch = replace(live.patch, settings={**live.patch.settings, RECORD: word})
    session.edits[-1] = LiveEdit(live.case, replace(live.result, patch=patch))


def test_the_gate_s_budgets_have_signs_and_units_and_what_is_broken_comes_first(session):
    checks = (
        Check("harmless_kl", "harmless KL", "nats a token", 0.05, 0.2, 16),
        Check("lost_defence", "lost defence of unseen questions", "points", -50.0, 12.5, 8),
        Check("over_refusal", "harmless prompts refused", "points", 12.5, 7.0, 16),
        Check("parroting", "parroting", "%", 4.0, 5.0, 24, "a training sentence given to 45 % of 11 harmful prompts"),
        Check("gain", "gain", "prompts", 4.0, 2.0, 13, "8 of 8 unseen (vanilla 4)", least=True),
    )
    word = {"passed": False, "overridden": False, "choice": "", "weights": session.row.label(), "detector": ""}
    recorded_on(session, {**word, "checks": [asdict(check) for check in checks]})
    line, whole = operate_texts.gate_brief(session).split("</summary>")
    said = seen(line)
    order = [said.index(name) for name in ("Refused", "refused +12.5 of 7 points", "gain +4 prompts, at least 2")]
    order.append(said.index("parroting 4 of 5 %"))
    order += [said.index(name) for name in ("harmless KL 0.05 of 0.2 nats", "lost defence -50 of 12.5 points")]
    assert order == sorted(order) and line.count("budget broken") == 1
    assert "refused +12.5 of 7 points: too much" in seen(whole) and "minus: fewer than of the vanilla" in seen(whole)
    assert "A training sentence given to 45 % of 11 harmful prompts." in seen(whole)


def test_the_live_badge_of_a_new_visitor_says_vanilla():
    assert seen(kit_html.live_badge(Session())) == "live weights: vanillano edit is live"


def test_the_live_badge_names_method_layer_strength_and_patch(session):
    session.scale(0.5)
    html = kit_html.live_badge(session)
    patch = session.live.patch.identifier
    assert seen(html) == f"live weights: DINM · layer 2strength 0.5 · patch {patch}1 edit live · 1 kept for Undo"
    assert f'title="live weights: DINM · layer 2 · strength 0.5 · patch {patch} · 1 edit live' in html
    assert "badge edited" in html and "badge vanilla" not in html and "against the gate" not in html


def test_the_live_badge_itself_says_that_an_edit_was_kept_against_the_gate(session):
    recorded_on(session, {"overridden": True, "weights": session.row.label(), "detector": ""})
    badge = kit_html.live_badge(session).split("</small>")[0]
    assert "badge edited overruled" in badge and "! kept against the gate" in seen(badge)
    assert "as it acts now" not in badge
    session.scale(0.5)
    badge = kit_html.live_badge(session).split("</small>")[0]
    assert "! kept against the gate, not as it acts now" in seen(badge)
    assert "the gate has not examined it as it acts now" in badge


def test_the_live_badge_of_an_edit_at_strength_zero_says_vanilla(session):
    session.scale(0.0)
    html = kit_html.live_badge(session)
    assert "live weights: vanilla" in seen(html)


def test_the_badge_above_an_answer_says_which_weights_made_it(session):
    vanilla, edited = kit_html.weights_badge(VANILLA, "question alone"), kit_html.weights_badge(session.row)
    assert seen(vanilla) == "vanillaquestion alone" and "badge vanilla" in vanilla
    patch = session.live.patch.identifier
    assert seen(edited) == f"DINM · layer 2 · patch {patch}" and "badge edited" in edited
    assert f'title="{session.row.label()}"' in edited, "the whole stands behind it"
    assert "badge vanilla" in kit_html.weights_badge(Row(session.live.patch, 0.0))
    halved = kit_html.weights_badge(Row(session.live.patch, 0.5))
    assert seen(halved) == f"DINM · layer 2 · strength 0.5 · patch {patch}"


def test_a_brief_reading_shows_one_line_and_has_the_whole_behind_it_escaped():
    html = kit_html.brief("Short <b>", "Short <b>, and the rest.")
    line, whole = html.split("</summary>")
    assert seen(line) == "Short <b>" and seen(whole) == "Short <b>, and the rest." and "<b>" not in html
    assert 'title="Short &lt;b&gt;"' in line


def test_the_clock_says_what_is_prepared_and_stays_in_its_first_tenth():
    html = operate_texts.clock(Preparation("Asking harmless prompt 3 of 8", 0.5))
    assert seen(html) == "Asking harmless prompt 3 of 8" and "width:5.0%" in html


def test_the_clock_of_a_step_counts_steps_and_the_time_left():
    last = steps(0.1, 0.2, 0.3, limit=10)[-1]
    html = operate_texts.clock(last, seconds_per_step=0.5)
    assert seen(html) == "Step 2 of at most 10 · 0.50 s a step · at most 4 s left"
    assert "width:28.0%" in html


def test_the_clock_before_any_edit_says_what_to_press():
    assert "Press Operate" in seen(operate_texts.clock(None))


@pytest.mark.parametrize("reason", list(STOP_TEXT))
def test_the_clock_of_an_ended_edit_says_why_and_what_is_kept(reason):
    text = seen(operate_texts.finished(result(reason=reason)))
    assert STOP_TEXT[reason] in text and "1.5 s" in text
    assert ("nothing was changed" in text) == (reason == "cancelled")
    assert ("1 update kept" in text) == (reason != "cancelled")


@pytest.mark.parametrize("reason", list(STOP_TEXT))
def test_the_clock_of_an_ended_edit_is_one_line_and_the_whole_is_behind_it(reason):
    made = replace(result(reason=reason, kept=20, trace=steps(*[0.1] * 21)), seconds=169.1, smaller=True)
    line, whole = operate_texts.finished(made).split("</summary>")
    assert len(seen(line)) <= kit_html.LINE and "Memory ran out" not in seen(line)
    assert STOP_TEXT[reason] in seen(whole) and "Memory ran out" in seen(whole)


EDITS_SAY = ("editing/methods/dinm/edit.py", "editing/optimising/smaller.py", "editing/texts/harmless.py")
"""Whose words the clock shows as they are while an edit is prepared."""


def test_what_the_clock_says_that_matters_is_one_line(session):
    refused = operate_texts.refused(session.live.result, session.row).split("</summary>")[0]
    kept = operate_texts.kept_by_hand(session.live).split("</summary>")[0]
    lines = [seen(refused), seen(kept), Place(11, 345.0, False).text(), Place(11, 345.0, True).text()]
    lines += [case_texts.DOUBTFUL[0], case_texts.MEANWHILE[0], operate_texts.STACK_NEXT]
    for by_hand, measured in itertools.product((True, False), repeat=2):
        lines.append(seen(operate_texts.stack_ended(by_hand, measured).split("</summary>")[0]))
    sources = "".join(Path(source).read_text("utf-8") for source in EDITS_SAY)
    preparing = re.findall(r'Preparation\("([^"]+)"', sources)
    assert len(preparing) >= len(EDITS_SAY)
    lines += preparing
    for line in lines:
        assert len(line) <= kit_html.LINE, line
    assert lines[0] == f"Held back by the gate; patch {session.live.patch.identifier} stays live."


@pytest.mark.parametrize(("kept", "words"), [(0, "0 updates kept"), (1, "1 update kept;"), (7, "7 updates kept")])
def test_updates_are_counted_in_good_english(kept, words):
    assert words.rstrip(";") in seen(operate_texts.finished(result(kept=kept)))
    assert ("updates" in seen(operate_texts.finished(result(kept=kept)))) == (kept != 1)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_locate_reading_names_the_layer_of_the_largest_distance(distance):
    measured = divergence(9)
    text = seen(locate_texts.locate_reading(measured, distance, 8))
    assert f"most at layer {int(np.argmax(measured.by(distance)))} of 0-8." in text
    assert ("grows with depth by itself" in text) == (distance == "l2")


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_locate_reading_of_the_other_presets_says_what_is_odd_about_them(padding):
    reference = seen(locate_texts.locate_reading(replace(divergence(), preset="reference", padding=padding), "l2", 3))
    paper = seen(locate_texts.locate_reading(replace(divergence(), preset="paper", padding=padding), "l2", 3))
    assert f"{padding} padding" in reference and "pads count" in reference and "final norm" in reference
    assert f"{padding} padding" in paper and "answers alone" in paper


def test_the_heatmap_reading_names_the_farthest_token_and_spells_none_of_the_unsafe_answer():
    measured = replace(divergence(5, 9), unsafe_tokens=(" rogue",) * 9)
    block, token = np.unravel_index(measured.token_relative.argmax(), measured.token_relative.shape)
    per_token = measured.token_relative.mean(axis=0)
    text = seen(locate_texts.heatmap_reading(measured))
    assert f"token {token} at layer {block} " in text
    assert f"({measured.safe_tokens[token]!r} in the safe answer)" in text and "rogue" not in text
    assert text.endswith(f"largest at token {per_token.argmax()}, smallest at token {per_token.argmin()}.")


def test_the_prompt_reading_counts_tokens_and_warns_only_about_odd_ones():
    plain, odd = PromptView("x", 1234, 8192, ()), PromptView("x", 1, 2, ("2 control characters left out",))
    assert seen(case_texts.prompt_reading(plain)) == "1,234 of at most 8,192 tokens."
    assert "warn" not in case_texts.prompt_reading(plain) and "warn" in case_texts.prompt_reading(odd)
    assert "2 control characters left out" in seen(case_texts.prompt_reading(odd))


def test_the_tiles_show_the_measured_numbers_of_the_kept_step():
    before, after = (likelihood(seed=1), likelihood(seed=2)), (likelihood(seed=3), likelihood(seed=4))
    measured = replace(comparison(), before=before, after=after, strength=0.5)
    edit = result(block=2, reason="damage budget", trace=steps(0.1, 0.2, 0.3), kept=1)
    live = LiveEdit(bundled_cases()[0], edit)
    text = seen(compare_texts.tiles(measured, live))
    assert text.startswith(live.row(0.5).label()), "the badge of the weights that were measured"
    for then, now in ((before[0], after[0]), (before[1], after[1])):
        assert f"{kit_html.probability(then.per_token)} → {kit_html.probability(now.per_token)}" in text
        assert f"{kit_html.probability(then.first)} → {kit_html.probability(now.first)}" in text
    assert "0.01nats" in text, "KL of step 1, the kept one, not of the rejected one"
    assert f"{kit_html.number(edit.patch.norm / 2)}layer 2" in text, "the change at half strength"
    assert "0zero by construction" in text and "1 updates" not in text


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_harmless_answers_move_by_is_conditional_where_the_edit_is_routed_however_it_was_made(routed, weight):
    edit = replace(result(), settings=replace(result().settings, constraint_weight=weight))
    told = compare_texts.numbers(comparison(), LiveEdit(bundled_cases()[0], edit), routed)
    assert ("harmless answers, if it acted there" in seen(told)) is ("were the edit to act on them" in told) is routed
    assert ("harmless answers moved by" in seen(told)) is not routed


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_the_number_that_does_not_follow_the_strength_says_so(strength):
    live = LiveEdit(bundled_cases()[0], result())
    told = compare_texts.numbers(replace(comparison(), strength=strength), live, False)
    assert ("at strength 1" in seen(told)) is (strength != 1) and 'at strength 1"' in told, "the title always says it"


def test_the_compare_readings_agree_with_the_measurements():
    measured = comparison(6, 10)
    l2 = measured.divergence_before.l2.copy()
    l2[4] += 7
    measured = replace(measured, divergence_after=replace(measured.divergence_before, l2=l2))
    said = {role: seen(html) for role, html in compare_texts.compare_readings(measured).items()}
    assert said.keys() == {role for role, *_ in FIGURES}, "each figure has its own"
    tokens, divergences, layers = (said[role] for role in ("token_figure", "divergence_figure", "shift_figure"))
    by_token, neurons = said["shift_tokens"], said["neurons"]
    raised = (measured.after[0].log_probabilities > measured.before[0].log_probabilities).sum()
    assert numbers(tokens)[:2] == [raised, 10]
    assert "most at layer 4:" in divergences and "below 2 cannot change" in divergences
    largest = int(measured.shift.by_token.mean(axis=1).argmax())
    assert f"most at layer {largest}, by {measured.shift.by_token.mean(axis=1).max():.1%}" in layers
    answer, prompt = measured.shift.by_token[largest, 5:].mean(), measured.shift.by_token[largest, :5].mean()
    assert f"At layer {largest} the answer's tokens move by {answer:.1%}, the prompt's by {prompt:.1%}." == by_token
    furthest = int(measured.profile.relative.argmax())
    assert neurons.startswith(f"Layer 2: neuron {furthest} moved most, by {measured.profile.relative.max():.1%}")
    change = np.sort(measured.profile.change**2)
    assert neurons.endswith(f"the ten largest changes hold {change[-10:].sum() / change.sum():.1%} of the whole.")
