"""The site as an ASGI application: http through Django, sockets only from the site's own pages."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flujo_site.settings")

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

http = get_asgi_application()

from flujo_site.body_limit import BodyLimit
from runs.live.routing import application as websocket

# Room for the form's other fields beside the largest file.
application = ProtocolTypeRouter(
    {
        "http": BodyLimit(http, limit=settings.FLUJO_MAX_UPLOAD_BYTES + settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
        "websocket": websocket,
    }
)
