"""What the tests of the console share: browsers without JavaScript, signed in as somebody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runs.models import PipelineGrant
from tests.runs import factories

SignIn = Callable[[User], Client]


@pytest.fixture
def sign_in(db: None) -> SignIn:
    """A client that is signed in as the given user."""

    def signed_in(person: User) -> Client:
        client = Client()
        client.force_login(person)
        return client

    return signed_in


@pytest.fixture
def viewer(db: None) -> User:
    """May see every pipeline and the values its runs carry, and do nothing."""
    return factories.user("vera", can=["view", "view_context"])


@pytest.fixture
def operator(db: None) -> User:
    """May do everything with every pipeline."""
    return factories.user("otto", can=PipelineGrant.VERBS)


@pytest.fixture
def stranger(db: None) -> User:
    """May see another pipeline only."""
    return factories.user(
        "stan", can=["view", "view_context", "decide", "cancel", "retry", "fork", "start"], on="elsewhere"
    )


def queries_of(client: Client, url: str) -> int:
    """How many queries the page at `url` costs, the shell around it included."""
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)
