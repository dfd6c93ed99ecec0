"""Doubles of known drivers: on the wire as the originals are, quirks and all."""
