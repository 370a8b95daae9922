"""What comes in from browsers and programs, and what is handed out to them."""
