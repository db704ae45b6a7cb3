"""The HTTP side of the gateway: a Quart-Trio app."""
