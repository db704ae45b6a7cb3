"""Everything goes wrong at once, and the books must balance: `make chaos`.

A room of the tests and not of the bench, since nothing is measured: it judges, with the
tests' own brokers, gateways, peers and browsers.
"""
