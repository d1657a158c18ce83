"""Tests of volatility_guestdump."""
