"""Tests of the decoders on bytes made by hand."""
