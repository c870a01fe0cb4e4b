"""The package `encodings` of the frozen client: UTF-8 alone, which is all that it speaks (see tulle.spec).

No interpreter starts without it: the names of files and the standard streams want a codec. The standard library's
knows a hundred of them by four hundred names, and imports `codecs` and `io` on its way, two dozen classes that the
client, which reads and writes bytes, never uses: 0.8 ms of every pod's start. So this imports built-in modules only;
what the interpreter asks of a codec is in Python/codecs.c and Modules/_io/textio.c.
"""

import _codecs
import _io
import sys


class Codec(tuple):
    """Encoder, decoder, stream reader and stream writer, as `codecs.register` wants them; we have no streams."""

    name = "utf-8"
    _is_text_encoding = True


class Incremental:
    """Text to bytes, and bytes to text piece by piece: the rest of a character that is not whole yet is kept."""

    def __init__(self, errors="strict"):
        self.errors = errors
        self.rest = b""

    def encode(self, text, final=False):  # noqa: ARG002  a character is never cut in two
        """The bytes of this text. Raises UnicodeEncodeError."""
        return _codecs.utf_8_encode(text, self.errors)[0]

    def decode(self, data, final=False):
        """The characters that are whole by now. Raises UnicodeDecodeError."""
        data = self.rest + data
        text, used = _codecs.utf_8_decode(data, self.errors, final)
        self.rest = data[used:]
        return text

    def reset(self):
        """Begin anew."""
        self.rest = b""

    def getstate(self):
        """What `setstate` takes."""
        return self.rest, 0

    def setstate(self, state):
        """Go on from there; a stream that is written to from its middle on says 0."""
        self.rest = state[0] if state else b""


def search_function(name):
    """The codec of this name as `codecs.register` wants it, None for any but UTF-8."""
    return UTF_8 if name.replace("_", "-") in ("utf-8", "utf8") else None


UTF_8 = Codec((_codecs.utf_8_encode, _codecs.utf_8_decode, None, None))
Codec.incrementalencoder = Codec.incrementaldecoder = Incremental
_codecs.register(search_function)
sys.modules["io"] = _io  # `open` and TextIOWrapper are there; what `io` adds is classes to inherit from
