"""One GET to the Hub, checked: redirects followed by our own rules, refusals turned into faults, tries counted.

The token goes to the Hub's origin alone.  A redirect may lead anywhere (the storage lies elsewhere), but not from https to
http, and not in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

import orjson

from overlay.errors import EnvironmentFault, OverlayError
from overlay.storage.hub.environment import endpoint, hub_headers, origin_of, without_token
from overlay.storage.hub.faults import RETRIED, Place, clean, fault_of_status, transient_of
from overlay.storage.hub.patience import Transient, Tries, asked_wait, current_patience
from overlay.storage.hub.session import hub_session, watched

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

_MAX_HOPS: Final = 6
_MAX_JSON_BYTES: Final = 64 * 1024 * 1024
_EXPIRED: Final = frozenset({401, 403, 404, 410})
"""What a storage says to a signed URL that is no longer valid."""


class Expired(Exception):
    """A URL that was resolved earlier is no longer served."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer of a chain of redirects; its body has not been read."""

    response: httpx.Response
    url: str
    told: Mapping[str, str]
    """What the Hub's own hops said of the file: ``x-repo-commit``, ``x-linked-etag``, ``x-linked-size``."""


@contextmanager
def answered(
    url: str, place: Place, headers: Mapping[str, str] | None = None, *, early: bool = False
) -> Iterator[Answer]:
    """GET `url` once; the body is read inside of the context, and let go at its end.

    Args:
        url: of the Hub, or one that it led to earlier.
        place: what messages name.
        headers: beside the client's own and the token.
        early: whether `url` was resolved earlier, so that it may have expired.

    Raises:
        Expired: it has.
        Transient: another attempt may bring more; also while the body is read.
        OverlayError: it will not.
    """
    from huggingface_hub.utils import httpx

    try:
        with ExitStack() as stack:
            answer = _follow(stack, url, place, dict(headers or {}))
            _require_success(answer, place, early)
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise transient_of(error, place) from None


def _follow(stack: ExitStack, url: str, place: Place, headers: dict[str, str]) -> Answer:
    told: dict[str, str] = {}
    hub = origin_of(endpoint())
    ours = hub_headers()
    for _ in range(_MAX_HOPS):
        at_hub = origin_of(url) == hub
        response = _send(url, {**(ours if at_hub else without_token(ours)), **headers})
        stack.callback(response.close)
        if at_hub:
            for name in ("x-repo-commit", "x-linked-etag", "x-linked-size"):
                if name in response.headers:
                    told.setdefault(name, response.headers[name])
        if not response.is_redirect:
            return Answer(response, url, told)
        response.close()
        url = _next_hop(url, response.headers.get("location", ""), place)
    raise EnvironmentFault(
        f"expected an answer, found {_MAX_HOPS} redirects", subject=str(place), hint="check HF_ENDPOINT"
    )


def _send(url: str, headers: dict[str, str]) -> httpx.Response:
    from huggingface_hub.utils import httpx

    patience = current_patience()
    client = hub_session()
    timeout = httpx.Timeout(patience.silence, connect=patience.connect)
    with watched():
        return client.send(
            client.build_request("GET", url, headers=headers, timeout=timeout), stream=True, follow_redirects=False
        )


def _next_hop(url: str, location: str, place: Place) -> str:
    try:
        target = urljoin(url, location)
        scheme = origin_of(target)[0]
    except ValueError:
        target = scheme = ""
    if not scheme or (scheme == "http" and url.startswith("https:")):
        problem = f"expected a redirect to an https address, found {clean(location)!r}"
        raise EnvironmentFault(problem, subject=str(place), hint="a proxy may stand between; check HF_ENDPOINT")
    return target


def _require_success(answer: Answer, place: Place, early: bool) -> None:
    response = answer.response
    status = response.status_code
    if status < 300:
        return
    foreign = origin_of(answer.url) != origin_of(endpoint())
    if early and status in _EXPIRED:
        raise Expired
    fault = fault_of_status(status, response.headers, place, response.request.url.host if foreign else "")
    if status in RETRIED or (foreign and status in _EXPIRED):
        raise Transient(fault, asked=asked_wait(response.headers) if status in RETRIED else None)
    raise fault


def get_json(url: str, place: Place) -> tuple[Any, str]:
    """A document of the Hub's API, and the address of its next page, or "".

    Raises:
        EnvironmentFault: the Hub does not answer, or with something else.
    """
    tries = Tries()
    while True:
        try:
            with answered(url, place) as answer:
                return _read_json(answer.response, place), _next_page(answer, place)
        except Transient as failure:
            tries.pause(failure)


def _read_json(response: httpx.Response, place: Place) -> Any:
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > _MAX_JSON_BYTES:
            raise unexpected_answer(response, f"a document of at most {_MAX_JSON_BYTES} bytes", place)
        pieces.append(piece)
    try:
        return orjson.loads(b"".join(pieces))
    except ValueError:
        raise unexpected_answer(response, "a JSON document", place) from None


def _next_page(answer: Answer, place: Place) -> str:
    """The next page's address, which gets the token as well and so must be the Hub's."""
    link = answer.response.links.get("next", {}).get("url", "")
    if not link:
        return ""
    target = _next_hop(answer.url, link, place)
    if origin_of(target) != origin_of(endpoint()):
        problem = f"expected the next page of the listing at {endpoint()}, found {clean(target)!r}"
        raise EnvironmentFault(problem, subject=str(place), hint="check HF_ENDPOINT")
    return target


def unexpected_answer(response: httpx.Response, expected: str, place: Place) -> OverlayError:
    """What to say of an answer that is none: what came, as a login page of a network or a broken proxy would send it."""
    headers = response.headers
    found = f"status {response.status_code}, {clean(headers.get('content-type', '')) or 'no content type'}"
    found += f", {clean(headers.get('content-length', 'an unknown number of'))} bytes"
    hint = "a proxy or the login page of a network may stand between; open the address in a browser, then run it again"
    return EnvironmentFault(f"expected {expected}, found {found}", subject=str(place), hint=hint)
