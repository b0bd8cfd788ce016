#!/usr/bin/env python
"""The one door for admin tasks: `python manage.py migrate`, `python manage.py entries --count`, `python manage.py work`."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guestbook.settings")
    execute_from_command_line(sys.argv)
