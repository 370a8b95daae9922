"""What every step uses; no step is known here."""
