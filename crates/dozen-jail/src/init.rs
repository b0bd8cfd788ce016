//! The jail itself: PID 1 of its namespaces. One loop over the control socket, the signals, the app's two pipes and the timers.
//!
//! **Invariant:** stopped means that nothing is left inside. `Exited` is said when the last process is gone, with the leader's exit.

use crate::cgroup::{Cgroup, Excess, Tasks};
use crate::control::Control;
use crate::inside::{Inside, Listener, counts_by_namespace, listens};
use crate::output::{self, Log};
use crate::probe::{Probe, Surroundings};
use crate::program::{Fences, Program};
use crate::tmp::Tmp;
use crate::{Failure, landlock, mounts, seccomp, sys};
use dozen_core::processes::Isolation;
use dozen_core::processes::jail::{FromJail, JailSpec, PROTOCOL, ToJail, View};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, WaitOptions, WaitStatus, getegid, geteuid, getpid, set_child_subreaper, set_dumpable_behavior, setsid, wait,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::system::sethostname;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_name};
use std::ffi::{CString, c_int};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is left when the leader ended without being told to gets SIGTERM, and after this SIGKILL: `sh -c 'server & true'` is over, as in foreman.
const LEADERLESS_GRACE: Duration = Duration::from_secs(5);
/// A grace beyond this is none; it also keeps the sum within what a clock can say.
const LONGEST_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);
/// What was said before the end is passed on for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two SIGKILLs to what forks faster than it dies.
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks for the listener: from the first to the second, by a quarter each time.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// A listener that may be ours so often in a row is taken for ours. Once does not do: who ends hides its descriptors, too.
const DOUBTS: u32 = 5;

/// Where a jail stands when its making begins.
pub(crate) struct Place {
    pub(crate) isolation: Isolation,
    /// The driver's number for this process.
    pub(crate) pid: u32,
    /// Ends when the guard does; `None` where there is none.
    pub(crate) guard: Option<OwnedFd>,
    /// Where the next driver comes, of a jail that lasts.
    pub(crate) next: Option<OwnedFd>,
    pub(crate) missing: Vec<String>,
}

/// From namespaces without anything in them to the last process's end; answers the exit code.
pub(crate) fn live(spec: JailSpec, mut control: Control, place: Place) -> i32 {
    match Jail::make(spec, &mut control, place) {
        Ok(jail) => jail.run(control),
        Err(failure) => {
            let code = failure.tell(&mut control);
            keep(&mut control, &[]);
            code
        }
    }
}

/// Stays until the last message was collected, or until one of `ends` says something.
fn keep(control: &mut Control, ends: &[&OwnedFd]) {
    while !control.over() {
        let mut fds: Vec<PollFd<'_>> = control.poll().collect();
        let own = fds.len();
        fds.extend(ends.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        // An error is EINTR or no memory.
        let ready = poll(&mut fds, None);
        if ready.is_ok() && fds[own..].iter().any(|end| !end.revents().is_empty()) {
            return;
        }
        drop(fds);
        // All orders are for processes that are gone.
        control.take(|_| false);
        control.push();
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Gives up the standard descriptors that belong to the app, so that who reads them sees their end when the app is gone.
pub(crate) fn release_standard_descriptors() {
    if let Ok(null) = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null));
    }
}

struct Jail {
    inside: Inside,
    signals: OwnedFd,
    guard: Option<OwnedFd>,
    log: Option<Log>,
    leader: Pid,
    /// How the leader ended.
    end: Option<End>,
    /// Whether SIGTERM went out, and when SIGKILL follows.
    kill_at: Option<Instant>,
    killed: bool,
    /// The port that is looked for, and when next.
    look: Option<(u16, Instant, Duration)>,
    /// How often in a row the listener may have been ours.
    doubts: u32,
    lost_grace: Duration,
    tmp: Option<Tmp>,
    cgroup: Option<Cgroup>,
    /// What commands run in; `None` where none is to be run.
    surroundings: Option<Surroundings>,
    /// The commands that run.
    probes: Vec<Probe>,
}

struct End {
    code: Option<i32>,
    signal: Option<i32>,
}

