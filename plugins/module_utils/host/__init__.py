"""What any host and the controller have in common: commands, files, systemd, and reading what others wrote.

Runs on: both.
"""
