"""The files for browsers: the snippet, which any site may load, the pages, and what these load."""

import gzip
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Final

from litestar import Response, get
from litestar.params import HeaderParameter, PathParameter

from stream.api.context import UsesApi, problems
from stream.api.problems import ApiError

_TYPES: Final = {  # Litestar adds "; charset=utf-8" to text
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {connect}; base-uri 'none'; "
    "form-action {forms}; frame-ancestors 'none'"
)
FilePath = Annotated[str, PathParameter(max_length=64)]
AcceptEncoding = Annotated[str, HeaderParameter(name="Accept-Encoding", description="`gzip` gets it compressed.", max_length=256)]


@cache
def _read(name: str) -> bytes:
    return (files("stream.api") / "pages" / name).read_bytes()


@cache
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@cache
def _page_files() -> frozenset[str]:
    """What pages load, beside the snippet."""
    names = {file.name for file in (files("stream.api") / "pages").iterdir()}
    return frozenset(name for name in names - {"snippet.js"} if name.endswith((".css", ".js")))


def page(name: str, *, connect: Sequence[str] = (), forms: Sequence[str] = (), **values: str) -> Response[bytes]:
    """A page with the values that stand in it, which are HTML already, by their names; `connect`: origins that it may ask too;
    `forms`: where its forms may lead, redirects included.
    """
    content = _read(name)
    for place, value in values.items():
        content = content.replace(b"{%s}" % place.encode(), value.encode())
    return _file(name, content, connect=connect, forms=forms)


def _file(
    name: str, content: bytes, accept_encoding: str = "", connect: Sequence[str] = (), forms: Sequence[str] = ()
) -> Response[bytes]:
    headers = {
        "Content-Security-Policy": _POLICY.format(connect=" ".join(("'self'", *connect)), forms=" ".join(forms) or "'none'"),
        "Referrer-Policy": "no-referrer",
        "ETag": f'"{blake2b(content, digest_size=12).hexdigest()}"',
    }
    if "gzip" in accept_encoding:
        content, headers["Content-Encoding"] = _compressed(content), "gzip"
    return Response(content, media_type=_TYPES[name.rsplit(".", 1)[1]], headers=headers)


@get("/snippet.js", media_type=_TYPES["js"], responses=problems(), summary="The snippet for web pages")
async def snippet(accept_encoding: AcceptEncoding = "") -> Response[bytes]:
    """Sends a visitor's clicks and follows the visitor's list: see the guide for web pages."""
    return _file("snippet.js", _read("snippet.js"), accept_encoding)


@get("/shop", include_in_schema=False)
async def shop(api: UsesApi) -> Response[bytes]:
    """The demo's shop. Its public key stands in the page, as in any page with the snippet."""
    return page("shop.html", key=api.page_key)


@get("/pages/{name:str}", include_in_schema=False)
async def page_file(name: FilePath) -> Response[bytes]:
    """Style sheets and scripts of the pages. They hold no data."""
    if name not in _page_files():
        raise ApiError(404, "no page has such a file")
    return _file(name, _read(name))


DEMO_PAGES: Final = (shop,)
