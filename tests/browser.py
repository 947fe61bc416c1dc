"""A page opened in a real JavaScript engine with a DOM: the lightpanda browser, which comes with pip.

It lays nothing out and paints nothing, but it runs every script of a page; what goes wrong there is told.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

PATIENCE_S = 300  # of a busy machine; an idle one needs two seconds
# run before anything of the page: gathers problems, and writes them down when the page has come to rest
WATCH = """
window.problems = [];
const note = (...words) => window.problems.push(words.map(String).join(" "));
window.addEventListener("error", (event) => note("error:", event.message));
window.addEventListener("unhandledrejection", (event) => note("rejected:", event.reason));
for (const name of ["error", "warn"]) console[name] = (...words) => note(name + ":", ...words);
window.alert = (word) => note("alert:", word);
window.addEventListener("load", () => setTimeout(() => {
  const drawn = [...document.querySelectorAll(".js-plotly-plot")].filter((plot) => plot.querySelector(".main-svg"));
  const seen = { problems: window.problems, drawn: drawn.map((plot) => plot.id) };
  document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
}, 300));
"""


@dataclass
class Seen:
    """What a browser made of a page."""

    problems: list[str]  # errors, warnings, alerts
    drawn: list[str]  # ids of the charts that plotly drew
    requests: list[str]  # paths asked of the server


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.asked.append(self.path)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[http.server.HTTPServer]:
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def opened(page: Path) -> Seen:
    """Open a page from a server of its folder on this machine, wait until it rests, and tell what happened."""
    with _served(page.parent) as server:
        wait = str(PATIENCE_S * 1000)
        done = subprocess.run(
            [
                sys.executable, "-m", "lightpanda.cli", "fetch", "--dump", "html", "--strip-mode", "js",
                "--inject-script", WATCH, "--wait-selector", "html[data-seen]", "--wait-ms", wait,
                "--watchdog-ms", wait, f"http://127.0.0.1:{server.server_port}/{page.name}",
            ],
            capture_output=True, text=True, timeout=2 * PATIENCE_S,
            env={**os.environ, "LIGHTPANDA_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    assert "No module named" not in done.stderr, "the browser is missing: pip install -c constraints.txt -e '.[dev]'"
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, f"the page never came to rest: {done.stderr[-2000:]}"
    seen = json.loads(unescape(found[1]))
    return Seen(seen["problems"], seen["drawn"], server.asked)
