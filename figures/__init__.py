"""Figures drawn from what runs have logged. Nothing here loads torch."""
