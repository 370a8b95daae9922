"""The finished example: made and kept."""
