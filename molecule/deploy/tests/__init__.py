"""Tests of the scenario `deploy`."""
