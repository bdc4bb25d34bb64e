"""Building: the verb that makes a repository of the difference, `build`."""

from __future__ import annotations

from overlay.core.progress import Reporter, Silent
from overlay.running.building import Built, build_repository
from overlay.running.converting import Conversion
from overlay.running.locating import Places
from overlay.running.opening import open_manifest, require_known_donors
from overlay.storage.targets import absolute


def build(
    path: str,
    target: str,
    *,
    how: Conversion | None = None,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Built:
    """Make the shards of the grafts of the manifest at `path`, and the repository `target` that holds them."""
    where = places or Places()
    opened = open_manifest(path, where, with_lock=False)
    require_known_donors(opened, where)
    return build_repository(opened, absolute(target), how or Conversion(), where, reporter or Silent())
