"""Tests of the scenario `applications`."""
