"""One application on a host: paths and units, health, server status, logs, secrets.

Runs on: both.
"""
