"""Releases on a host: staged, kept and pruned.

Runs on: host.
"""
