"""What a hostile build does besides what a hostile app would: it prepares what is to happen when it is over. Prints one JSON object."""
import errno, json, os, signal, time

found = {}
kept = os.path.join(os.path.dirname(os.environ["npm_config_cache"]), "sealed.txt")
outside = os.environ["OUTSIDE"]


def attempt(name, act):
    try:
        said = act()
        found[name] = said if isinstance(said, str) else "done"
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))


def write(path):
    with open(path, "a") as file:
        file.write("changed\n")


# A name for a file of the slug where the next build finds it, and what that does with it.
if os.path.exists(kept):
    write(kept)
else:
    attempt("keep a file by a hard link", lambda: os.link("sealed.txt", kept))
    if not os.path.exists(kept):
        write(kept)
attempt("uid", lambda: str(os.geteuid()))
attempt("write /usr", lambda: write("/usr/hostile"))
attempt("write the script of the package manager", lambda: write(os.path.realpath("/usr/bin/npm")))
attempt("list /root", lambda: " ".join(os.listdir("/root")))
attempt("read the owner's .npmrc", lambda: open(os.environ["npm_config_userconfig"]).read().strip())
attempt("write the owner's .npmrc", lambda: write(os.environ["npm_config_userconfig"]))
# Links that dozen meets when it cleans up.
for name in ["node_modules", ".dozen"]:
    os.symlink(outside, name)
print(json.dumps(found), flush=True)
# Nobody waits for it, and it does not go when asked.
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
    file = open("sealed.txt", "a")
    time.sleep(1000)
