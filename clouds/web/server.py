"""The server of the page. Only the command `clouds serve` imports it, because Gradio is optional."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clouds.api.files import load_for_files
from clouds.d2 import CfgNode
from clouds.engine.log import start_log
from clouds.errors import UserError
from clouds.utils.signals import stop_requested
from clouds.web.addresses import Address
from clouds.web.page import Page
from clouds.web.prediction import Limits, Predictions
from clouds.web.style import CSS, theme

logger = logging.getLogger(__name__)

# A browser refuses whatever the page asks of another host. Gradio's pages have inline styles, scripts and templates.
_POLICY = "; ".join((
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
    "base-uri 'self'", "form-action 'self'", "frame-ancestors 'self'", "object-src 'none'",
))  # fmt: skip
_SESSIONS = 16  # browsers whose last prediction is kept
_PAUSE = 0.1  # seconds


class _SameHost:
    """Adds headers to each answer that keep the browser from asking another host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, send_with_policy)


@dataclass(frozen=True)
class Network:
    """Network to load, see `clouds.api.files.load_for_files`.

    Attributes:
        source: trained network.
        cfg: config that was read from `config_file` and `opts`; None without a `config_file`.
        config_file: YAML config; None for that beside the weights.
        opts: alternating config keys and values.
        dataset: YAML file that describes the data set whose classes are predicted.
    """

    source: str
    cfg: CfgNode | None
    config_file: str | None
    opts: Sequence[str]
    dataset: str | None


def serve(
    network: Network, address: Address, limits: Limits, queue: int, examples: Sequence[Path], folder: Path
) -> None:
    """Load a network, and serve the page until a signal asks to stop.

    Args:
        network: network to load.
        address: host and port.
        limits: limits of the uploads.
        queue: largest number of predictions that wait.
        examples: paths of images to try.
        folder: folder of all uploads and results.

    Raises:
        UserError: the network cannot be loaded, or the port is in use.
    """
    start_log(None)
    model = load_for_files(network.source, network.cfg, network.config_file, network.opts, dataset=network.dataset)
    predictions = Predictions(model, limits)
    page = Page(predictions, network.source, examples, folder).build(queue)
    address.check()
    try:
        page.launch(
            server_name=f"[{address.host}]" if ":" in address.host else address.host,
            server_port=address.port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=limits.megabytes << 20,
            state_session_capacity=_SESSIONS,
            app_kwargs={"middleware": [Middleware(_SameHost)]},
            theme=theme(),
            css=CSS,
        )
    except OSError as error:  # Gradio waits some seconds for its server
        raise UserError(f"The server did not start at {address.url}: give the same command again.") from error
    logger.info(f"The page is at {address.url} until Ctrl-C")
    if not address.is_local:
        logger.warning(f"Everybody who reaches {address.host} over the network can use this page")
    while stop_requested() is None:
        time.sleep(_PAUSE)
    page.close(verbose=False)
    predictions.wait()
