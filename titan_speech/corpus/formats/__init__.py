"""Importers, one module a format, and what they share: files, lines, columns and records of an input."""
