"""Which function answers which request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from tests.loopback_hub import files, publishing, reading, uploads
from tests.loopback_hub.messages import Refusal, Request, Response, redirect
from tests.loopback_hub.state import State

_KIND = r"(?P<kind>models|datasets|spaces)"
_ID = r"(?P<id>[^/]+/[^/]+)"
_API = rf"/api/{_KIND}/{_ID}"
_REVISION = r"/(?P<revision>[^/]+)"
_PATH = r"/(?P<path>.+)"
_PLAIN = rf"/(?:(?P<kind>datasets|spaces)/)?{_ID}"
_UPLOAD = rf"/uploads/{_KIND}/{_ID}/(?P<digest>[0-9a-f]{{64}})"


class Route(NamedTuple):
    methods: str
    pattern: re.Pattern[str]
    answer: Callable[..., Response]
    """Called with the hub, the request and the named parts of the path, unquoted."""


def _route(methods: str, pattern: str, answer: Callable[..., Response]) -> Route:
    return Route(methods, re.compile(pattern), answer)


_HUB = (
    _route("GET", "/api/whoami-v2", reading.whoami),
    _route("POST", "/api/validate-yaml", publishing.validate_yaml),
    _route("POST", "/api/repos/create", publishing.create_repository),
    _route("DELETE", "/api/repos/delete", publishing.delete_repository),
    _route("GET HEAD", rf"{_API}(?:/revision{_REVISION})?", reading.info),
    _route("GET", rf"{_API}/tree{_REVISION}(?:{_PATH})?", reading.tree),
    _route("POST", rf"{_API}/paths-info{_REVISION}", reading.paths_info),
    _route("GET", rf"{_API}/refs", reading.refs),
    _route("GET", rf"{_API}/commits{_REVISION}", reading.commits),
    _route("GET", rf"{_API}/safetensors-metadata{_PATH}", reading.safetensors_metadata),
    _route("GET", rf"{_API}/auth-check(?P<write>/write)?", reading.auth_check),
    _route("GET", rf"{_API}/xet-(?P<access>read|write)-token(?:{_REVISION})?", files.xet_token),
    _route("POST", rf"{_API}/preupload{_REVISION}", publishing.preupload),
    _route("POST", rf"{_API}/commit{_REVISION}", publishing.commit),
    _route("POST", rf"{_API}/lfs-files/duplicate", publishing.duplicate),
    _route("POST", rf"{_API}/lfs-verify", uploads.verify),
    _route("POST DELETE", rf"{_API}/branch/(?P<name>[^/]+)", publishing.branch),
    _route("POST DELETE", rf"{_API}/tag{_REVISION}", publishing.tag),
    _route("POST", rf"{_API}/discussions", publishing.discussions),
    _route("GET", rf"{_API}/discussions/(?P<number>\d+)", publishing.discussion),
    _route("GET HEAD", rf"/api/resolve-cache/{_KIND}/{_ID}{_REVISION}{_PATH}", files.cached),
    _route("POST", rf"{_UPLOAD}/complete", uploads.complete),
    _route("POST", rf"{_PLAIN}\.git/info/lfs/objects/batch", uploads.batch),
    _route("GET HEAD", rf"{_PLAIN}/resolve{_REVISION}{_PATH}", files.resolve),
)
_CDN = (
    _route("GET HEAD", "/files/.+", files.cdn_file),
    _route("PUT", _UPLOAD, uploads.put),
    _route("PUT", rf"{_UPLOAD}/(?P<number>\d+)", uploads.put_part),
)


def answered(hub: State, request: Request) -> Response:
    """The answer of a hub in good health; a refusal is one, so that faults can stand before it."""
    try:
        return _routed(hub, request)
    except Refusal as refusal:
        return refusal.response()


def _routed(hub: State, request: Request) -> Response:
    for route in _CDN if request.origin == "cdn" else _HUB:
        match = route.pattern.fullmatch(request.path)
        if match and request.method in route.methods.split():
            parts = {name: unquote(part) if part else part for name, part in match.groupdict().items()}
            return _moved(hub, request, parts) or route.answer(hub, request, **parts)
    raise Refusal(404, f"Cannot {request.method} {request.path}")


def _moved(hub: State, request: Request, parts: dict[str, str]) -> Response | None:
    """The way to a repository that has another name now: the Hub redirects every request."""
    old = parts.get("id")
    new = hub.renamed.get((parts.get("kind") or "models", old)) if old else None
    if old is None or new is None or request.origin == "cdn":
        return None
    return redirect(307, request.target.replace(f"/{old}", f"/{new}", 1))
