"""Build of an artifact: the source, its locked requirements, and wheels for every target.

Runs on: controller.
"""
