"""The controller's side of a run: settings, prerequisites, reachability of hosts, and the cache of modules.

Runs on: controller.
"""
