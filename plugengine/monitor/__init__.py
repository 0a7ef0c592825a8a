"""The process that owns one container's life: starts it, holds its stdio, serves clients, records the end."""
