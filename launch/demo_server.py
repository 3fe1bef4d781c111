"""What does the demo page's server answer, beside what Gradio does for its own page?"""

import re
from typing import Any
from urllib.parse import unquote

from gradio import processing_utils
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_pipeline.errors import InputError
from launch.demo_videos import Videos, sentence
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


def app_options(host: str, videos: Videos, most: int) -> dict[str, Any]:
    """What Gradio's application is made with, to listen on `host`; uploads have `most` bytes."""
    processing_utils.async_ssrf_protected_download = _refuse
    guards = [Middleware(Guard)]
    if host in LOOPBACK:
        # Another site's name that leads here (DNS rebinding) does not make its pages ours.
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    return {"middleware": guards, "routes": _routes(videos, most)}


async def _refuse(*_: Any, **__: Any) -> str:
    """Stands where Gradio downloads a web address that a request names as a file."""
    raise InputError("No addresses are fetched")


class Guard:
    """Answers what the page needs and nothing else, and says so to browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
        await app(scope, receive, send_with_headers)


def _answered(scope: Scope) -> bool:
    if scope["method"] in ("GET", "HEAD"):
        return READ.fullmatch(scope["path"]) is not None
    # A page of another site cannot have the visitor's browser upload or ask.
    origin = dict(scope["headers"]).get(b"sec-fetch-site", b"same-origin")
    return origin == b"same-origin" and WRITTEN.fullmatch(scope["path"]) is not None


def _routes(videos: Videos, most: int) -> list[Route]:
    """Uploading, playing and cutting, by keys and seconds; what draws charts. None names a path."""

    async def upload(request: Request) -> Response:
        """The file as body, its name in X-Name; answers with its key, or with what is wrong."""
        try:
            with videos.room(unquote(request.headers.get("x-name", ""))) as path:
                too_large = InputError(f"{path.name}: has more than {most / 1e6:g} MB")
                if int(request.headers.get("content-length", 0)) > most:
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
