"""The embedded job server: the protocol of the real one, with faults on request and a ledger.

It stands alone: it imports nothing from the proxy. Run it with `python -m jobserver`.
"""
