"""The report itself: one HTML file with everything in it, for a screen and for paper."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from dashboard.kit.drawing.answers import answer, both_answers
from dashboard.kit.drawing.glossary import alone
from dashboard.kit.drawing.html import reading, weights_badge
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sharing.parts import Figure, Hidden, Part, Reporter, Table, Text, Visit
from dashboard.report.again import Cell, bundled, cells, notebook, repeats, script, why_not_again
from dashboard.report.provenance import commands, provenance
from editing.calibrating.trial_edits import Layers
from inspector.model import InspectedModel
from inspector.model.whole_file import write_whole
from inspector.safeedit import Case

ASSETS = Path(__file__).resolve().parents[2] / "assets"
NOTHING = "Nothing was measured or edited yet, so there is nothing to report. Locate or edit a case first."
LEAST_HEIGHT = 190
"""Pixels: the page's lowest figures stand side by side there, and in a report over its whole width."""
MANY_PAIRS, MANY_COLUMNS = 12, 9
"""Lines of names and values from which they stand side by side; columns from which a table is written small."""
# A report asks nobody for anything: what is not in it is not loaded, whatever it says.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)


@dataclass(frozen=True)
class Report:
    """A visit, written down.

    Attributes:
        html: The report.
        script: The run as a script.
        notebook: The run as a notebook, JSON.
        titles: Its parts.
        stem: A name for its files, without an ending.
    """

    html: str
    script: str
    notebook: str
    titles: tuple[str, ...]
    stem: str


def make_report(
    model: InspectedModel,
    visit: Visit,
    reporters: Sequence[Reporter],
    made: datetime | None = None,
) -> Report | None:
    """Write a visit down; ``None`` where no step holds anything.

    Args:
        reporters: Those of the steps, in the order of the page.
        made: When; now by default.
    """
    parts = [part for report in reporters for part in report(visit)]
    if not parts:
        return None
    made = made or datetime.now().astimezone()
    session = visit.session
    facts = {name: value for part in parts for name, value in part.facts.items()}
    titles = [part.title for part in parts]
    parts.append(provenance(model, session, facts, made))
    written = cells(model, session, facts, visit.hidden)
    case = session.live.case if session.live is not None else session.case
    where = "vanilla" if session.live is None else f"{session.live.patch.method} on {session.live.patch.where()}"
    title = f"{model.name}: {where}, a run of {made:%d %B %Y} with DINM Inspector"
    stem = f"report-{'vanilla' if session.live is None else session.live.patch.identifier}"
    whole = script(title, written)
    prompts = _prompts(parts, *(one for one in (case, session.case) if one is not None))
    own = case is not None and bundled(case) is None and not visit.hidden.texts
    lines = commands(model, session, facts, visit.hidden, titles)
    again = _again(lines, whole, written, why_not_again(session.live), own)
    body = [_section(number, part, visit.hidden, prompts) for number, part in enumerate(parts)]
    html = _page(title, _head(model, visit, facts, made), [part.title for part in parts], "".join(body) + again)
    return Report(html, whole, notebook(title, written), tuple(part.title for part in parts), stem)


def write_report(report: Report, folder: Path) -> tuple[str, str, str]:
    """Write report, script and notebook into a folder and return their paths."""
    found = []
    for ending, content in (("html", report.html), ("py", report.script), ("ipynb", report.notebook)):
        path = folder / f"{report.stem}.{ending}"
        write_whole(path, content)
        found.append(str(path))
    return found[0], found[1], found[2]


def visit_of(session: Any, redact: bool, layers: Layers | None) -> Visit:
    """Return what a report of a session is made of."""
    return Visit(session, Hidden(redact), layers)


def _head(model: InspectedModel, visit: Visit, facts: Mapping[str, Any], made: datetime) -> str:
    left_out = reading("Prompts and answers that are not known to be safe are left out of this report.", "warn")
    return (
        f'<header><p class="kicker">DINM Inspector · report of {made:%d %B %Y, %H:%M %Z}</p>'
        f"<h1>{escape(_title(visit, facts))}</h1>"
        f'<p class="who"><b>{escape(model.name)}</b> · {model.blocks} layers · {escape(model.dtype_name)} · '
        f"fingerprint {escape(model.fingerprint)}</p>{weights_badge(visit.session.row, 'the live weights')}"
        f"{left_out if visit.hidden.texts else ''}</header>"
    )


def _title(visit: Visit, facts: Mapping[str, Any]) -> str:
    """Say in one line what happened."""
    live, said = visit.session.live, []
    if "toxic layer" in facts:
        said.append(f"the answers part most at layer {facts['toxic layer']}")
    if "recommended layer" in facts:
        said.append(f"trial edits work best at layer {facts['recommended layer']}, which is recommended")
    said.append("no edit is live" if live is None else f"{live.patch.method} edited {live.patch.where()}")
    if live is not None and len(facts.get("verdicts", ())) == 2:
        before, after = facts["verdicts"]
        said.append(f"the answer went from {before} to {after}" if before != after else f"both answers are {after}")
    line = ", ".join(said)
    return f"{line[0].upper()}{line[1:]}"


def _prompts(parts: Sequence[Part], *cases: Case) -> list[str]:
    """Return every prompt of a visit: an answer of one part may repeat what another one has asked."""
    found = [prompt for case in cases for prompt in (case.question, case.adversarial_prompt)]
    found += [text.text for part in parts for text in part.texts if text.role == "prompt"]
    found += [prompt for part in parts for prompt in part.prompts]
    return list(dict.fromkeys(found))


