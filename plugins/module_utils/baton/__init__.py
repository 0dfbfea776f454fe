"""Typed logic behind Baton's modules: reading a host's state apart from deciding what to do."""
