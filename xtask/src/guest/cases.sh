# What is tried in the guest. Each case is told on the second serial line: `@begin NAME`, what it said, `@end NAME CODE`; at last `@done`.
exec >/dev/ttyS1 2>&1 </dev/null
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/root LANG=C.UTF-8 TERM=dumb
. /run/settings
CGROUPS=/sys/fs/cgroup
USER=64321
SESSION=user.slice/user-0.slice/session-1.scope
LOGIN=user.slice/user-$USER.slice/session-2.scope
MANAGER=user.slice/user-$USER.slice/user@$USER.service
SCOPE=$MANAGER/app.slice/run-1.scope
DELEGATED=$MANAGER/app.slice/run-2.scope

try() {
  name=$1 && shift
  case $name in "$ONLY"*) ;; *) return ;; esac
  echo "@begin $name"
  "$@"
  echo "@end $name $?"
}
# A process of root's in this cgroup; or of an ordinary user's.
within() {
  sh -c 'echo 0 > "$0/cgroup.procs" && exec "$@"' "$CGROUPS/$@"
}
as_user() {
  group=$1 && shift
  within "$group" setpriv --reuid $USER --regid $USER --clear-groups env HOME=/run/user "$@"
}
# What `dozen doctor` says of sizes.
says() {
  words=$1 && shift
  said=$("$@" "$DOZEN" doctor) && echo "$said" && echo "$said" | grep -qE "$words"
}
tests() {
  "$@" --test-threads 1 --nocapture --skip again_ --skip fork_bomb --skip an_ordinary_user
}

ip link set lo up
mkdir -p /run/root /run/user
chown $USER:$USER /run/user
cd "$CRATE"

# A host without systemd: dozen runs in the top cgroup, and nobody has given controllers to others.
try "top: doctor" says '^ok +sizes .*cgroup v2' env
try "top: units of the jail" "$JAIL"
try "top: sizes" tests "$IT" sizes::

# What systemd makes of a root's session, of an ordinary user's, and of `systemd-run --user --scope -p Delegate=yes`.
mkdir -p "$CGROUPS/$SESSION" "$CGROUPS/$LOGIN" "$CGROUPS/$SCOPE" "$CGROUPS/$DELEGATED"
for group in . user.slice user.slice/user-0.slice "user.slice/user-$USER.slice" "$MANAGER" "$MANAGER/app.slice"; do
  echo "+memory +pids +cpu" > "$CGROUPS/$group/cgroup.subtree_control"
done
for group in "$MANAGER" "$MANAGER/app.slice" "$SCOPE" "$DELEGATED"; do
  chown $USER:$USER "$CGROUPS/$group" "$CGROUPS/$group/cgroup.procs" "$CGROUPS/$group/cgroup.threads" "$CGROUPS/$group/cgroup.subtree_control"
done
# A shell in each session. In one of the scopes dozen is alone.
for group in "$SESSION" "$LOGIN" "$SCOPE"; do
  within "$group" sleep 1000000 &
done
try "root: doctor" says '^ok +sizes .*cgroup v2' within "$SESSION"
try "root: sizes" within "$SESSION" "$IT" --test-threads 1 --nocapture sizes::
try "root: fences" within "$SESSION" "$IT" --test-threads 1 doctor:: fences:: hostile:: guard:: --skip again_
try "login: doctor" says '^weak +sizes .*no cgroup from .* upward gives it' as_user "$LOGIN"
try "login: fences" as_user "$LOGIN" "$IT" --test-threads 1 doctor:: fences:: hostile::
try "scope: doctor" says '^ok +sizes .*cgroup v2' as_user "$SCOPE"
try "scope: doctor, alone" says '^ok +sizes .*cgroup v2' as_user "$DELEGATED"
try "scope: sizes" tests as_user "$SCOPE" "$IT" sizes::
ONLY=
try "nothing is left" sh -c "find $CGROUPS -name 'dozen-*' | grep . && exit 1; ls -d /tmp/dozen-tmp-* && exit 1; exit 0"
echo "@done"
busybox poweroff -f
