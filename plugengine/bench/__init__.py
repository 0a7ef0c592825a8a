"""plugengine: bench."""
