"""Alembic's environment and, in versions/, the migrations."""

# Oldest first. Named here for /readyz, so that no worker has to import Alembic (0.2 s, 12 MB) to know them;
# tests/test_migrations.py holds them to the files.
REVISIONS = ("0001", "0002")
