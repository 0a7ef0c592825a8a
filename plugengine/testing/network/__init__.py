"""Conformance cases for network drivers."""