impl Jail {
    fn make(mut spec: JailSpec, control: &mut Control, place: Place) -> Result<Self, Failure> {
        let Place { isolation, pid, guard, next, mut missing } = place;
        let signals = sys::signals().map_err(Failure::of("take the signals"))?;
        let title: String = format!("dozen:{}", spec.instance).chars().filter(|c| *c != '\0').take(15).collect();
        let _ = CString::new(title).map(|title| set_name(&title));
        // The terminal's own signals are for the driver.
        let _ = setsid();
        let alone = isolation != Isolation::Session;
        let inside = if alone && getpid() == Pid::INIT { Inside::Namespace } else { Inside::Descendants };
        if inside == Inside::Descendants {
            set_child_subreaper(Some(getpid())).map_err(Failure::of("adopt orphans"))?;
        }
        if alone && let Err(error) = sethostname(spec.hostname.as_bytes()) {
            missing.push(format!("host name: {error}"));
        }

        let lost_grace = Duration::from_millis(spec.lost_grace_ms);
        // Before the view changes: the folder is not part of it.
        let segment = spec.log.as_ref().map(|log| output::segment(log, &spec.instance)).transpose()?;
        // While the host's files are seen; what is opened now serves to the end.
        let cgroup = spec.limits.map(|limits| Cgroup::make(&limits, &spec.instance, pid, &mut missing));
        let user = if isolation == Isolation::UserNamespaces || !geteuid().is_root() { None } else { spec.user };
        match (spec.view, alone) {
            (View::Minimal, true) => {
                let seen = user.unwrap_or((geteuid().as_raw(), getegid().as_raw()));
                mounts::enter_minimal(&spec.mounts, &spec.scratch, seen, &spec.hostname, &mut missing)?;
            }
            (View::Minimal, false) => {
                let error = format!("the host allows none ({})", missing.join("; "));
                return Err(Failure { attempt: "mount namespace".into(), error, code: 1 });
            }
            (View::Host, true) => mounts::keep_host(&mut missing),
            (View::Host, false) => {}
        }

        // A view has a /tmp of its own.
        let tmp = if spec.held && spec.view == View::Host { Some(Tmp::make(&mut spec.env)?) } else { None };
        let tmp_path = tmp.as_ref().map(Tmp::path);
        let rules = landlock::ruleset(&spec, tmp_path, landlock::all_scopes(), &mut missing)?;
        let filters = seccomp::filters(inside == Inside::Descendants && rules.is_none());
        let filters = filters.unwrap_or_else(|error| {
            missing.push(format!("seccomp: {error}"));
            Vec::new()
        });
        let mut surroundings = spec.probes.then(|| Surroundings::of(&spec, user, inside, tmp_path, &filters)).transpose()?;
        let fences = Fences { landlock: rules, seccomp: filters };

        let (log, output) = segment.map(|segment| Log::begin(segment, &spec.instance, user)).transpose()?.unzip();
        let mut program = Program::new(&spec.argv, &spec.env, spec.cwd, user, output, inside == Inside::Descendants, fences)?;
        // The kernel counts a user's processes for each user namespace, so that this is the jail's own number.
        if isolation == Isolation::UserNamespaces && cgroup.as_ref().is_some_and(|c| c.tasks.is_none()) && counts_by_namespace() {
            program.tasks = spec.limits.map(|limits| limits.tasks);
        }
        if let Some(surroundings) = &mut surroundings {
            surroundings.tasks = program.tasks;
        }
        // Neither the app, which may have the same uid, nor a core file gets at the jail's memory or, by /proc/1, at its descriptors.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Failure::of("close the jail to its processes"))?;
        if let Some(next) = next {
            let waits = if spec.lasting { control.last(next) } else { control.show(next) };
            waits.map_err(Failure::of("be found by the next driver"))?;
        }
        let leader = program.launch(cgroup.as_ref(), &mut missing)?;
        if log.is_none() {
            release_standard_descriptors();
        }
        keep_few_capabilities(surroundings.is_some());

        let isolation = isolation.as_str().to_owned();
        control.say(FromJail::Started { protocol: PROTOCOL, pid, isolation, missing, at: Some(now_ms()) });
        let look = spec.port.map(|port| (port, Instant::now(), LOOK.0));
        Ok(Self {
            inside,
            signals,
            guard,
            log,
            leader,
            end: None,
            kill_at: None,
            killed: false,
            look,
            doubts: 0,
            lost_grace,
            tmp,
            cgroup,
            surroundings,
            probes: Vec::new(),
        })
    }

