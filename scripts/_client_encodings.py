"""The package `encodings` of the frozen client: UTF-8 alone, which is all that it speaks (see tulle.spec).

The standard library's knows a hundred codecs by four hundred names, and takes 0.3 ms of every pod's start to say so.
"""

import codecs

from . import utf_8


def search_function(name):
    """The codec of this name as codecs.register wants it, None for any but UTF-8."""
    return utf_8.getregentry() if name.replace("_", "-") in ("utf-8", "utf8") else None


codecs.register(search_function)
