"""What does the demo page's server answer, beside what Gradio does for its own page?"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from gradio import processing_utils
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_pipeline.errors import InputError
from data_pipeline.untrusted import parse_json
from launch.page.videos import Videos, sentence
from trainer.pictures.pages import chart_scripts

READ = re.compile(
    r"/((config|theme\.css|charts\.js|favicon\.ico|manifest\.json)|(assets|static|videos)/.*)?"
    r"|/gradio_api/(startup-events|queue/data|heartbeat/\w+)"
)
WRITTEN = re.compile(r"/videos|/gradio_api/queue/join")
"""All that the page asks for. Gradio would also serve files by their paths, take files nobody asked
for and fetch web addresses: nothing of that is needed, and none of it is answered."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The browser neither loads from any other server nor tells one anything."""

TYPES = {".webm": "video/webm", ".mkv": "video/webm", ".ogv": "video/ogg"}
"""As what browsers play a file; what is not here, as MP4. Never the type that a name claims: an
upload called .html would be a page of ours."""

LOOPBACK = ("127.0.0.1", "localhost")

CALL = "/gradio_api/queue/join"
MOST_CALL = 1 << 18
"""Bytes of a call: twenty sentences of five hundred letters, whatever the alphabet."""
SESSION = re.compile(r"[\w-]{1,64}")


def app_options(
    host: str, videos: Videos, most: int, calls: Mapping[int, int] = MappingProxyType({})
) -> dict[str, Any]:
    """What Gradio's application is made with, to listen on `host`; uploads have `most` bytes.

    `calls` are the numbers of the page's functions, and how many values each takes.
    """
    processing_utils.async_ssrf_protected_download = _refuse
    guards = [Middleware(Guard, calls=calls)]
    if host in LOOPBACK:
        # Another site's name that leads here (DNS rebinding) does not make its pages ours.
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    return {"middleware": guards, "routes": _routes(videos, most)}


async def _refuse(*_: Any, **__: Any) -> str:
    """Stands where Gradio downloads a web address that a request names as a file."""
    raise InputError("No addresses are fetched")


class Guard:
    """Answers what the page needs and nothing else, and says so to browsers."""

    def __init__(self, app: ASGIApp, calls: Mapping[int, int]) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), text.encode()) for name, text in HEADERS.items()),
                ]
            await send(message)

        app = self._app if _answered(scope) else PlainTextResponse("There is nothing here.", 404)
        if app is self._app and scope["path"] == CALL:
            body = await _body(scope, receive)
            if body is None:
                app = JSONResponse({"detail": "The call is too long."}, 413)
            elif fault := _call_fault(body, self._calls):
                app = JSONResponse({"detail": fault}, 400)
            else:
                receive = _again(body, receive)
        await app(scope, receive, send_with_headers)


def _answered(scope: Scope) -> bool:
    if scope["method"] in ("GET", "HEAD"):
        return READ.fullmatch(scope["path"]) is not None
    written = scope["method"] == "POST" and WRITTEN.fullmatch(scope["path"]) is not None
    return written and _same_origin(scope["headers"])


def _same_origin(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether no page of another site has the visitor's browser upload or ask.

    Browsers say where a request comes from by Sec-Fetch-Site, but to addresses without https other
    than this machine's only by Origin. (Behind a proxy, Host need not be what the browser sees.)
    """
    told = [(name, value) for name, value in headers if name in (b"sec-fetch-site", b"origin")]
    sites = [value for name, value in told if name == b"sec-fetch-site"]
    if sites:
        return all(value == b"same-origin" for value in sites)
    hosts = [value.lower() for name, value in headers if name == b"host"]
    return all([value.lower().partition(b"://")[2]] == hosts for _, value in told)


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The body of a call; None where it is longer than any, of which the rest is not read."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > MOST_CALL:
            return None
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body has been read."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def _call_fault(body: bytes, calls: Mapping[int, int]) -> str | None:
    """Why Gradio, which would fail with a trace, does not get a call; None where it does."""
    try:
        call = parse_json(body, "The call")
    except InputError as error:
        return sentence(error)
    if not isinstance(call, dict):
        return "The call is no JSON object."
    number, data, event = (call.get(name) for name in ("fn_index", "data", "event_data"))
    if type(number) is not int or number not in calls:
        return "The page has no such function; reload it."
    if not isinstance(data, list) or len(data) != calls[number]:
        return "The call has another number of values than the function takes."
    if not all(value is None or isinstance(value, str) for value in data):
        return "The call's values are no text."
    if not (event is None or isinstance(event, dict)):
        return "The call's event is no JSON object."
    session, trigger = call.get("session_hash"), call.get("trigger_id")
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        return "The call names no session."
    if not (trigger is None or (type(trigger) is int and abs(trigger) < 1 << 31)):
        return "The call names no trigger."
    if call.keys() - {"fn_index", "data", "event_data", "session_hash", "trigger_id"}:
        return "The call holds more than the page sends."
    return None


def _routes(videos: Videos, most: int) -> list[Route]:
    """Uploading, playing and cutting, by keys and seconds; what draws charts. None names a path."""

    async def upload(request: Request) -> Response:
        """The file as body, its name in X-Name; answers with its key, or with what is wrong."""
        try:
            with videos.room(unquote(request.headers.get("x-name", ""))) as path:
                too_large = InputError(f"{path.name}: has more than {most / 1e6:g} MB")
                length = request.headers.get("content-length", "0")
                if length.isascii() and length.isdigit() and int(length[:20]) > most:
                    raise too_large
                size = 0
                with path.open("wb") as file:
                    async for chunk in request.stream():
                        size += len(chunk)
                        if size > most:
                            raise too_large
                        file.write(chunk)
                video = await run_in_threadpool(videos.take, path)
            return PlainTextResponse(video.key)
        except InputError as error:
            return PlainTextResponse(sentence(error), 400)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            return PlainTextResponse(f"The file cannot be kept here ({error.strerror}).", 507)

    def whole(request: Request) -> Response:
        try:
            path = videos.get(request.path_params["key"]).path
        except InputError as error:
            return PlainTextResponse(sentence(error), 404)
        return FileResponse(path, media_type=TYPES.get(path.suffix.lower(), "video/mp4"))

    def clip(request: Request) -> Response:
        start, end = request.path_params["start"], request.path_params["end"]
        try:
            path = videos.get(request.path_params["key"]).clip(start, end)
        except InputError as error:
            return PlainTextResponse(sentence(error), 404)
        return FileResponse(path, media_type="video/mp4")

    def charts(_: Request) -> Response:
        return Response("\n".join(chart_scripts()), media_type="text/javascript")

    return [
        Route("/charts.js", charts),
        Route("/videos", upload, methods=["POST"]),
        Route("/videos/{key}", whole),
        Route("/videos/{key}/{start:float}-{end:float}.mp4", clip),
    ]
