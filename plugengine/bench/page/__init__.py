"""Show a benchmark run as one web page that needs nothing else."""

from plugengine.bench.page.document import page

__all__ = ["page"]
