"""Weight patches: what one holds, on disk and at work, where it acts, and a rounding to read it beside."""
