"""What a page says: its text without its tags."""

from __future__ import annotations

import re
from html import unescape

from django.test import Client


def words_of(client: Client, url: str, status: int = 200) -> str:
    """The words of the page at `url`, one space between them."""
    answer = client.get(url)
    assert answer.status_code == status, answer.content.decode()[:500]
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())))
    return re.sub(r" ([,.:;)])", r"\1", words).replace("( ", "(")
