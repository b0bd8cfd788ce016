//! The jail's child on its way to become the app: rights dropped, descriptors in place, fences raised, exec.
//!
//! **Invariant:** the program gets its three standard descriptors, the environment of its spec and nothing else of dozen's.

use crate::cgroup::Cgroup;
use crate::{Failure, sys};
use ::landlock::{RulesetCreated, RulesetStatus};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, chdir, getrlimit, ioctl_tiocsctty, set_parent_process_death_signal, setrlimit, setsid, umask,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use seccompiler::BpfProgram;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Looked in when the environment of the spec has no PATH, as shells do.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// All that the child needs, made before the fork.
pub(crate) struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    path: String,
    cwd: PathBuf,
    /// Changed to, by root only.
    user: Option<(u32, u32)>,
    /// Standard output and error; `None` keeps all three descriptors as they are.
    output: Option<(OwnedFd, OwnedFd)>,
    /// Whether the kernel must end the program with the jail, which no PID namespace does.
    dies_with_jail: bool,
    fences: Fences,
    /// So many processes and threads of the program's user, in its user namespace.
    pub(crate) tasks: Option<u32>,
}

/// What the kernel refuses the program and all that it starts, whatever it becomes.
pub(crate) struct Fences {
    pub(crate) landlock: Option<RulesetCreated>,
    pub(crate) seccomp: Vec<BpfProgram>,
}

impl Fences {
    /// The last of the program's rights go: what follows is its exec. Needs `no_new_privs`, which holds.
    pub(crate) fn raise(&mut self, mut missing: impl FnMut(String)) {
        match self.landlock.take().map(RulesetCreated::restrict_self) {
            None => {}
            Some(Ok(status)) if status.ruleset != RulesetStatus::NotEnforced => {}
            Some(Ok(_)) => missing("landlock: the kernel holds none of it".into()),
            Some(Err(error)) => missing(format!("landlock: {error}")),
        }
        for filter in &self.seccomp {
            if let Err(error) = seccompiler::apply_filter(filter) {
                return missing(format!("seccomp: {error}"));
            }
        }
    }
}

