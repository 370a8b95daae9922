"""The same operation for programs: named endpoints of ``gradio_client``, with plain numbers.

A client keeps its session from call to call, as a browser does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any, cast

import gradio as gr

from dashboard.edit_events import act, asked_for, edit_events, examined
from dashboard.endpoints import gives, takes
from dashboard.endpoints.filing import connect_files
from dashboard.endpoints.naming import named
from dashboard.endpoints.reading import reading_endpoints
from dashboard.endpoints.sharing import sharing_endpoints
from dashboard.endpoints.two_models import model_endpoints
from dashboard.kit.bus import News
from dashboard.kit.door.doors import key_of
from dashboard.kit.room import Context
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.running.run import Throttle, drain, shown_to_user
from dashboard.kit.sessions.acting import require_detector
from dashboard.kit.sessions.acting import undo as undo_edit
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts, case_of, texts_of
from dashboard.kit.sessions.values import require_bundled
from dashboard.steps.case.run import view_prompt
from dashboard.steps.compare import run as comparing
from dashboard.steps.compare.run import Measured
from dashboard.steps.locate import run as locating
from dashboard.steps.methods import run as contests
from dashboard.steps.methods.further import rounded_beside, routed_too
from dashboard.steps.methods.run import ALONE, TITLES, patch_of, rounding_record, run_contest, standing_record
from dashboard.steps.methods.state import Compared
from dashboard.steps.operate import gating
from dashboard.steps.operate import run as operating
from dashboard.steps.stress import run as stress
from dashboard.steps.stress.judging import judges_of
from dashboard.steps.stress.rounding import with_rounding
from dashboard.steps.why import run as why
from dashboard.steps.why.state import Looked
from editing import Preparation, preset
from editing.command import marks
from editing.gate.budgets import budgets_with
from editing.rounding import row_progress
from editing.standing import Standing
from inspector.divergence import DISTANCES
from inspector.errors import CaseError
from inspector.locators import Located, NotLocated, Setup, locate_with
from inspector.model import SUFFIX, Decoding, PromptFormat
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import ExamResult, Progress
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.known import Answer, Asked
from inspector.safeedit.records import reply_record


def connect(context: Context) -> None:
    """Register the named endpoints; each one's docstring is its help."""
    model, judges = context.model, judges_of(context)

    def texts(question: str, template: str, safe: str, unsafe: str, format: PromptFormat) -> Texts:
        context.limits.require_short(question, template, safe, unsafe, format.suffix)
        given = Texts(question, template, safe, unsafe, format)
        if context.read_only:
            require_bundled(given)
        return given

    def cases() -> gives.BundledCases:
        """List the bundled cases: question, template with its slot, safe and unsafe answer, category."""
        found: list[Any] = []
        for case in bundled_cases():
            told = texts_of(case).told()
            found.append({**told, "category": case.category, "id": case.identifier})
        return found

    def prompt(
        question: takes.Question,
        template: takes.AttackTemplate = "",
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
    ) -> gives.Prompt:
        """Assemble an adversarial prompt: its text as the model gets it, tokens, limit, notes."""
        with shown_to_user():
            context.limits.require_short(question, template, suffix)
            given = Texts(question, template, "", "", PromptFormat(suffix, chat))
            if context.read_only:
                raise CaseError("This demo is read-only: free text is off.")
            return cast(gives.Prompt, asdict(view_prompt(model, given)))

    def locate(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        preset_name: takes.PresetName = "corrected",
        padding: takes.PaddingSide = "right",
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> gives.Divergence:
        """Measure the divergence: a curve a distance, the toxic and the recommended layer, each with its reason."""
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            measured = locating.locate(model, session, given, preset_name, padding)
            found: Any = {
                **marks(model, measured, context.layers),
                "blocks": model.blocks,
                **{distance: measured.by(distance).tolist() for distance in DISTANCES},
            }
            return found

    def edit(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        block: takes.Layer,
        preset_name: takes.PresetName = "corrected",
        steps: takes.Steps = 0,
        suffix: takes.Suffix = SUFFIX,
        on_top: takes.OnTop = False,
        routed: takes.MadeRouted = None,
        chat: takes.Chat = True,
        budgets: takes.GateBudgets = None,
        request: gr.Request | None = None,
    ) -> Iterator[gives.EditEvent]:
        """Run DINM on a layer and the gate, a dictionary a step; the last one has the patch and the gate's word.

        What the gate refuses is not live until /keep.
        """
        with shown_to_user(), context.reserved(request) as session:
            changes: dict[str, Any] = {"suffix": suffix, **({"steps": steps} if steps else {})}
            if not chat:  # else it is the preset's own
                changes["chat"] = False
            settings, allowed = preset(preset_name, **changes), budgets_with(budgets or {})
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            tried = asked_for(context, session, settings, routed, changes)
            yield from edit_events(
                context,
                session,
                lambda each: operating.make(model, session, given, block, each, on_top),
                tried,
                allowed,
            )

    def keep(request: gr.Request | None = None) -> gives.Kept:
        """Make the edit live that the gate has refused; its patch records that it was kept by hand."""
        with shown_to_user(), context.reserved(request) as session:
            live = gating.keep(session)
            return {"weights": session.row.label(), "gate": gating.record_of(live)}

    def ask(
        text: takes.Text,
        strength: takes.Strength = None,
        max_new_tokens: takes.NewTokens = 64,
        suffix: takes.OwnSuffix = None,
        routed: takes.ActsRouted = None,
        chat: takes.OwnChat = None,
        request: gr.Request | None = None,
    ) -> gives.BothAnswers:
        """Answer one text with the vanilla and with this session's edited weights; an edit is asked with its suffix.

        Strength and routing hold here and in /stress_test until they are given again.
        """
        with shown_to_user(), context.reserved(request) as session:
            if context.read_only:
                raise CaseError("This demo is read-only: free text is off.")
            format = own_format(session, suffix, chat)
            act(context, session, strength, routed)
            decoding = Decoding(max_new_tokens=session.limits.require_tokens(max_new_tokens))
            asked = comparing.prompt_of(session, text)
            for _ in comparing.ask(model, session, asked, format, decoding, context.detector):
                pass
            measured = session.slot(Measured)
            assert measured.answers is not None
            return {
                "vanilla": measured.answers.texts[0],
                "edited": measured.answers.texts[1],
                "weights": session.row.label(),
                "held_back": bool(measured.answers.held_back[1]),
                "detector": asdict(measured.detected) if measured.detected else None,
            }

    def stress_test(
        size: takes.TestSize = "Quick",
        judge: takes.JudgeName = "refusal rules (embedded)",
        attacks: takes.Attacks = stress.NO_ATTACKS,
        max_new_tokens: takes.NewTokens = stress.LONGEST_ANSWER,
        suffix: takes.OwnSuffix = None,
        asked: takes.Asked = "same prompts",
        chat: takes.OwnChat = None,
        both: takes.BothWays = True,
        request: gr.Request | None = None,
    ) -> Iterator[gives.StressEvent]:
        """Score this session's edit in its own prompt format, a dictionary a batch; the last has scores and replies.

        Beside them are the scores that rounding alone gives, where the model can be rounded.
        """
        with shown_to_user(), context.reserved(request) as session:
            own_format(session, suffix, chat)  # another one is refused; the exam is asked in the edit's
            decoding = Decoding(max_new_tokens=session.limits.require_tokens(max_new_tokens))
            loaded = yield from judges.of(judge, session.cancelled.is_set)
            if loaded is None:
                raise CaseError("Cancelled before the judge was loaded.")

            def told_of(exam: ExamResult) -> gives.StressExam:
                record = json.loads(stress.as_json(model, exam))
                return cast(gives.StressExam, {**record, "replies": [_in_text(reply) for reply in record["replies"]]})

            def prepared(event: Preparation) -> gives.StressEvent:
                return {
                    "done": False,
                    "kind": "preparation",
                    "replies": [],
                    "message": event.message,
                    "fraction": event.fraction,
                }

            def rounded(progress: Progress) -> gives.StressEvent:
                return prepared(Preparation(row_progress(progress), progress.fraction))

            def answered(progress: Progress) -> gives.StressEvent | None:
                if not progress.fresh:
                    return None
                replies = [_in_text(reply_record(reply)) for reply in progress.fresh]
                return {"done": False, "answered": progress.answered, "total": progress.total, "replies": replies}

            other = None
            if both:
                other = yield from drain(stress.other_way(model, session, context.detector), prepared)
            heard: dict[Asked, Answer] = {}
            run = stress.stress(model, session, size, loaded, attacks, asked, decoding, other, heard)
            exam = yield from drain(run, answered)
            kept = session.slot(stress.Examined)
            scored = kept.exam is exam  # else it was cancelled before its first answers, and the one before is kept
            if scored:
                yield from drain(with_rounding(model, session, heard), rounded)
            last: Any = {
                "done": True,
                **told_of(exam),
                "rounding": [asdict(score) for score in kept.yardstick] if scored else [],
                "rounding_note": kept.rounded_as if scored else "",
                "other": told_of(kept.other) if scored and kept.other is not None else None,
            }
            yield last

    def locators(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> Iterator[gives.LocatorScores]:
        """Ask every locator, a dictionary each: its scores a layer, the layer it chooses, and why."""
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            setup = Setup(format=given.format, cancel=session.cancelled.is_set)
            for event in locate_with(model, case_of(given), setup=setup):
                if isinstance(event, Located):
                    found: Any = {**vars(event), "scores": event.scores.tolist(), "layer": event.block}
                    yield found
                elif isinstance(event, NotLocated):
                    yield {"locator": event.locator, "refused": event.why}

    def atlas(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        answers: takes.AtlasAnswers = why.NO_ANSWERS,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> Iterator[gives.AtlasPart]:
        """Make the same small edit at every layer and measure each, a dictionary a group of layers."""
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            shown = session.slot(Looked).why.atlas
            for progress in why.atlas(model, session, given, answers):
                made = session.slot(Looked).why.atlas
                if made is not None and made is not shown:
                    shown = made
                    part = {"done": progress.fraction >= 1, **json.loads(json.dumps(asdict(made)))}
                    yield cast(gives.AtlasPart, part)

    def methods(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        layer: takes.Layer,
        chosen: takes.Chosen = None,
        scope: takes.Scope = "LoRA",
        train_on: takes.TrainOn = ALONE,
        size: takes.ContestSize = "Brief",
        max_new_tokens: takes.NewTokens = contests.LONGEST_ANSWER,
        suffix: takes.Suffix = SUFFIX,
        asked: takes.Asked = "same prompts",
        chat: takes.Chat = True,
        routed: takes.RoutedToo = False,
        request: gr.Request | None = None,
    ) -> Iterator[gives.MethodRecord]:
        """Run several methods on a case, a dictionary a method as it is done: scores, cost, toxicity and shift.

        After the methods comes one called Rounded, if any was examined: what bfloat16 by itself does to the same
        harmless answers, or why that is not known. Routed lines come after it.
        """
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            titles = list(TITLES) if chosen is None else chosen
            detector = require_detector(model, context.detector) if routed else None
            run = run_contest(
                model, session, given, layer, titles, scope, train_on, size, max_new_tokens, EmbeddedJudge(), asked
            )
            shown, passing = 0, Throttle(1.0)
            for progress in run:
                if len(progress.standings) > shown:
                    shown = len(progress.standings)
                    context.bus.told(News.MADE, session, {})
                    yield cast(gives.MethodRecord, standing_record(progress.standings[-1]))
                elif passing.due():  # a client is told nothing, and whoever stands in line has a turn
                    yield cast(gives.MethodRecord, Elsewhere())
            for _ in rounded_beside(model, session):
                if passing.due():
                    yield cast(gives.MethodRecord, Elsewhere())
            known = session.slot(Compared).contest
            if known is not None and known.rounded_as and not session.cancelled.is_set():
                yield cast(gives.MethodRecord, rounding_record(known))
            if detector is None or session.cancelled.is_set():
                return
            settings = contests.exam_settings(size, max_new_tokens, asked)
            for event in routed_too(model, session, settings, detector, EmbeddedJudge()):
                if isinstance(event, Standing):
                    yield cast(gives.MethodRecord, standing_record(event))
                elif passing.due():
                    yield cast(gives.MethodRecord, Elsewhere())

    def load_method(
        method: takes.MethodTitle, keep_anyway: takes.KeepAnyway = False, request: gr.Request | None = None
    ) -> gives.Live:
        """Hold the patch of a method that was run to the gate and make it live; /ask and /stress_test then use it.

        What the gate refuses is an error that says why, and not live until /keep.
        """
        with shown_to_user(), context.reserved(request, room=True) as session:

            def loading() -> Generator[Any, None, gating.Made | None]:
                taken = yield from patch_of(model, session, method, context.detector)
                if taken is None:
                    return None
                made = gating.Made(taken[0], detector=taken[1].detector, as_saved=taken[1])
                return (yield from examined(context, session, made))

            made = context.in_turn(loading(), "load_method", session, request)
            if made is None:
                raise CaseError("Cancelled: the weights that were live still are.")
            if not gating.settle(session, made):
                if made.acceptance is None:
                    raise CaseError("Cancelled before the gate had decided: the weights that were live still are.")
                if not keep_anyway:
                    raise CaseError(
                        f"{made.acceptance.reason} {method}'s patch is not live. Call /keep to make it live all the "
                        "same, or pass keep_anyway."
                    )
                gating.keep(session)
            return {"weights": session.row.label(), "edits": len(session.edits)}

    def undo(request: gr.Request | None = None) -> gives.Live:
        """Drop this session's live edit; the one before it is live again and acts as it acted."""
        with shown_to_user(), context.reserved(request) as session:
            undo_edit(session)
            return {"weights": session.row.label(), "edits": len(session.edits)}

    def cancel(request: gr.Request | None = None) -> gives.Cancelled:
        """End this session's running work within one step."""
        with shown_to_user():
            context.sessions.of(key_of(request)).cancelled.set()
        return {"cancelled": True}

    def status(request: gr.Request | None = None) -> gives.Status:
        """Tell which model is loaded and which weights are live for this session.

        While a run of its own waits in line: how many are before it, and for how long.
        """
        with shown_to_user():
            session = context.asking(request)
        place = context.line.place_of(session)
        return {
            "model": model.name,
            "models": context.shelf.labels,
            "fingerprint": model.fingerprint,
            "blocks": model.blocks,
            "dtype": model.dtype_name,
            "weights": session.row.label(),
            "edits": len(session.edits),
            "ahead": None if place is None else place.ahead,
            "wait_seconds": None if place is None else round(place.seconds, 1),
        }

    functions: tuple[Callable[..., Any], ...] = (
        cases,
        prompt,
        locate,
        *reading_endpoints(context, texts),
        locators,
        atlas,
        edit,
        keep,
        ask,
        stress_test,
        methods,
        load_method,
        undo,
        status,
        *sharing_endpoints(context, texts),
        *model_endpoints(context, texts),
    )
    for function in functions:
        named(function, context.in_line(function))
    connect_files(context)
    named(cancel)


def own_format(session: Session, suffix: str | None, chat: bool | None) -> PromptFormat:
    """Return the prompt format that a client asks in: an edit is asked as it was made, and what is left out is so.

    Raises:
        CaseError: Another one was given than the live edit's.
    """
    made = session.asked_in(PromptFormat())
    given = PromptFormat(made.suffix if suffix is None else suffix, made.chat if chat is None else chat)
    if session.live is not None and given.suffix != made.suffix:
        raise CaseError(
            f"The live edit was made with the suffix '{made.suffix}' and is asked with it. Leave the suffix out, or "
            "edit anew with yours."
        )
    if session.live is not None and given.chat != made.chat:
        way = "in the chat template" if made.chat else "in plain text"
        raise CaseError(f"The live edit was made {way} and is asked so. Leave 'chat' out, or edit anew with yours.")
    return given


def _in_text(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply's record with the lists of its question as text, a line each.

    Gradio sends what has changed since the message before, and loses count where lists within a list became shorter.
    """
    question = dict(reply["question"])
    question["accepted"] = "\n".join(question["accepted"])
    question["taught"] = "\n".join(answer["text"] for answer in question["taught"])
    return {**reply, "question": question}
