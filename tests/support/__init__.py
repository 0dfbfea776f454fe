"""What tests of every kind share. A proper package, so that a scenario's own tests/support.py can't hide it."""
