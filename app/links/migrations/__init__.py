"""Alembic's environment and, in versions/, the migrations."""

# Oldest first. Listed here for /readyz, so that workers don't import Alembic (0.2 s, 12 MB); tests/test_migrations.py
# compares them with the files.
REVISIONS = ("0001", "0002")