def _section(number: int, part: Part, hidden: Hidden, prompts: Sequence[str]) -> str:
    figures = "".join(_figure(f"{number}-{place}", figure) for place, figure in enumerate(part.figures))
    return (
        f'<section id="part-{number}"><h2>{escape(part.title)}</h2>{"".join(map(alone, part.readings))}'
        f"{_texts(part, hidden, prompts)}{figures}{''.join(map(_table, part.tables))}</section>"
    )


def _texts(part: Part, hidden: Hidden, prompts: Sequence[str]) -> str:
    """Return a part's texts, those of both weights or of two models side by side with their differences marked."""
    texts = (*part.texts, *part.beside)
    shown = {one: hidden.text(one, prompts) for one in texts}
    by_role = {one.role: one for one in part.texts}
    pair = list(part.beside) or [by_role[role] for role in ("vanilla", "edited") if role in by_role]
    covered = {one: one.covered and shown[one] == one.text for one in texts}
    heads = {one: _head_over(one, covered[one] or hidden.texts) for one in texts}
    others = "".join(_text(one, heads[one], answer(shown[one]), covered[one]) for one in texts if one not in pair)
    if not pair:
        return others
    written = both_answers((shown[pair[0]], shown[pair[-1]]), compared=len(pair) == 2 and not hidden.texts)
    panes = "".join(_text(one, heads[one], html, covered[one]) for one, html in zip(pair, written, strict=False))
    return f'{others}<div class="answers">{panes}</div>'


def _head_over(text: Text, bare: bool) -> str:
    """Return what stands above a text; bare, it says nothing on pointing: a verdict's reason quotes the answer."""
    head = text.head or f"<h3>{escape(text.title)}</h3>"
    return re.sub(r' title="[^"]*"', "", head) if bare else head


def _text(text: Text, head: str, html: str, covered: bool) -> str:
    cover = f' blurred" data-words="{len(text.text.split())} words, covered' if covered else ""
    kind = f"{text.role}-pane" if text.role in ("vanilla", "edited", "second") else text.role
    return f'<div class="told">{head}<div class="pane {kind}{cover}">{html}</div></div>'


def _figure(name: str, figure: Figure) -> str:
    # No tag can begin inside the JSON, whatever a token of a label is.
    drawn = json.loads(figure.drawn.to_json())
    height = max(LEAST_HEIGHT, int(drawn["layout"].get("height") or 300))
    drawn["layout"]["height"] = height
    content = json.dumps(drawn, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<figure data-title="{escape(figure.title)}"><h3>{escape(figure.title)}</h3>'
        f'<div class="drawn" id="figure-{name}" style="height:{height}px"></div>'
        f'<script type="application/json" data-figure="figure-{name}">{content}</script>'
        f"<figcaption>{alone(figure.reading)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    if len(table.head) == 2 and len(table.rows) > MANY_PAIRS:
        pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in table.rows)
        return f'<h3>{escape(table.title)}</h3><dl class="pairs">{pairs}</dl>'
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    rows = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    kind = "scores wide" if len(table.head) > MANY_COLUMNS else "scores"
    whole = f'<div class="score-wrap"><table class="{kind}">{rows}</table></div>'
    title = escape(table.title)
    if table.folded:
        count = f"{len(table.rows)} line{'' if len(table.rows) == 1 else 's'}"
        return f"<details><summary>{title}, {count}</summary>{whole}</details>"
    return f"<h3>{title}</h3>{whole}"


def _again(
    lines: Sequence[tuple[str, str]], whole: str, written: Sequence[Cell], why_not: str | None, own: bool
) -> str:
    """Say how the run is made again; what holds the texts of a case of one's own, the unsafe answer among them, is
    covered as they are."""

    def code_of(text: str, holds: bool) -> str:
        shown = f"<pre>{escape(text)}</pre>"
        if not (own and holds):
            return shown
        said = "with the texts of the case, covered"
        return f'<div class="pane unsafe blurred" data-words="{said}"><div class="answer">{shown}</div></div>'

    told = "".join(f"<h3>{escape(title)}</h3>{code_of(line, '--unsafe' in line)}" for title, line in lines)
    note = "" if why_not is None else alone(reading(why_not, "warn"))
    code = (
        f"<details><summary>The same in Python, as a script</summary>{code_of(whole, True)}</details>"
        f"{alone(reading(repeats(written)))}"
    )
    return (
        '<section id="again"><h2>Make it again</h2>'
        f"{reading('In the folder of DINM Inspector, on the same model. What a command prints is JSON.')}{note}"
        f"{told}{code if written else ''}</section>"
    )


def _page(title: str, head: str, titles: Sequence[str], body: str) -> str:
    def asset(name: str) -> str:
        return (ASSETS / name).read_text(encoding="utf-8")

    links = "".join(f'<li><a href="#part-{number}">{escape(name)}</a></li>' for number, name in enumerate(titles))
    contents = f'<nav aria-label="Contents"><ol>{links}<li><a href="#again">Make it again</a></li></ol></nav>'
    scripts = (get_plotlyjs(), asset("covers.js"), asset("figures.js"), asset("report.js"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f"<style>{asset('report.css')}</style></head><body><main>{head}{contents}{body}</main>"
        f"{''.join(f'<script>{one}</script>' for one in scripts)}</body></html>"
    )
