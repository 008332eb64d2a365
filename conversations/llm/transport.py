"""How bytes reach a provider: httpx over aiohttp's connections.

httpx's own pool scans all connections for each request and collapses between 200 and 500 concurrent streams;
aiohttp's holds 1,000 at a third of the CPU. This is the only module that knows aiohttp.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

KEEPALIVE_SECONDS = 15.0  #: short: a POST on a connection that the server has just closed is lost


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reads all root certificates: 20 ms


def default_transport(base_url: str) -> httpx.AsyncBaseTransport:
    """A transport without a limit on connections. It belongs to the event loop of its first request."""
    url = httpx.URL(base_url)
    # llama.cpp's server promises to keep a connection and closes it after the stream: the next call on it would be
    # lost. Servers without TLS are near, and a new connection to them costs nothing.
    new_session = functools.partial(_new_session, keep_connections=url.scheme == "https")
    return _Transport(verify=_ssl_context(), client=new_session, proxy=_proxy_for(url))


def _new_session(*, keep_connections: bool) -> aiohttp.ClientSession:
    keeping = {"keepalive_timeout": KEEPALIVE_SECONDS} if keep_connections else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=_ssl_context(), **keeping),
        cookie_jar=aiohttp.DummyCookieJar(),  # nothing of one person's call may reach the next
    )


def _proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """HTTPS_PROXY and NO_PROXY, never for this machine itself.

    aiohttp would read them, too, but then also takes passwords from .netrc, in a thread, for every request.
    """
    if url.host in ("localhost", "::1") or url.host.startswith("127.") or proxy_bypass(url.host):
        return None
    address = getproxies().get(url.scheme)
    return httpx.Proxy(address) if address else None


class _Transport(AiohttpTransport):
    """Tells a lost connection from one that never was: what was sent may be billed.

    httpx-aiohttp calls both a connect time-out.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response: httpx.Response = await super().handle_async_request(request)
            content = cast(Any, response.stream)._aiohttp_response.content
        except httpx.TransportError as error:
            raise _renamed(error) from error.__cause__
        except (
            aiohttp.ClientError
        ) as error:  # one that httpx-aiohttp has no name for, such as a bad status line
            raise httpx.RemoteProtocolError(type(error).__name__) from error
        # Without its request: the prompt would stay with the response for as long as it is read.
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=response.stream,
            extensions=response.extensions | {"content": content},
        )


def ready_bytes(response: httpx.Response) -> bytes:
    """What has come of the body and was not read, without waiting; nothing if the body has ended or failed."""
    content: aiohttp.StreamReader | None = response.extensions.get("content")
    return content.read_nowait() if content is not None and content.exception() is None else b""


def has_ended(response: httpx.Response) -> bool:
    """Whether the body has come to its end, as far as is known without waiting, and all of it was read."""
    content: aiohttp.StreamReader | None = response.extensions.get("content")
    return content is not None and content.at_eof() and content.exception() is None


def _renamed(error: httpx.TransportError) -> httpx.TransportError:
    match error.__cause__:
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return httpx.ConnectError(str(error))
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout(str(error))
        case aiohttp.ClientConnectionError():
            return httpx.ReadError(str(error))
    return error
