"""Programs that run inside what is measured: standard library only, any Python from 3.8, nothing of the engine."""
