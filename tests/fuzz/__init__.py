"""Fuzzing: damaged and hostile dumps must end in one of the package's own errors, and soon."""
