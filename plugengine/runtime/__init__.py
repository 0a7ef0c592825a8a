"""The first process of a container: what clones, holds, starts and joins it."""