    fn run(mut self, mut control: Control) -> i32 {
        let mut lost = false;
        // What came together with the spec is in the control's hands already: so look first and wait afterwards.
        loop {
            let News { ends, empty } = News::of(&mut self);
            // Somebody who wants the jail to end has it end what is inside, too.
            if ends {
                self.stop(self.lost_grace);
            }
            if empty {
                break;
            }
            let inside = self.inside;
            for message in control.take(|pid| inside.has(pid)) {
                match message {
                    ToJail::Signal { number } if (1..=64).contains(&number) => self.inside.signal(number),
                    ToJail::Stop { grace_ms } => {
                        self.stop(Duration::from_millis(grace_ms));
                        control.say(FromJail::Stopping { at: now_ms() });
                    }
                    ToJail::Kill => self.kill(),
                    ToJail::Probe { number, argv, timeout_ms } => self.probe(number, &argv, timeout_ms, &mut control),
                    ToJail::Signal { .. } | ToJail::Start { .. } | ToJail::Adopt { .. } | ToJail::Collect => {}
                }
            }
            if !lost && (control.lost() || self.guard_lost()) {
                lost = true;
                self.stop(self.lost_grace);
            }
            control.push();
            if let Some(log) = &mut self.log {
                log.turn(&mut control);
            }
            self.weigh(&mut control);
            self.probes.retain(|probe| probe.answer().map(|answer| control.say(answer)).is_none());
            self.timers(&mut control);
            self.wait(&control, lost);
        }
        if let Some(log) = &mut self.log {
            log.end(&mut control);
        }
        drop(self.tmp.take());
        // The kernel's kill may have come after the last look.
        self.weigh(&mut control);
        // Gone before its end is known: whoever waits for that finds nothing left.
        self.cgroup = None;
        let End { code, signal } = self.end.unwrap_or(End { code: None, signal: Some(libc::SIGKILL) });
        control.say(FromJail::Exited { code, signal });
        // Of its children's ends nothing is left to be heard.
        while sys::next_signal(self.signals.as_fd()).is_some() {}
        let ends: Vec<&OwnedFd> = std::iter::once(&self.signals).chain(&self.guard).collect();
        keep(&mut control, &ends);
        control.finish(LAST_WORDS);
        0
    }

    /// Takes the exits of all who ended. Answers whether nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.leader => {
                    self.end = Some(End::of(status));
                    if self.kill_at.is_none() {
                        self.stop(LEADERLESS_GRACE);
                    }
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                // No child: so no grandchild either, since orphans become children of this process.
                Err(_) => return true,
            }
        }
    }

    /// SIGTERM to all, now; SIGKILL to the rest, after the grace or sooner if that was said before.
    fn stop(&mut self, grace: Duration) {
        // A stopped process gets its SIGTERM only when it goes on.
        self.inside.signal(libc::SIGTERM);
        self.inside.signal(libc::SIGCONT);
        let at = Instant::now() + grace.min(LONGEST_GRACE);
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Tells of too many processes and of too much memory; far too much is the end of all inside.
    fn weigh(&mut self, control: &mut Control) {
        if let Some(most) = self.cgroup.as_mut().and_then(|c| c.tasks.as_mut()).and_then(Tasks::look) {
            control.say(FromJail::Crowded { most });
        }
        let Some(memory) = self.cgroup.as_mut().and_then(|c| c.memory.as_mut()) else { return };
        let quota = memory.quota;
        if let Some(Excess { used, vastly }) = memory.look(Instant::now()) {
            control.say(FromJail::Memory { used, quota, vastly });
            if vastly {
                self.kill();
            }
        }
    }

    /// Runs a command, unless all inside is about to end.
    fn probe(&mut self, number: u64, argv: &[String], timeout_ms: u64, control: &mut Control) {
        let Some(surroundings) = self.surroundings.as_ref().filter(|_| self.kill_at.is_none()) else { return };
        let timeout = Duration::from_millis(timeout_ms).min(LONGEST_GRACE);
        match Probe::begin(number, argv, timeout, surroundings, self.cgroup.as_ref()) {
            Ok(probe) => self.probes.push(probe),
            Err(failure) => control.say(FromJail::Probed { number, failure: Some(failure.to_string()) }),
        }
    }

    fn kill(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        self.inside.signal(libc::SIGKILL);
        self.killed = true;
        self.kill_at = Some(Instant::now() + KILL_PAUSE);
    }

    fn wait(&self, control: &Control, lost: bool) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let guard = self.guard.as_ref();
        if !lost {
            fds.extend(control.poll());
            fds.extend(guard.map(|guard| PollFd::new(guard, PollFlags::IN)));
        }
        fds.extend(self.log.iter().flat_map(Log::pipes).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.probes.iter().map(|probe| PollFd::new(probe, PollFlags::IN)));
        fds.extend(self.cgroup.iter().flat_map(Cgroup::wakes).map(|(fd, flags)| PollFd::new(fd, flags)));
        let due = [
            self.cgroup.as_ref().and_then(Cgroup::look_at),
            self.kill_at,
            self.look.map(|(_, at, _)| at),
            self.log.as_ref().and_then(|log| log.due(control)),
        ];
        let timeout = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        // An error is EINTR or no memory; the loop looks at everything anyway.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn guard_lost(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(guard, PollFlags::IN)], Some(&zero)).is_ok_and(|ready| ready > 0)
        })
    }

    fn timers(&mut self, control: &mut Control) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| now >= at) {
            // Only who is there to be killed is told of.
            if !self.killed && !self.reap() {
                control.say(FromJail::Killing);
            }
            self.kill();
        }
        if let Some((port, at, pause)) = self.look
            && now >= at
        {
            self.doubts = match listens(port) {
                Listener::Ours => DOUBTS,
                Listener::Perhaps => self.doubts + 1,
                Listener::None => 0,
            };
            self.look = if self.doubts >= DOUBTS {
                control.say(FromJail::Listening { port, at: Some(now_ms()) });
                None
            } else {
                Some((port, Instant::now() + pause, (pause * 5 / 4).min(LOOK.1)))
            };
        }
    }
}

