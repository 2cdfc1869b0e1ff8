"""The live socket: a read-only consumer that says which topics changed, never what they hold."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from runs.live.feed import feed
from runs.live.session import user_of
from runs.live.topics import MAX_TOPICS, concerns, followable, group_of, run_of

SIGNED_OUT = 4401
NOT_ALLOWED = 4403
TRY_AGAIN = 4500

MAX_BYTES = 65536
BEAT_SECONDS = 4.0
RECHECK_BEATS = 2
HEARTBEAT_BEATS = 5
REJOIN_BEATS = 900
COOLING_SECONDS = 1.0


class LiveConsumer(AsyncWebsocketConsumer):
    """Follows the topics of one page.

    In: `{"sub": ["run:<id>", "runs", "inbox"]}`, the page's whole list.
    Out: `{"ok": […], "no": […]}` in answer and when a permission ends, `{"t": "run", "id": …, "rev": …}`,
    `{"t": "runs"}`, `{"t": "inbox"}`, `{"t": "hb"}`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._topics: list[str] = []
        self._news: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._joined = False

    async def connect(self) -> None:
        await self.accept()
        self._session_key = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME)
        try:
            if await _standing(self._session_key, []) is None:
                await self.close(SIGNED_OUT)
                return
            self._joined = True
            await feed.join(self.channel_layer)
        except DatabaseError:
            await self.close(TRY_AGAIN)
            return
        self._tasks["beat"] = asyncio.create_task(self._beat())

    async def disconnect(self, code: int) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self._follow([])
        if self._joined:
            feed.leave()

    # From the page

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        asked = _topics_asked(text_data)
        if asked is None:
            await self._say({"error": "malformed"})
            return
        allowed = await self._allowed(asked)
        if allowed is not None:
            await self._follow(allowed)
            await self._say({"ok": allowed, "no": [topic for topic in asked if topic not in allowed]})

    async def _follow(self, topics: list[str]) -> None:
        for topic in set(self._topics) - set(topics):
            await self.channel_layer.group_discard(group_of(topic), self.channel_name)
        for topic in topics:
            await self.channel_layer.group_add(group_of(topic), self.channel_name)
        self._topics = topics

    # From the feed

    async def live_changed(self, message: dict[str, Any]) -> None:
        """A topic changed: say so now, and again at most once a second."""
        topic = message["topic"]
        if topic not in self._topics:
            return
        before = self._news.get(topic, {"rev": 0, "pipelines": []})
        self._news[topic] = {
            "rev": max(before["rev"], message["rev"]),
            "pipelines": sorted({*before["pipelines"], *message["pipelines"]}),
        }
        if topic not in self._tasks:
            self._tasks[topic] = asyncio.create_task(self._tell(topic))

    async def _tell(self, topic: str) -> None:
        while news := self._news.pop(topic, None):
            if await self._may_hear(topic, news["pipelines"]):
                run_id = run_of(topic)
                await self._say({"t": topic} if run_id is None else {"t": "run", "id": run_id, "rev": news["rev"]})
            await asyncio.sleep(COOLING_SECONDS)
        del self._tasks[topic]

    async def _may_hear(self, topic: str, pipelines: list[str]) -> bool:
        """Judged at the moment of sending: the session, the topic, and for the lists whether the change concerns it."""
        allowed = await self._allowed([topic], pipelines)
        if allowed is None:
            return False
        if not allowed and run_of(topic) is not None:
            await self._drop([topic])
        return topic in allowed

    # Of its own accord

    async def _beat(self) -> None:
        beats = 0
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            beats += 1
            if beats % RECHECK_BEATS == 0 and not await self._recheck():
                return
            if beats % REJOIN_BEATS == 0:
                await self._follow(self._topics)  # a layer forgets its members after a day
            if beats % HEARTBEAT_BEATS == 0:
                await self._say({"t": "hb"})

    async def _recheck(self) -> bool:
        allowed = await self._allowed(self._topics)
        if allowed is None:
            return False
        if lost := [topic for topic in self._topics if topic not in allowed]:
            await self._drop(lost)
        return bool(allowed) or not lost

    async def _drop(self, lost: list[str]) -> None:
        await self._follow([topic for topic in self._topics if topic not in lost])
        await self._say({"ok": self._topics, "no": lost})
        if not self._topics:
            await self.close(NOT_ALLOWED)

    async def _allowed(self, topics: list[str], pipelines: list[str] | None = None) -> list[str] | None:
        """Those of `topics` that the session's user may follow; None when the socket was closed over it."""
        try:
            allowed = await _standing(self._session_key, topics, pipelines)
        except DatabaseError:
            await self.close(TRY_AGAIN)
            return None
        if allowed is None:
            await self.close(SIGNED_OUT)
        return allowed

    async def _say(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(message))


@database_sync_to_async
def _standing(session_key: str | None, topics: list[str], pipelines: list[str] | None = None) -> list[str] | None:
    """What the session's user may follow of `topics`, given that the news is of `pipelines`; None when signed out."""
    user = user_of(session_key)
    if user is None:
        return None
    allowed = followable(user, topics) if topics else []
    if pipelines is None:
        return allowed
    return [topic for topic in allowed if run_of(topic) is not None or concerns(user, pipelines)]


def _topics_asked(text: str | None) -> list[str] | None:
    """The topics of a `sub` message; None when it is anything else."""
    if text is None or len(text) > MAX_BYTES:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    topics = message.get("sub") if isinstance(message, dict) else None
    if not isinstance(topics, list) or len(topics) > MAX_TOPICS:
        return None
    return list(dict.fromkeys(topics)) if all(map(_is_topic, topics)) else None


def _is_topic(word: object) -> bool:
    """Whether a word can be a topic: neither half a surrogate pair nor a NUL, which the database fails on."""
    return isinstance(word, str) and len(word) < 200 and word.isprintable()
