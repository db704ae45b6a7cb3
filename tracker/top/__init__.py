"""`tracker top`: who is connected to a gateway, the slowest first."""
