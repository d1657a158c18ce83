"""Builders of what tests decode, made from the formats' definitions."""
