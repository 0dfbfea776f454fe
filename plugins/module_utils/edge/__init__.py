"""What nginx knows of an application: its access log and the servers behind it.

Runs on: both.
"""
