"""`/healthz`: can this process serve, its database included?"""

import logging

from django.db import Error, connection
from django.http import HttpResponse

PATH = "/healthz"
log = logging.getLogger("guestbook.health")


class HealthMiddleware:
    """Stands first: whoever probes speaks to an address and not to a name, so ALLOWED_HOSTS and redirects come later."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if request.path != PATH:
            return self.get_response(request)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            log.error("the database does not answer: %s", type(error).__name__)
            return HttpResponse("database unavailable\n", status=503, content_type="text/plain")
        return HttpResponse("ok\n", content_type="text/plain", headers={"Cache-Control": "no-store"})
