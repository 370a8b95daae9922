"""Endpoints that hand a visit on: its report as files, links to a case and its settings; as the page's own steps do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from dashboard.endpoints import gives, takes
from dashboard.endpoints.filing import as_file
from dashboard.endpoints.reading import Given
from dashboard.kit.room import Context
from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.acting import WHERE_IT_ACTS
from dashboard.kit.sharing.linking import Linking, parts_of
from dashboard.steps.report import run as reporting
from inspector.model import SUFFIX, PromptFormat


def sharing_endpoints(context: Context, texts: Given) -> tuple[Callable[..., Any], ...]:
    """Return the endpoints; each one's docstring is its help."""
    model, linking = context.model, context.one(Linking, lambda: Linking(context))

    def report(redact: takes.Redact = False, request: gr.Request | None = None) -> gives.WrittenReport:
        """Write this visit down as one HTML file that opens without a network, and its run as a script and a notebook.

        Nothing is measured anew: it has what this client has located, edited, asked and scored so far.
        """
        with shown_to_user(), context.reserved(request) as session:
            made = reporting.report(model, session, context.reporters, redact, context.layers)
            html, script, notebook = map(as_file, made.files)
            return {
                "file": html,
                "script": script,
                "notebook": notebook,
                "bytes": made.size,
                "parts": list(made.titles),
                "weights": made.weights,
                "redacted": made.redacted,
            }

    def make_link(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        layer: takes.LinkedLayer = None,
        preset_name: takes.PresetName = "corrected",
        steps: takes.Steps = 0,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> gives.MadeLink:
        """Make a link to a case, a layer and an edit's settings, for pages and programs; its address holds no text.

        A bundled case with the settings of a new page (preset corrected, its own steps) is named in it and does not
        expire. All else is kept in memory under a random name, this client's last 20 links for the time that is told. A
        read-only demo keeps nothing: its links bring a bundled case and a layer, and other settings are refused.
        """
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            values = linking.values_of(given, layer, preset_name, **({"steps": steps} if steps else {}))
            query = linking.query(session, values, choices=False)
            return {
                "address": f"?{urlencode(query)}#operate",
                "name": query.get("link"),
                "expires_in": context.links.keep_for if "link" in query else None,
            }

    def open_link(link: takes.Link) -> gives.OpenedLink:
        """Tell the case, the layer and the settings that a link stands for, whoever has made it, here or on the page.

        Nothing is run, and what is live stays live.
        """
        with shown_to_user():
            context.limits.require_short(link)
            meant = linking.meant(parts_of(link))
            settings = asdict(meant.settings)
            return {
                **meant.texts.told(),  # type: ignore[typeddict-item]
                "layer": meant.layer,
                "preset_name": settings.pop("preset"),
                "settings": settings,
                "decoding": asdict(meant.decoding),
                "routed": {"everywhere": False, "where harm": True}.get(meant.choices.get(WHERE_IT_ACTS, "")),
            }

    return report, make_link, open_link
