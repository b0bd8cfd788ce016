"""`python manage.py test`, with any DATABASE_URL. The worker is tested as what it is: a process of its own."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from datetime import timedelta
from io import StringIO
from pathlib import Path
from unittest import mock

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import Client, SimpleTestCase, TestCase, override_settings
from django.utils import timezone

from guestbook.models import Entry

# Nothing is collected in a test.
PLAIN = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}


@override_settings(STORAGES=PLAIN, ALLOWED_HOSTS=[".localhost"])
class PageTest(TestCase):
    host = {"headers": {"host": "guestbook.localhost:8123"}}

    def test_an_entry_is_stored_and_shown_escaped(self):
        answer = self.client.post("/", {"name": "Ann", "message": "<b>hello</b>"}, follow=True, **self.host)
        self.assertEqual(answer.redirect_chain, [("/", 302)])
        self.assertContains(answer, "&lt;b&gt;hello&lt;/b&gt;")
        self.assertContains(answer, "The worker will greet you")

    def test_what_is_blank_or_too_long_is_refused_with_the_reason(self):
        for data in [{}, {"name": " ", "message": "hi"}, {"name": "n" * 51, "message": "hi"}, {"name": "n", "message": "m" * 501}]:
            answer = self.client.post("/", data, **self.host)
            self.assertContains(answer, "errorlist", status_code=422)
        self.assertEqual(Entry.objects.count(), 0)

    def test_a_post_needs_the_token_and_the_pages_own_origin(self):
        client = Client(enforce_csrf_checks=True)
        data = {"name": "Ann", "message": "hi"}
        self.assertEqual(client.post("/", data, **self.host).status_code, 403)
        data["csrfmiddlewaretoken"] = client.get("/", **self.host).cookies["csrftoken"].value
        foreign = {"headers": self.host["headers"] | {"origin": "http://evil.localhost:8123"}}
        self.assertEqual(client.post("/", data, **foreign).status_code, 403)
        own = {"headers": self.host["headers"] | {"origin": "http://guestbook.localhost:8123"}}
        self.assertEqual(client.post("/", data, **own).status_code, 302)

    def test_a_forwarded_https_counts_only_behind_a_router(self):
        origin = {"headers": self.host["headers"] | {"origin": "https://guestbook.localhost:8123", "x-forwarded-proto": "https"}}
        for header, status in [(None, 403), (("HTTP_X_FORWARDED_PROTO", "https"), 302)]:
            with override_settings(SECURE_PROXY_SSL_HEADER=header):
                client = Client(enforce_csrf_checks=True)
                token = client.get("/", **self.host).cookies["csrftoken"].value
                data = {"name": "Ann", "message": "hi", "csrfmiddlewaretoken": token}
                referer = {"headers": origin["headers"] | {"referer": "https://guestbook.localhost:8123/"}}
                self.assertEqual(client.post("/", data, **referer).status_code, status)

    def test_a_foreign_host_is_refused_and_a_probe_is_not(self):
        self.assertEqual(self.client.get("/", headers={"host": "evil.example"}).status_code, 400)
        self.assertEqual(self.client.get("/healthz", headers={"host": "10.0.0.7:5000"}).content, b"ok\n")

    def test_health_fails_with_the_database(self):
        with mock.patch("guestbook.health.connection") as connection:
            connection.cursor.side_effect = OperationalError("gone")
            self.assertEqual(self.client.get("/healthz", **self.host).status_code, 503)


class EntryTest(TestCase):
    @override_settings(GREETING="Hello, {name}! {0}")
    def test_an_entry_is_greeted_once(self):
        entry = Entry.objects.create(name="{message}", message="hi")
        self.assertTrue(entry.greet())
        self.assertFalse(entry.greet())
        self.assertEqual(Entry.objects.get().greeting, "Hello, {message}! {0}")
        self.assertFalse(Entry.waiting().exists())

    def test_the_admin_command_counts_and_purges(self):
        Entry.objects.create(name="old", message="hi", written_at=timezone.now() - timedelta(days=8))
        Entry.objects.create(name="new", message="hi").greet()
        self.assertEqual(self.entries("--count"), "2 entries, 1 waiting\n")
        self.assertEqual(self.entries("--purge", "7"), "1 entries deleted\n")
        self.assertEqual(Entry.objects.get().name, "new")
        with self.assertRaises(CommandError):
            self.entries("--purge", "-1")

    @staticmethod
    def entries(*args):
        out = StringIO()
        call_command("entries", *args, stdout=out)
        return out.getvalue()


class ProcessTest(SimpleTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.database = Path(folder.name) / "guestbook.sqlite3"
        self.env = {"PATH": os.environ["PATH"], "SECRET_KEY": "test", "WORKER_POLL_SECONDS": "0.02", "PYTHONUNBUFFERED": "1"}

    def manage(self, *args, **env):
        command = [sys.executable, "manage.py", *args]
        return subprocess.Popen(
            command, cwd=settings.BASE_DIR, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def test_a_worker_greets_and_stops_at_sigterm(self):
        url = {"DATABASE_URL": f"sqlite:///{self.database}"}
        with self.manage("migrate", "--noinput", **url) as migrate:
            self.assertEqual(migrate.wait(60), 0, migrate.stdout.read())
        with self.manage("work", **url) as worker:
            self.assertIn("started, pid", worker.stdout.readline())
            self.assertIn("alive: 0 greeted since the start, 0 waiting", worker.stdout.readline())
            with sqlite3.connect(self.database, timeout=20) as database:
                database.execute(
                    "INSERT INTO guestbook_entry (name, message, written_at, greeting) VALUES ('Ann', 'hi', ?, '')", [str(timezone.now())]
                )
            self.assertIn("greeted entry 1", worker.stdout.readline())
            worker.send_signal(signal.SIGTERM)
            self.assertEqual(worker.wait(10), 0)
            self.assertIn("stopped, 1 greeted", worker.stdout.read())
        database.close()

    def test_a_build_needs_no_config_and_nothing_else_runs_without(self):
        with self.manage("collectstatic", "--noinput", "--dry-run", SECRET_KEY="") as build:
            out = build.communicate(timeout=60)[0]
            self.assertEqual(build.returncode, 0, out)
        with self.manage("migrate") as migrate:
            out = migrate.communicate(timeout=60)[0]
            self.assertNotEqual(migrate.returncode, 0)
            self.assertIn("settings.DATABASES is improperly configured", out)
        with self.manage("check", DEBUG="maybe") as check:
            out = check.communicate(timeout=60)[0]
            self.assertIn("DEBUG must be 1 or 0", out)
