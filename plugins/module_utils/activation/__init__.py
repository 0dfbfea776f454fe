"""Activation of a release on a host: rehearsal, handover, proof and revert.

Runs on: host.
"""
