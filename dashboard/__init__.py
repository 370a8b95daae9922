"""Everything that knows Gradio or plotly: layout, figures, events, per-visitor sessions."""
