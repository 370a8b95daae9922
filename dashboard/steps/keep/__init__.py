"""The step "keep": what leaves and comes in as a file, and the visit's edits, its ledger, its texts and its view."""
