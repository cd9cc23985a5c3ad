"""The page in a window of its own (package pywebview), or in the browser where that cannot be had."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from importlib import import_module
from urllib.error import URLError
from urllib.request import urlopen

from anygpt_demo.terminal import HOME, say

START_S = 120.0  # the server has so long to come up
PORT = 7873


def wait_for(url: str, alive: Callable[[], bool], seconds: float = START_S) -> bool:
    """Whether a server on this computer answers in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - a loopback address
                return True
        except (URLError, OSError):
            time.sleep(0.25)
    return False


def show(url: str, wait: Callable[[], object]) -> None:
    """Open a window and return when it is closed; else the browser, and return when the server ends."""
    try:
        webview = import_module("webview")
        webview.create_window("AnyGPT demo", url, width=1100, height=820)
        webview.start()
        return
    except ImportError:
        say("The package pywebview is not installed: the page opens in the browser.")
    except Exception as error:  # the window system decides: no display, no GTK, no WebView2 ...
        say(f"No window could be opened ({type(error).__name__}): the page opens in the browser.")
    webbrowser.open(url)
    say(f"{url}  (Ctrl-C ends the server)")
    wait()


def run(options: argparse.Namespace) -> int:
    """Serve the page in another process, show it, and end both."""
    url = f"http://127.0.0.1:{options.port or PORT}/"
    command = [sys.executable, str(HOME / "app.py"), "--port", str(options.port or PORT), "--family", str(options.family)]
    server = subprocess.Popen([*command, "--device", options.device], env=os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1"})
    try:
        if not wait_for(url, lambda: server.poll() is None):
            say("The page did not come up.")
            return 1
        show(url, server.wait)
        return 0
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait(20)
