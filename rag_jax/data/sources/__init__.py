"""Readers of the user's data: one file format, or a family, in each module."""
