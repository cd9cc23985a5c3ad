"""Measuring: judges, figures on held-out items and speed."""
