"""`python manage.py entries`: counts and purges, as a one-off process of the same release."""

from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from guestbook.models import Entry


class Command(BaseCommand):
    help = "Counts the entries, or deletes old ones."

    def add_arguments(self, parser):
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--count", action="store_true", help="print how many entries there are, and how many wait for the worker")
        what.add_argument("--purge", type=int, metavar="DAYS", help="delete entries that are older than DAYS days; 0 deletes all")

    def handle(self, *args, count, purge, **options):
        if count:
            self.stdout.write(f"{Entry.objects.count()} entries, {Entry.waiting().count()} waiting")
            return
        if not 0 <= purge <= 36_500:
            raise CommandError("DAYS must be between 0 and 36500")
        deleted, _ = Entry.objects.filter(written_at__lte=timezone.now() - timedelta(days=purge)).delete()
        self.stdout.write(f"{deleted} entries deleted")
