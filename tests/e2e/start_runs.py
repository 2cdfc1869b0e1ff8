"""Queue runs through the site's service: `start_runs <pipeline> <count> <JSON input>`; prints their ids."""

from __future__ import annotations

import json
import sys

import django


def main(pipeline: str, count: int, value: object) -> None:
    from django.contrib.auth.models import User

    from runs.services.origin import Origin
    from runs.services.start import start

    operator, origin = User.objects.get(username="operator"), Origin("cli")
    started = [start(actor=operator, pipeline=pipeline, version=None, data=value, origin=origin) for _ in range(count)]
    print(json.dumps([run.pk for run in started]))


if __name__ == "__main__":
    django.setup()
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
