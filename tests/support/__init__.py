"""Code that all kinds of tests share. A regular package, so that a scenario's own tests/support.py can't hide it."""
