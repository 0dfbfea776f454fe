"""A link shortener that counts clicks."""
