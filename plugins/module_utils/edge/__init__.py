"""The edge's data on an application: nginx's access log, limits, and the upstream servers.

Runs on: both.
"""
