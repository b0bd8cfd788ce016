"""One page. `/healthz` is answered earlier, by `guestbook.health`."""

from django.urls import path

from guestbook.views import page

urlpatterns = [path("", page, name="page")]
