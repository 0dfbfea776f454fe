"""Tests of the scenario `handover`."""
