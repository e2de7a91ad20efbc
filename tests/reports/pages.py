"""HTML pages as the tests read them, and a browser to open them with."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
UNREACHABLE = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")


def browse(page, *options):
    """Open a file in a browser that reaches nothing; return what it prints, and what its console says."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *UNREACHABLE]
    command += [
        f"--user-data-dir={page.parent / 'profile'}",
        "--enable-logging=stderr",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Notes elements that do not match, attributes, words by the element they stand in, and charts' words."""

    def __init__(self, html):
        super().__init__()
        self.open, self.faults, self.ids, self.attributes, self.tags = [], [], [], [], []
        self.words, self.chart_words = {}, {}
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)

    def handle_starttag(self, tag, attrs):
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def _note(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "svg":
            self.chart = dict(attrs)["aria-label"].split()[0]
            self.chart_words[self.chart] = []

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.words.setdefault(self.open[-1] if self.open else "", []).append(data)
        if "svg" in self.open:
            self.chart_words[self.chart].append(data)

    @property
    def text(self):
        return " ".join(" ".join(words) for tag, words in self.words.items() if tag != "style")
