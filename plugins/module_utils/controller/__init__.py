"""The run of a playbook: settings, prerequisites, reaching hosts, and the cache of modules.

Runs on: controller.
"""
