"""One change of the fleet: the deploy lock, the outcome of each host, history and receipts.

Runs on: both.
"""
