"""One application on a host: where its files and units are, its health, its server's status, its logs.

Runs on: both.
"""
