"""The web server's settings that are the same in every deploy.

What differs comes from the environment, and gunicorn reads it by itself: PORT, WEB_CONCURRENCY, GUNICORN_CMD_ARGS.
"""

# Threads answer beside each other, so that one slow visitor does not hold up the rest.
threads = 4

# The code is read-only: the heartbeat file of each worker lives here.
worker_tmp_dir = "/tmp"

# The platform starts, scales and stops us; a second way in would only need a writable home.
control_socket_disable = True

# The router logs requests; gunicorn logs what happens to itself.
accesslog = None

# Below the time that a platform gives after SIGTERM.
graceful_timeout = 8
