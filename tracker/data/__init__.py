"""Recorded vehicles for the demo. Origin and licence: `README.md` beside this file."""
