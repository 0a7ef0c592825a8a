"""Conformance cases for namespace drivers."""
