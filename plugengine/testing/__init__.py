"""plugengine: testing."""
