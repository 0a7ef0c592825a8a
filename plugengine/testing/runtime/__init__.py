"""The conformance kit for runtime drivers."""
