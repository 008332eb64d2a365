"""What every HTTP provider shares: one call as bytes, its time limits, its failures as `LLMError`."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import httpx

from conversations.llm import known_models
from conversations.llm.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    InvalidResponse,
    LLMError,
    ModelNotFound,
    StreamInterrupted,
    TimedOut,
)
from conversations.llm.refusals import error_from_payload, error_from_response, scrub
from conversations.llm.sse import ServerSentEvent, SSEDecoder
from conversations.llm.transport import default_transport, has_ended, ready_bytes
from conversations.llm.types import (
    CompletionRequest,
    ModelInfo,
    Pause,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
)

MAX_ERROR_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024  #: of an answer that is one JSON document
MAX_STREAM_BYTES = 64 * 1024 * 1024  #: of a stream, a hundred times a long reply's
MAX_TEXT = 1024 * 1024  #: characters of a reply with its reasoning; no model's longest has half of them

#: Of every request, beside those of its dialect.
USUAL_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
    "User-Agent": f"python-httpx/{httpx.__version__}",
}

_encode = json.JSONEncoder(ensure_ascii=False).encode

# Nothing has been sent when these are raised.
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

# These leave open what the provider did with the request.
_LOST = (httpx.HTTPError, httpx.StreamError, OSError)

# Bytes that may stand before the first of content: white space and the parts of a byte order mark.
_LEADING = b" \t\r\n\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds."""

    connect: float = 10.0
    first_byte: float = 30.0  #: from the start of the call, connecting included
    between_chunks: float = 30.0
    thinking: float = 180.0  #: in place of the two above for models that think before they write, in silence
    total: float = 600.0
    list_models: float = 5.0
    after_finish: float = 5.0  #: the text is complete; usage and the end mark may follow
    error_body: float = 5.0


class StreamParser(Protocol):
    """A dialect: decoded events in, deltas out. No I/O."""

    done: bool  #: the stream's own end mark has come
    malformed: int  #: events that were not JSON objects, skipped

    @property
    def finished(self) -> bool:
        """The model has said why it stopped: what follows is usage at most."""
        ...

    def feed(self, event: ServerSentEvent) -> list[StreamEvent]: ...

    def feed_document(self, payload: dict[str, Any]) -> list[StreamEvent]:
        """A whole reply in one JSON document, from a relay that does not stream."""
        ...

    def end(self) -> list[StreamEvent]:
        """The last events, Finish among them. Raises StreamInterrupted if the model never finished."""
        ...


