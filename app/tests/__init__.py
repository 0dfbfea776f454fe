"""Tests of the application, on SQLite, and on PostgreSQL if TEST_DATABASE_URL is set."""
