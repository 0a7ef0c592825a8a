"""Measure drivers against each other, so that the figures can be believed; the command is `pe bench`."""