class HttpProvider(ABC):
    """Base of the dialects. Belongs to the event loop of its first call; `aclose` it there."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        transport: httpx.AsyncBaseTransport | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`transport` is closed with the provider. Raises ValueError for a base URL that is none."""
        self.name = name
        self._base_url = checked_base_url(base_url)
        self._api_key = api_key.strip()
        self._timeouts = timeouts or Timeouts()
        self._transport = transport or default_transport(self._base_url)
        waits = httpx.Timeout(None, connect=self._timeouts.connect, pool=self._timeouts.connect)
        self._extensions = {"timeout": waits.as_dict()}
        self._addresses: dict[str, httpx.URL] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    async def aclose(self) -> None:
        await self._transport.aclose()

    # What a dialect says.

    @abstractmethod
    def _headers(self) -> dict[str, str]: ...

    @abstractmethod
    def _chat_path(self) -> str: ...

    @abstractmethod
    def _models_path(self) -> str: ...

    @abstractmethod
    def _body(self, request: CompletionRequest) -> dict[str, Any]: ...

    @abstractmethod
    def _new_parser(self) -> StreamParser: ...

    @abstractmethod
    def _model_of(self, row: Mapping[str, Any]) -> ModelInfo: ...

    # One call.

    async def stream(
        self, request: CompletionRequest, *, pause: Pause | None = None
    ) -> AsyncIterator[StreamEvent]:
        """Yield deltas, then one Finish, or raise an `LLMError` whose detail holds neither key nor prompt.

        Text that came in one piece is one delta.
        """
        room = MAX_TEXT
        try:
            async with aclosing(self._events(request, pause)) as events:
                async for event in events:
                    if isinstance(event, TextDelta | ReasoningDelta):
                        room -= len(event.text)
                        if room < 0:
                            yield replace(event, text=event.text[:room])
                            raise InvalidResponse("an answer without end")
                    yield event
        except LLMError as error:
            error.detail = self._scrubbed(error.detail, request)
            error.args = (error.detail,)
            raise

    async def _events(self, request: CompletionRequest, pause: Pause | None) -> AsyncGenerator[StreamEvent]:
        parser, decoder = self._new_parser(), SSEDecoder()
        document: bytearray | None = None
        opened = False
        async with aclosing(self._chunks(request, parser, pause)) as chunks:
            async for chunk in chunks:
                if not opened and (head := chunk.lstrip(_LEADING)):
                    opened = True
                    if head.startswith(b"<"):
                        raise InvalidResponse("a page in place of a reply")
                    if head.startswith((b"{", b"[")):
                        document = bytearray()
                if document is not None:
                    document += chunk
                    if len(document) > MAX_BODY_BYTES:
                        raise InvalidResponse("an answer without end")
                    continue
                for delta in deltas_of(decoder.feed(chunk), parser):
                    yield delta
                if parser.done:
                    await self._drain(chunks)
                    break
                del chunk  # or each of a thousand streams keeps its last piece while it waits for the next
        if document is not None:
            for delta in parser.feed_document(_document(document)):
                yield delta
        elif not parser.done:
            for delta in deltas_of(decoder.end(), parser):
                yield delta
        for delta in parser.end():
            yield delta

    async def _drain(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the little that follows the end mark, so that the connection can be used again."""
        with suppress(TimeoutError, LLMError):
            async with asyncio.timeout(0.2):
                async for _ in chunks:
                    pass

    async def _chunks(
        self, request: CompletionRequest, parser: StreamParser, pause: Pause | None
    ) -> AsyncGenerator[bytes]:
        """The body of the answer as it comes. Once the model has finished, no failure is raised any more."""
        limits, now = self._timeouts, asyncio.get_running_loop().time
        silent = known_models.lookup(request.model_id).thinks
        first_wait = limits.thinking if silent else limits.first_byte
        next_wait = limits.thinking if silent else limits.between_chunks
        last_moment = now() + limits.total
        deadline = min(now() + first_wait, last_moment)
        received = 0
        response = await self._send("POST", self._chat_path(), self._body(request), deadline)
        try:
            if response.headers.get("content-type", "").startswith("text/html"):
                raise InvalidResponse("an HTML page in place of a reply")
            # `aiter_raw` is the cheaper way; compressed answers are rare, because we ask for none.
            plain = response.headers.get("content-encoding", "identity") == "identity"
            body = response.aiter_raw() if plain else response.aiter_bytes()
            while True:
                # What is there already needs neither a timer nor a wait: of a thousand streams most find some.
                is_late = now() >= last_moment
                chunk = ready_bytes(response) if plain and not is_late else b""
                try:
                    if is_late:
                        raise TimeoutError
                    if not chunk and plain and has_ended(response):
                        return
                    if not chunk:
                        async with asyncio.timeout_at(deadline):
                            chunk = await anext(body)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if parser.finished:
                        return
                    over = "the reply took too long" if now() >= last_moment else "the stream fell silent"
                    raise TimedOut(over) from None
                except _LOST as error:
                    if parser.finished:
                        return
                    raise StreamInterrupted(type(error).__name__) from None
                received += len(chunk)
                if received > MAX_STREAM_BYTES:
                    raise InvalidResponse("an answer without end")
                yield chunk
                del chunk
                if pause is not None and not parser.finished:
                    await pause()
                wait = limits.after_finish if parser.finished else next_wait
                deadline = min(now() + wait, last_moment)
        finally:
            await _close(response)

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None, deadline: float
    ) -> httpx.Response:
        """The open response of a success, body unread. Raises for everything else."""
        content = None if body is None else _encode(body).encode("utf-8", "replace")
        if not (self._api_key.isascii() and self._api_key.isprintable()):
            raise AuthenticationFailed("the key has characters that no key has")
        url, headers = self._address(path), self._every_header
        request = httpx.Request(method, url, content=content, headers=headers, extensions=self._extensions)
        try:
            async with asyncio.timeout_at(deadline):
                # Not by way of a client: it would keep cookies, and a redirect would carry the key to another host.
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            raise TimedOut("no answer began") from None
        except _NOT_CONNECTED as error:
            raise ConnectionFailed(type(error).__name__) from None
        except httpx.TimeoutException:
            raise TimedOut("no answer began") from None
        except _LOST as error:
            # The request had left, so that it may be billed.
            raise StreamInterrupted(type(error).__name__) from None
        if response.status_code == 200:
            return response
        try:
            error_body = await self._read_error(response)
        finally:
            await _close(response)
        raise error_from_response(response.status_code, response.headers, error_body)

    def _address(self, path: str) -> httpx.URL:
        """Parsed once: of the few addresses that a provider has, one is asked for each reply."""
        url = self._addresses.get(path)
        if url is None:
            url = self._addresses[path] = httpx.URL(f"{self._base_url}{path}")
        return url

    @cached_property
    def _every_header(self) -> httpx.Headers:
        return httpx.Headers({**USUAL_HEADERS, **self._headers()})

    async def _read_error(self, response: httpx.Response) -> bytes:
        body = bytearray()
        with suppress(*_LOST):
            async with asyncio.timeout(self._timeouts.error_body):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) >= MAX_ERROR_BYTES:
                        break
        return bytes(body[:MAX_ERROR_BYTES])

    def _scrubbed(self, detail: str, request: CompletionRequest | None = None) -> str:
        prompt = (message.content for message in request.messages) if request else ()
        return scrub(detail, api_key=self._api_key, prompt=prompt)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """What the key may use, in the provider's order."""
        try:
            document = await self._get(self._models_path())
        except ModelNotFound as error:
            raise InvalidResponse(
                "the address has no list of models", status=error.status, billable=False
            ) from None
        except LLMError as error:
            error.detail = self._scrubbed(error.detail)
            error.args = (error.detail,)
            raise
        rows = document.get("data")
        if not isinstance(rows, list):
            raise InvalidResponse("no list of models", billable=False)
        return tuple(
            self._model_of(row) for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)
        )

    async def _get(self, path: str) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + self._timeouts.list_models
        response = await self._send("GET", path, None, deadline)
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise InvalidResponse("an answer without end", billable=False)
        except TimeoutError:
            raise TimedOut("the list of models did not come", billable=False) from None
        except _LOST as error:
            raise StreamInterrupted(type(error).__name__, billable=False) from None
        finally:
            await _close(response)
        return _document(body)


