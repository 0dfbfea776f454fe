"""Tests of the application, on SQLite, and on PostgreSQL when TEST_DATABASE_URL names a database."""
