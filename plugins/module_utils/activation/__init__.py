"""Activating a release on a host: rehearsal, handover, proof, and the way back.

Runs on: host.
"""
