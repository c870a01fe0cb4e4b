"""Runs first in the engine and the tool: finds a module in the archive by its name, and reads it by one call.

PyInstaller's importer asks each entry of a path for each module, and opens the executable once more for it: six system
calls and twice the Python, a quarter of what an engine takes that is started for one request. Promise: the same modules
as before, from the same archive; what is not in it is looked for as before. The executable stays open, so a bundle that
was replaced on disk goes on with its own modules.
"""

import marshal
import os
import sys
import zlib
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec

import pyimod02_importers
from pyimod01_archive import PYZ_ITEM_MODULE, PYZ_ITEM_PKG

_archive = pyimod02_importers.pyz_archive
_file = os.open(_archive._filename, os.O_RDONLY | os.O_CLOEXEC)


class _Loader(pyimod02_importers.PyiFrozenLoader):
    def get_code(self, fullname):
        """The code of the module; by the slower way in a process that has closed what it inherited."""
        _, offset, length = _archive.toc[fullname]
        try:
            return marshal.loads(zlib.decompress(os.pread(_file, length, _archive._start_offset + offset)))
        except (OSError, zlib.error):
            return super().get_code(fullname)


class _Finder:
    @staticmethod
    def find_spec(fullname, *_):
        """Where the module is, None when it is not in the archive. Its name tells all: no package has others' paths."""
        kind = _archive.toc.get(fullname, (None,))[0]
        if kind != PYZ_ITEM_MODULE and kind != PYZ_ITEM_PKG:
            return None
        package = kind == PYZ_ITEM_PKG
        loader = _Loader(fullname, _archive, fullname, package)
        spec = ModuleSpec(fullname, loader, origin=loader.path, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [loader.path.rpartition("/")[0]]
        return spec


sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _Finder, *(
    each for each in sys.meta_path if each not in (BuiltinImporter, FrozenImporter)
)]
