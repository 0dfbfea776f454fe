"""One fleet-wide change: the deploy lock, the outcome of each host, history, receipts and status.

Runs on: both.
"""
