"""`python manage.py work`: the worker process. Greets entries as they come, until it is asked to stop."""

import logging
import os
import signal
import time

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import OperationalError, close_old_connections, connection
from django.utils import timezone

from guestbook.models import Entry

STOP = {signal.SIGTERM, signal.SIGINT}
BATCH = 100
log = logging.getLogger("guestbook.worker")


def asked_to_stop(wait=0.0):
    """Waits up to `wait` seconds for a stop signal. They are blocked elsewhere, so none can cut a job in two."""
    came = signal.sigtimedwait(STOP, wait)
    # Python answers a wait that a pause (SIGSTOP, SIGCONT) has outlasted with a signal that never came.
    return came is not None and came.si_signo in STOP


class Command(BaseCommand):
    help = "Greets new entries until SIGTERM or SIGINT; the job at hand is finished first."

    def handle(self, *args, **options):
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
        log.info("started, pid %d", os.getpid())
        greeted, heartbeat = 0, 0.0
        while not asked_to_stop():
            try:
                for entry in Entry.waiting()[:BATCH]:
                    if entry.greet():
                        greeted += 1
                        waited = timezone.now() - entry.written_at
                        log.info("greeted entry %d, %.1f s after it was written", entry.pk, waited.total_seconds())
                    if asked_to_stop():
                        return self.stopped(greeted)
                if time.monotonic() >= heartbeat:
                    log.info("alive: %d greeted since the start, %d waiting", greeted, Entry.waiting().count())
                    heartbeat = time.monotonic() + settings.WORKER_HEARTBEAT_SECONDS
            except OperationalError as error:
                # A backing service may go away and come back; the entries wait in it meanwhile.
                log.warning("the database does not answer, trying again: %s", str(error).partition("\n")[0])
                connection.close()
            close_old_connections()
            if asked_to_stop(settings.WORKER_POLL_SECONDS):
                break
        return self.stopped(greeted)

    @staticmethod
    def stopped(greeted):
        log.info("stopped, %d greeted", greeted)
