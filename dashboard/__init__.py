"""Everything that knows Gradio or plotly: layout, figures, events, per-visitor sessions."""

import os

from dashboard.quicker import import_without_stubs

# Gradio sums up the times of its last 10,000 events anew after each one, which takes longer with each; nobody reads it.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
import_without_stubs()
