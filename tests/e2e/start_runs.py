"""Queue runs through the site's service: `start_runs <pipeline> <count> <JSON input>`; prints their ids."""

from __future__ import annotations

import json
import sys

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402  # needs Django set up

from runs.services.origin import Origin  # noqa: E402  # the same
from runs.services.start import start  # noqa: E402  # the same

pipeline, count, value = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
operator, origin = User.objects.get(username="operator"), Origin("cli")
started = [
    start(actor=operator, pipeline=pipeline, version="latest", data=value, origin=origin) for _ in range(count)
]
print(json.dumps([run.pk for run in started]))
