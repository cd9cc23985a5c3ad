"""The chat page: `python app.py`, then http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HOME = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="app.py", description="An any-to-any chat: text, pictures, speech and music, in and out.")
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to serve on (default: this computer only)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument(
        "--family",
        type=Path,
        default=Path(os.environ.get("ANYGPT_FAMILY", HOME / "checkpoints" / "mini")),
        help="model family to load (default: checkpoints/mini, or $ANYGPT_FAMILY)",
    )
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's tunnel; needs --auth or --public")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", default=os.environ.get("ANYGPT_AUTH"), help="ask for a name and a password")
    parser.add_argument(
        "--public", action="store_true", default="SPACE_ID" in os.environ, help="serve strangers: smaller limits, no voice cloning"
    )
    usual = "zero" if os.environ.get("SPACES_ZERO_GPU") else "cpu"
    parser.add_argument(
        "--device",
        default=os.environ.get("ANYGPT_DEVICE", usual),
        help="cpu, cuda, or zero: a card that a Space lends for each call (default: cpu, zero on ZeroGPU, or $ANYGPT_DEVICE)",
    )
    parser.add_argument("--quantize", choices=["4bit", "8bit", "none"], help="bits of the language model (default: as the card needs it)")
    parser.add_argument("--vram", type=int, choices=[8, 12, 16, 24], help="GB of graphics memory to stay within (default: the card's)")
    parser.add_argument(
        "--kv", choices=["int8", "none"], default="none", help="int8: a large model's memory of the chat in half the bytes (default: none)"
    )
    parser.add_argument(
        "--mcp", action="store_true", default="ANYGPT_MCP" in os.environ, help="offer the endpoints as MCP tools too (needs gradio[mcp])"
    )
    options = parser.parse_args(argv)
    if (options.share or options.host not in LOOPBACK) and not (options.auth or options.public):
        parser.error("a page that others can reach needs --auth NAME:PASSWORD, or --public to say that it is meant so")
    if options.auth and ":" not in options.auth:
        parser.error("--auth takes NAME:PASSWORD")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Load a family, build the page, serve it until it is stopped."""
    options = arguments(argv)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="anygpt-cache-") as cache:  # uploads and shown files go when the server ends
        os.environ.setdefault("GRADIO_TEMP_DIR", cache)
        return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    from anygpt_demo import ui
    from anygpt_demo.errors import UserError

    try:
        ui.serve(
            options.family,
            host=options.host,
            port=options.port,
            share=options.share,
            auth=options.auth,
            public=options.public,
            device=options.device,
            quantize=options.quantize,
            vram=options.vram,
            kv=options.kv,
            mcp=options.mcp,
        )
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