/// Where a jail hears of its processes.
trait Kernel {
    /// Takes a signal that has come.
    fn signal(&mut self) -> Option<c_int>;
    /// Takes the exits of all who ended. Answers whether nobody is left.
    fn reap(&mut self) -> bool;
}

impl Kernel for Jail {
    fn signal(&mut self) -> Option<c_int> {
        sys::next_signal(self.signals.as_fd())
    }

    fn reap(&mut self) -> bool {
        Jail::reap(self)
    }
}

/// What has happened since the jail looked last.
struct News {
    /// A signal came that means the jail's end.
    ends: bool,
    /// Nobody is left inside.
    empty: bool,
}

impl News {
    /// **Invariant:** signals are taken before exits. One that ends after the look for exits must leave its SIGCHLD to wake the loop: whoever
    /// took that as well would wait for ever for what has happened already.
    fn of(kernel: &mut impl Kernel) -> Self {
        let mut ends = false;
        while let Some(signal) = kernel.signal() {
            ends |= signal != libc::SIGCHLD;
        }
        Self { ends, empty: kernel.reap() }
    }
}

impl End {
    fn of(status: WaitStatus) -> Self {
        Self { code: status.exit_status(), signal: status.terminating_signal() }
    }
}

/// The rights to signal processes of another uid and to see their sockets in /proc, and to remove the jail's cgroup from a top folder that not
/// even its owner may write; where commands are to be run, to become that uid; nothing else, once the program runs.
fn keep_few_capabilities(runs_commands: bool) {
    let mut keep = CapabilitySet::KILL | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE;
    if runs_commands {
        keep |= CapabilitySet::SETUID | CapabilitySet::SETGID;
    }
    let Ok(had) = capabilities(None) else { return };
    let few = had.permitted & keep;
    let _ = set_capabilities(None, CapabilitySets { effective: few, permitted: few, inheritable: CapabilitySet::empty() });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One process, which ends just before the call of this number, and one signal that means the end before another.
    struct Script {
        calls: u32,
        exit_at: u32,
        stop_at: u32,
        pending: Vec<c_int>,
        alive: bool,
        reaped: bool,
    }

    impl Script {
        fn call(&mut self) {
            if self.calls == self.exit_at {
                self.alive = false;
                self.pending.push(libc::SIGCHLD);
            }
            if self.calls == self.stop_at {
                self.pending.push(libc::SIGTERM);
            }
            self.calls += 1;
        }
    }

    impl Kernel for Script {
        fn signal(&mut self) -> Option<c_int> {
            self.call();
            self.pending.pop()
        }

        fn reap(&mut self) -> bool {
            self.call();
            self.reaped |= !self.alive;
            self.reaped
        }
    }

    #[test]
    fn whenever_a_process_ends_the_loop_knows_or_is_woken() {
        for (exit_at, stop_at) in (0..8).flat_map(|exit| (0..8).map(move |stop| (exit, stop))) {
            let mut script = Script { calls: 0, exit_at, stop_at, pending: Vec::new(), alive: true, reaped: false };
            let mut ends = false;
            for turn in 0.. {
                let news = News::of(&mut script);
                ends |= news.ends;
                if news.empty {
                    break;
                }
                // The loop rests here until a signal is pending; before it rests, anything may happen.
                script.call();
                assert!(script.alive || !script.pending.is_empty(), "asleep for ever: exit at {exit_at}, stop at {stop_at}, turn {turn}");
            }
            assert!(
                ends || stop_at >= script.calls || !script.pending.is_empty(),
                "exit at {exit_at}, stop at {stop_at}: no end was asked for"
            );
        }
    }
}
