"""Code that doesn't depend on an application: commands, files, systemd, facts, and reading untrusted input.

Runs on: both.
"""
