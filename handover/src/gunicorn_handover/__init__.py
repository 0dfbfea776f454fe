"""Gunicorn with Uvicorn workers whose reload and stop lose no request. See the README."""

__version__ = "0.1.0"
