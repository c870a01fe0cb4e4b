"""The list of a cluster's nodes, where its configuration says that it is: in a file, or in the configuration itself.

    read("/etc/tulle/cluster.json", records)  ->  NodeList(cluster, digest, stamp)

A list of people's is whole or nothing: a single peer that cannot be reached is an error of theirs, and told. Of a list
that an agent learned such a peer is left out, for the others would be without their pods.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple, TypeAlias

import msgspec

from cni_plugin import cluster as clusters
from cni_plugin import decoding
from cni_plugin.cluster import Cluster, render
from cni_plugin.errors import INVALID_CONFIG, TRY_AGAIN_LATER, CniError
from cni_plugin.kernel.host import files
from cni_plugin.store.clusters import ClusterFacts, Stamp, cluster_file
from cni_plugin.store.records import Records

Source: TypeAlias = str | Mapping[str, object]
"""The path of a list, or the list."""


class NodeList(NamedTuple):
    """A list and where it is. `lenient`: peers that cannot be reached are left out of it; `learned`: just now.

    `digest` tells it from every other, `stamp` its file from another one, () where that does not.
    """

    cluster: Cluster
    source: Source
    lenient: bool
    digest: str = ""
    stamp: Stamp = ()
    learned: bool = False


def read(source: Source, records: Records) -> NodeList:
    """The list as it is now. Raises CniError 7 for a bad one, 11 for one that the agent has yet to learn."""
    stamp = stamp_of(source)
    data = data_of(source, records)
    cluster = clusters.parse(decoded(source, data))
    return NodeList(cluster, source, source == cluster_file(records), digest_of(data), stamp)


def written(listed: NodeList, before: NodeList | None, known: ClusterFacts | None) -> NodeList:
    """A list that was learned, with the digest and the stamp of its file, which is written if it is another one."""
    if not listed.learned or not isinstance(listed.source, str):
        return listed
    path = listed.source
    stamp = stamp_of(path, replaced=True)
    if known is not None and known.stamp == stamp and before is not None and before.cluster == listed.cluster:
        return listed._replace(digest=known.digest, stamp=stamp)
    data = render(listed.cluster)
    if files.read(path) != data:
        files.write(path, data)
        stamp = stamp_of(path, replaced=True)
    return listed._replace(digest=digest_of(data), stamp=stamp)


def data_of(source: Source, records: Records) -> bytes:
    """Its bytes. Raises CniError as `read`."""
    if not isinstance(source, str):
        return msgspec.json.encode(source)
    try:
        return files.follow(source)
    except FileNotFoundError as error:
        if source == cluster_file(records):
            raise CniError(
                TRY_AGAIN_LATER,
                f"the agent has not learned the cluster yet: there is no {source}; its log says what it waits for "
                "(journalctl -u tulled, or kubectl logs)",
            ) from None
        raise _unreadable(source, error) from error
    except OSError as error:
        if error.errno not in files.MISNAMED:
            raise
        raise _unreadable(source, error) from error


def decoded(source: Source, data: bytes) -> object:
    """What these bytes say. Raises CniError 7."""
    if not isinstance(source, str):
        return source
    try:
        return decoding.decode(data)
    except msgspec.DecodeError as error:
        raise CniError(INVALID_CONFIG, f"invalid cluster {source!r}: the file is not valid JSON: {error}") from error


def stamp_of(source: Source, *, replaced: bool = False) -> Stamp:
    """What tells a file from another one at its place without reading it, () where nothing does.

    Of one that was written just now a second writing might bear the same time (`files.TICK`), unless it is only ever
    `replaced` by a rename.
    """
    if not isinstance(source, str):
        return ()
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # a path with a NUL in it is none
        return ()
    if not replaced and abs(time.time_ns() - found.st_mtime_ns) < files.TICK:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def digest_of(data: bytes) -> str:
    """What tells a list from every other."""
    return sha256(data).hexdigest()


def _unreadable(source: str, error: OSError) -> CniError:
    return CniError(INVALID_CONFIG, f"invalid cluster {source!r}: {error.strerror}; name a JSON file that can be read")
