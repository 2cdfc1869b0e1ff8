"""The settings of the servers that browser tests start: the site's own, with pipelines that can be watched and held."""

from flujo_site.settings import *  # a settings module is its names
from flujo_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.e2e.steps"]

# The tests sign in often, and there are no passwords here to protect.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
