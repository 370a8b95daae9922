"""Runs: whose one is, the line they wait in, what they lock and fetch."""
