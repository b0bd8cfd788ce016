"""The one thing we keep: an entry, and the greeting that the worker gives to it."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class Entry(models.Model):
    name = models.CharField("your name", max_length=50)
    message = models.TextField(max_length=500)
    written_at = models.DateTimeField(default=timezone.now, editable=False)
    greeting = models.TextField(blank=True, editable=False)
    greeted_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "entries"
        indexes = [models.Index(fields=["id"], condition=models.Q(greeted_at=None), name="entry_waiting")]

    def __str__(self):
        return f"entry {self.pk} by {self.name}"

    @classmethod
    def waiting(cls):
        """Entries that nobody has greeted, oldest first."""
        return cls.objects.filter(greeted_at=None).order_by("id")

    def greet(self):
        """The whole job in one statement, so that a worker killed at any moment leaves the entry greeted or waiting and
        nothing between, and of two workers one wins. Returns whether it was us."""
        greeting = settings.GREETING.replace("{name}", self.name)
        won = type(self).waiting().filter(pk=self.pk).update(greeting=greeting, greeted_at=timezone.now())
        return won == 1
