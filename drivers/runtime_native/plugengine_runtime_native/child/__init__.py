"""Between fork and exec: prepared values and system calls only; no imports, logging, plugins or name lookups.

Once a child has entered a container's root, an import would read the container's files, and a name service or codec
lookup would load its code (CVE-2019-14271). So everything this package needs is imported here, in the parent.
"""

from plugengine_runtime_native.child.enter import become_exec, namespaces_of
from plugengine_runtime_native.child.init import become_init
from plugengine_runtime_native.child.report import Report, explain, read_report

__all__ = ["Report", "become_exec", "become_init", "explain", "namespaces_of", "read_report"]
