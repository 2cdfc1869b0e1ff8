"""The test suite's settings: the site's own, in a throwaway folder, with PostgreSQL as a second database.

The environment is emptied of the site's variables first, so that the suite means the same on every machine. The address
of `postgres` is filled in by `tests/conftest.py` when a test needs it: no server is started for tests that do not.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

for _name in [name for name in os.environ if name.startswith("FLUJO_")]:
    del os.environ[_name]
_folder = Path(tempfile.mkdtemp(prefix="flujo-tests-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["FLUJO_DATA"] = str(_folder)

from flujo_site.databases import postgres
from flujo_site.settings import *
from flujo_site.settings import DATABASES

# A file, since an in-memory database is shared by threads in a way no deployment is.
DATABASES["default"]["TEST"] = {"NAME": _folder / "test.sqlite3"}
DATABASES["postgres"] = postgres("postgres://flujo@127.0.0.1:1/flujo", pool_size=0)
DATABASES["postgres"]["TEST"] = {"DEPENDENCIES": []}  # tests may use it alone

# The suite signs in hundreds of times: the slow hash is for passwords, and there are none here to protect.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