def deltas_of(events: Iterable[ServerSentEvent], parser: StreamParser) -> Iterator[StreamEvent]:
    """What the events say, as far as the end mark; pieces of text that follow each other are one.

    Raises what the parser raises, after the text before it.
    """
    texts: list[str] = []
    failure: LLMError | None = None
    try:
        for event in events:
            for delta in parser.feed(event):
                if isinstance(delta, TextDelta):
                    texts.append(delta.text)
                    continue
                if texts:
                    yield TextDelta(text="".join(texts))
                    texts.clear()
                yield delta
            if parser.done:
                break
    except LLMError as error:
        failure = error
    if texts:
        yield TextDelta(text="".join(texts))
    if failure is not None:
        raise failure


def checked_base_url(url: str) -> str:
    """The URL without a slash at its end. Raises ValueError with a sentence for a person."""
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        raise ValueError("The base URL is not a web address.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("The base URL must begin with http:// or https:// and name a host.")
    if parsed.query or parsed.fragment:
        raise ValueError("The base URL must have no query and no fragment.")
    return str(parsed).rstrip("/")


async def _close(response: httpx.Response) -> None:
    with suppress(*_LOST):
        await response.aclose()


def _document(body: bytearray) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidResponse, or what the error object in it means."""
    try:
        payload = json.loads(bytes(body).removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise InvalidResponse("an answer that is not JSON") from None
    if isinstance(payload, list) and payload and isinstance(payload[0], dict) and "error" in payload[0]:
        payload = payload[0]
    if not isinstance(payload, dict):
        raise InvalidResponse("an answer that is not a JSON object")
    if payload.get("error"):
        raise error_from_payload(payload)
    return payload
