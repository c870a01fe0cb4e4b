"""Runs first in each frozen executable: gives the environment back as the caller made it.

PyInstaller's loader puts its own directory before LD_LIBRARY_PATH, sets `_PYI_*`, and starts itself once more so
that the dynamic linker takes notice. It has by now; a child that inherits all that (a delegated plugin, `nft`, the
engine) would load our libraries instead of its own. What the loader prepended is known exactly, so it is cut off
rather than restored from LD_LIBRARY_PATH_ORIG, which a caller may have set for reasons of its own.
"""

import os
import sys

_library_path = os.environ.pop("LD_LIBRARY_PATH", "")
_own, _, _callers = _library_path.partition(":")
if _own != getattr(sys, "_MEIPASS", ""):
    _callers = _library_path
if _callers:
    os.environ["LD_LIBRARY_PATH"] = _callers
    if os.environ.get("LD_LIBRARY_PATH_ORIG") == _callers:
        del os.environ["LD_LIBRARY_PATH_ORIG"]
for _name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[_name]