/// Changes uid and gid and leaves all groups, with the right to.
pub(crate) fn become_user((uid, gid): (u32, u32)) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[]).map_err(Failure::of("leave the groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(Failure::of("change the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(Failure::of("change the user"))
}

/// Drops every capability, and the way to new ones.
pub(crate) fn keep_nothing() -> Result<(), Failure> {
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(Failure::of("drop capabilities"))?;
    set_no_new_privs(true).map_err(Failure::of("forbid new privileges"))
}

impl Program {
    pub(crate) fn new(
        argv: &[String],
        env: &[(String, String)],
        cwd: PathBuf,
        user: Option<(u32, u32)>,
        output: Option<(OwnedFd, OwnedFd)>,
        dies_with_jail: bool,
        fences: Fences,
    ) -> Result<Self, Failure> {
        let text = |what: &str, s: String| {
            CString::new(s).map_err(|_| Failure { attempt: "exec".into(), error: format!("{what} holds a zero byte"), code: 126 })
        };
        if argv.is_empty() {
            return Err(Failure { attempt: "exec".into(), error: "no program was named".into(), code: 127 });
        }
        let path = env.iter().find(|(k, _)| k == "PATH").map_or(DEFAULT_PATH, |(_, v)| v).to_owned();
        Ok(Self {
            argv: argv.iter().map(|a| text("an argument", a.clone())).collect::<Result<_, _>>()?,
            env: env.iter().map(|(k, v)| text(k, format!("{k}={v}"))).collect::<Result<_, _>>()?,
            path,
            cwd,
            user,
            output,
            dies_with_jail,
            fences,
            tasks: None,
        })
    }

    /// Forks the program and waits until it runs or says why not. What it says on its way of layers that it lacks is added to `missing`.
    pub(crate) fn launch(self, cgroup: Option<&Cgroup>, missing: &mut Vec<String>) -> Result<Pid, Failure> {
        let broken = Failure::of("start the program");
        let (report, report_end) = pipe_with(PipeFlags::CLOEXEC).map_err(&broken)?;
        let Some(leader) = sys::fork_into(0).map_err(&broken)? else {
            let tell = |words: &[&str]| {
                let _ = write(&report_end, format!("{}\0", words.join("\n")).as_bytes());
            };
            let failure = self.run(cgroup, |what| tell(&[&what]));
            tell(&[&failure.code.to_string(), &failure.attempt, &failure.error]);
            std::process::exit(failure.code);
        };
        drop((report_end, self));
        let mut said = Vec::new();
        File::from(report).read_to_end(&mut said).map_err(Failure::of("start the program"))?;
        // A failure has three lines, a missing layer one.
        for words in String::from_utf8_lossy(&said).split_terminator('\0') {
            match words.splitn(3, '\n').collect::<Vec<_>>()[..] {
                [code, attempt, error] => {
                    return Err(Failure { code: code.parse().unwrap_or(1), attempt: attempt.to_owned(), error: error.to_owned() });
                }
                _ => missing.push(words.to_owned()),
            }
        }
        Ok(leader)
    }

    /// Becomes the program; returns only why it could not. Layers that could not be had are handed to `missing`.
    fn run(mut self, cgroup: Option<&Cgroup>, mut missing: impl FnMut(String)) -> Failure {
        // First, with the rights of the jail.
        cgroup.into_iter().flat_map(Cgroup::enter).for_each(|refused| missing(format!("cgroup: {refused}")));
        match self.prepare(missing) {
            Err(failure) => failure,
            Ok(()) => match self.exec() {
                Err(failure) => failure,
            },
        }
    }

    fn prepare(&mut self, missing: impl FnMut(String)) -> Result<(), Failure> {
        if self.dies_with_jail {
            // Sound since the jail has one thread, whose end is the process's.
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::of("tie the program to its jail"))?;
        }
        setsid().map_err(Failure::of("begin a session"))?;
        match &self.output {
            Some((out, err)) => {
                let null = openat(CWD, "/dev/null", OFlags::RDONLY, Mode::empty()).map_err(Failure::of("open /dev/null"))?;
                dup2_stdin(null)
                    .and_then(|()| dup2_stdout(out))
                    .and_then(|()| dup2_stderr(err))
                    .map_err(Failure::of("place the descriptors"))?;
            }
            // A terminal of its own (a one-off's) becomes the controlling one; anything else refuses that harmlessly.
            None => {
                let _ = ioctl_tiocsctty(rustix::stdio::stdin());
            }
        }
        let zero = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, zero).map_err(Failure::of("forbid core files"))?;
        if let Some(tasks) = self.tasks.map(u64::from) {
            // Never above what the host allows.
            let least = |had: Option<u64>| Some(had.map_or(tasks, |had| had.min(tasks)));
            let had = getrlimit(Resource::Nproc);
            let _ = setrlimit(Resource::Nproc, Rlimit { current: least(had.current), maximum: least(had.maximum) });
        }
        umask(Mode::from_raw_mode(0o022));

        sys::empty_bounding_set();
        if let Some(user) = self.user {
            become_user(user)?;
        }
        keep_nothing()?;

        chdir(&self.cwd).map_err(|e| Failure { attempt: format!("enter {}", self.cwd.display()), error: e.to_string(), code: 126 })?;
        sys::close_others_on_exec();
        sys::default_signals();
        self.fences.raise(missing);
        Ok(())
    }

    fn exec(&self) -> Result<Infallible, Failure> {
        let name = &self.argv[0];
        let shown = name.to_string_lossy();
        let refuse = |code, error: String| Failure { attempt: "exec".into(), error, code };
        let candidates: Vec<CString> = if name.as_bytes().contains(&b'/') {
            vec![name.clone()]
        } else {
            let folders = self.path.split(':').map(|folder| if folder.is_empty() { "." } else { folder });
            folders.filter_map(|folder| CString::new([folder.as_bytes(), b"/", name.as_bytes()].concat()).ok()).collect()
        };
        let mut denied = None;
        for candidate in &candidates {
            match sys::exec(candidate, &self.argv, &self.env) {
                Errno::NOENT if rustix::fs::stat(candidate).is_ok() => {
                    let error = format!("{}: the file is there, but the interpreter that it names is not", candidate.to_string_lossy());
                    return Err(refuse(127, error));
                }
                Errno::NOENT | Errno::NOTDIR => {}
                // A script without a first line that names its interpreter: every shell runs it as one of its own.
                Errno::NOEXEC => {
                    let shell = [vec![c"/bin/sh".to_owned(), candidate.clone()], self.argv[1..].to_vec()].concat();
                    let error = sys::exec(c"/bin/sh", &shell, &self.env);
                    return Err(refuse(126, format!("{}: {error}", candidate.to_string_lossy())));
                }
                error => denied = Some(refuse(126, format!("{}: {error}", candidate.to_string_lossy()))),
            }
        }
        Err(denied.unwrap_or_else(|| {
            let place = if candidates.len() == 1 && name.as_bytes().contains(&b'/') { "no such file" } else { "not found in PATH" };
            refuse(127, format!("{shown}: {place}"))
        }))
    }
}
