"""Tests that run all of it: Volatility on guest dumps, small ones and real ones."""
