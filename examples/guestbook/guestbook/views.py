"""The page: the form above, the latest entries below."""

from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from guestbook.forms import EntryForm
from guestbook.models import Entry

SHOWN = 50


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def page(request):
    form = EntryForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        form.save()
        # A redirect, so that reloading the page does not write the entry twice.
        return redirect("page")
    status = 422 if form.is_bound else 200
    return render(request, "guestbook/page.html", {"form": form, "entries": Entry.objects.all()[:SHOWN]}, status=status)
