//! Jails that outlive the control part: what is written down of each, and how the next control part takes them over.
//!
//! **Invariant:** what a note names is known by who answers on its socket, never by a process id: numbers are given out again.

use super::notes::Notes;
use super::reaping::Target;
use super::{Jail, JailEvent, KILL_PATIENCE, SpawnError, Wire, drive, read, start};
use dozen_core::ids::{Generation, InstanceName, Version};
use dozen_core::processes::jail::{FromJail, JailSpec, PROTOCOL, ToJail, speaks};
use dozen_core::processes::size::Size;
use dozen_core::processes::{Exit, Isolation};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};

/// A jail that does not answer its next driver within this is stopped or stuck: it cannot be driven, so it is killed.
const ANSWER: Duration = Duration::from_secs(10);

/// A jail that lasts: where it is written down.
#[derive(Debug, Clone)]
pub(super) struct Lasting {
    notes: Notes,
    name: String,
    /// Whether it outlives this process.
    lasts: bool,
}

/// What is written down of an instance when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Birth {
    /// Of this release.
    pub release: Version,
    /// `web.1`
    pub instance: InstanceName,
    /// The intent that it was started for.
    pub generation: Generation,
    /// Where it is to listen.
    pub port: Option<u16>,
    /// When.
    pub started: Timestamp,
    /// How often it was started again after a crash.
    pub restarts: u32,
    /// How often it has crashed in a row.
    pub crashes: u32,
    /// The size that it is held to.
    pub size: Option<Size>,
}

/// An instance that was left running, or had ended since.
#[derive(Debug)]
pub struct Found {
    /// As it was started.
    pub birth: Birth,
    /// `None` where there is no jail any more; then `end` says how it ended.
    pub jail: Option<Jail>,
    /// The jail's process id on this host.
    pub pid: Option<u32>,
    /// What isolates it.
    pub isolation: Option<Isolation>,
    /// Layers that its jail could not have, for people.
    pub missing: Vec<String>,
    /// When its port was listened on.
    pub listening: Option<Timestamp>,
    /// When it was told to stop.
    pub stopping: Option<Timestamp>,
    /// How it ended, where its jail is gone.
    pub end: Exit,
    /// When it crashed, where that was taken in: it waits for its next start, and the crash is counted.
    pub crashed: Option<Timestamp>,
}

/// Why what runs cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Another version.
    #[error("{instance} is run by another version of dozen (protocol {theirs}, this is {PROTOCOL}); use that one, or the next after it")]
    Version {
        /// `web.1`
        instance: String,
        /// Its protocol.
        theirs: u32,
    },
}

/// A [`Birth`] on disk, and the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    protocol: u32,
    release: u32,
    instance: String,
    generation: u64,
    port: Option<u16>,
    started: i64,
    restarts: u32,
    crashes: u32,
    #[serde(default)]
    size: Option<String>,
    #[serde(default)]
    end: Option<FromJail>,
    #[serde(default)]
    crashed: Option<i64>,
    /// It ends with who started it, and is only to be waited for.
    #[serde(default)]
    once: bool,
}

impl Note {
    fn of(birth: &Birth) -> Self {
        Self {
            protocol: PROTOCOL,
            release: birth.release.0,
            instance: birth.instance.to_string(),
            generation: birth.generation.0,
            port: birth.port,
            started: birth.started.as_millisecond(),
            restarts: birth.restarts,
            crashes: birth.crashes,
            size: birth.size.map(|size| size.to_string()),
            end: None,
            crashed: None,
            once: false,
        }
    }
}

impl Lasting {
    fn of(notes: &Notes, birth: &Birth, lasts: bool) -> Self {
        Self { notes: notes.clone(), name: name(birth.release, &birth.instance), lasts }
    }

    pub(super) fn lasts(&self) -> bool {
        self.lasts
    }

    pub(super) fn bind(&self) -> io::Result<OwnedFd> {
        self.notes.bind(&self.name)
    }

    /// Writes down how it ended, in the jail's own words. On a full disk the jail's end is known to this process only.
    pub(super) fn keep(&self, end: &FromJail) {
        let Some(note) = self.notes.read::<Note>(&self.name) else { return };
        if let Err(error) = self.notes.write(&self.name, &Note { end: Some(end.clone()), ..note }) {
            tracing::warn!(%error, name = self.name, "the end of an instance cannot be written down");
        }
    }
}

/// Starts a jail that outlives this process.
///
/// # Errors
/// As [`spawn`](super::spawn); or it cannot be written down.
pub async fn spawn(exe: &Path, spec: JailSpec, notes: &Notes, birth: &Birth) -> Result<Jail, SpawnError> {
    let lasting = Lasting::of(notes, birth, true);
    notes.write(&lasting.name, &Note::of(birth)).map_err(SpawnError::Note)?;
    start(exe, JailSpec { lasting: true, ..spec }, None, Some(lasting)).await
}

/// Starts a jail that ends with this process, and writes it down so that the next control part waits until it has.
///
/// # Errors
/// As [`spawn`](super::spawn); or it cannot be written down.
pub async fn spawn_once(exe: &Path, spec: JailSpec, io: Option<[OwnedFd; 3]>, notes: &Notes, birth: &Birth) -> Result<Jail, SpawnError> {
    let shown = Lasting::of(notes, birth, false);
    notes.write(&shown.name, &Note { once: true, ..Note::of(birth) }).map_err(SpawnError::Note)?;
    start(exe, JailSpec { shown: true, ..spec }, io, Some(shown)).await
}

/// Writes down that an instance has crashed and waits for its next start, so that this goes on where the control part does not. `birth` has
/// the counts as they were before the crash. On a full disk the next control part starts it at once.
pub fn crashed(notes: &Notes, birth: &Birth, exit: Exit, at: Timestamp) {
    let (code, signal) = match exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Lost => (None, None),
    };
    let note = Note { end: Some(FromJail::Exited { code, signal }), crashed: Some(at.as_millisecond()), ..Note::of(birth) };
    if let Err(error) = notes.write(&name(birth.release, &birth.instance), &note) {
        tracing::warn!(%error, instance = %birth.instance, "the crash of an instance cannot be written down");
    }
}

/// Forgets an instance whose end was taken in.
pub fn forget(notes: &Notes, release: Version, instance: &InstanceName) {
    notes.remove(&name(release, instance));
}

/// Whether all that was left running can be taken over by this version.
///
/// # Errors
/// [`AdoptError`].
pub fn check(notes: &Notes) -> Result<(), AdoptError> {
    known(notes).map(drop)
}

fn known(notes: &Notes) -> Result<Vec<(String, Note)>, AdoptError> {
    let mut all = Vec::new();
    for name in notes.sweep() {
        let Some(note) = notes.read::<Note>(&name).filter(|_| name.starts_with("jail-")) else { continue };
        if !speaks(note.protocol) {
            return Err(AdoptError::Version { instance: note.instance, theirs: note.protocol });
        }
        all.push((name, note));
    }
    Ok(all)
}

/// Takes over all that was left running. `lasting`: it is to outlive this process, too.
///
/// # Errors
/// [`AdoptError`]; then nothing was touched.
pub async fn adopt(notes: &Notes, lasting: bool) -> Result<Vec<Found>, AdoptError> {
    let all = known(notes)?;
    // At once: one that does not answer holds up nobody else.
    let asked = all.into_iter().map(|(name, note)| {
        let lasting_at = Lasting { notes: notes.clone(), name, lasts: true };
        crate::tasks::spawn("adopt", async move { take(lasting_at, note, lasting).await })
    });
    let mut found = Vec::new();
    for one in asked.collect::<Vec<_>>() {
        found.extend(one.await.ok().flatten());
    }
    // A jail that was killed meanwhile had nobody to remove what it had made.
    let _ = tokio::task::spawn_blocking(dozen_jail::sweep).await;
    if !lasting {
        // What ends with this process is not to be looked for.
        found.iter().for_each(|f: &Found| forget(notes, f.birth.release, &f.birth.instance));
    }
    Ok(found)
}

/// One of them. `None` for a note that no dozen wrote, and for what ends with who started it: then it has ended.
async fn take(at: Lasting, note: Note, lasting: bool) -> Option<Found> {
    if note.once {
        outlive(&at).await;
        return None;
    }
    let birth = Birth {
        release: Version(note.release),
        instance: note.instance.parse().ok()?,
        generation: Generation(note.generation),
        port: note.port,
        started: time(note.started)?,
        restarts: note.restarts,
        crashes: note.crashes,
        size: note.size.and_then(|size| size.parse().ok()),
    };
    let protocol = note.protocol;
    let gone = Found {
        birth,
        jail: None,
        pid: None,
        isolation: None,
        missing: Vec::new(),
        listening: None,
        stopping: None,
        end: Exit::Lost,
        crashed: None,
    };
    if let Some(end) = note.end {
        return Some(Found { end: exit(&end).unwrap_or(Exit::Lost), crashed: note.crashed.and_then(time), ..gone });
    }
    // Nobody listens: the jail was killed, and all inside with it.
    let Ok((stream, pid)) = at.notes.connect(&at.name).await else { return Some(gone) };
    let target = Target::default();
    let ends = target.adopt(pid).into_iter().collect();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let hello = serde_json::to_string(&ToJail::Adopt { protocol: PROTOCOL, lasting }).unwrap_or_default() + "\n";
    let mut said = Vec::new();
    let answered = tokio::time::timeout(ANSWER, async {
        writer.write_all(hello.as_bytes()).await.ok()?;
        loop {
            match read(&mut reader).await? {
                FromJail::Told => return Some(()),
                message => said.push(message),
            }
        }
    });
    match answered.await {
        Ok(Some(())) => {}
        // It ended meanwhile.
        Ok(None) => return Some(gone),
        // Its end of the connection is open, so the pidfd means nobody else.
        Err(_) => {
            target.kill_after(Duration::ZERO);
            let _ = tokio::time::timeout(KILL_PATIENCE, read(&mut reader)).await;
            return Some(gone);
        }
    }
    let ended = said.iter().any(|message| matches!(message, FromJail::Exited { .. } | FromJail::Failed { .. }));
    let mut found = Found { pid: Some(pid).filter(|_| !ended), ..gone };
    let mut live = Vec::new();
    for message in said {
        match message {
            FromJail::Started { isolation, missing, .. } => (found.isolation, found.missing) = (Isolation::parse(&isolation), missing),
            // Of a version that does not say when it is now.
            FromJail::Listening { at, .. } => found.listening = at.map_or_else(|| Some(Timestamp::now()), time),
            FromJail::Stopping { at } => found.stopping = time(at),
            other => live.push(other),
        }
    }
    let jail = drive(Wire { reader, writer, target, stock: None, ends, lasting: lasting.then_some(at), protocol }, live);
    // One that is there only to tell its end is not to be taken for one that runs.
    if ended {
        found.end = end_of(jail).await;
    } else {
        found.jail = Some(jail);
    }
    Some(found)
}

/// How a jail ended that has nothing else to say.
async fn end_of(mut jail: Jail) -> Exit {
    loop {
        match jail.events.recv().await {
            Some(JailEvent::Exited(exit)) => return exit,
            Some(JailEvent::Failed { .. } | JailEvent::Lost) | None => return Exit::Lost,
            Some(_) => {}
        }
    }
}

/// Waits for the end of a jail whose driver is gone; one that does not end by itself is killed.
async fn outlive(at: &Lasting) {
    if let Ok((stream, pid)) = at.notes.connect(&at.name).await {
        let target = Target::default();
        target.aim(pid);
        let mut reader = BufReader::new(stream.into_split().0);
        if tokio::time::timeout(ANSWER, read(&mut reader)).await.is_err() {
            target.kill_after(Duration::ZERO);
            let _ = tokio::time::timeout(KILL_PATIENCE, read(&mut reader)).await;
        }
    }
    at.notes.remove(&at.name);
}

/// A short name, the same for the same instance of the same release.
fn name(release: Version, instance: &InstanceName) -> String {
    let hash = blake3::hash(format!("{release} {instance}").as_bytes());
    format!("jail-{}", &hash.to_hex()[..12])
}

fn time(ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(ms).ok()
}

/// How a last message says that it ended.
pub(super) fn exit(last: &FromJail) -> Option<Exit> {
    match last {
        FromJail::Exited { code: Some(code), .. } | FromJail::Failed { code, .. } => Some(Exit::Code(*code)),
        FromJail::Exited { signal: Some(signal), .. } => Some(Exit::Signal(*signal)),
        FromJail::Exited { .. } => Some(Exit::Lost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};

    fn birth() -> Birth {
        Birth {
            release: Version(3),
            instance: "web.1".parse().expect("valid"),
            generation: Generation(5),
            port: Some(20_001),
            started: Timestamp::from_second(1).expect("valid"),
            restarts: 2,
            crashes: 1,
            size: None,
        }
    }

    fn note(protocol: u32) -> Note {
        Note { protocol, ..Note::of(&birth()) }
    }

    /// A jail as the version before this one makes it, as far as a driver can tell: its words, and not one that came later.
    async fn earlier(listener: tokio::net::UnixListener) -> String {
        let (stream, _) = listener.accept().await.expect("a driver");
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut heard = String::new();
        reader.read_line(&mut heard).await.expect("the greeting");
        let said = [
            r#"{"is":"started","protocol":2,"pid":1,"isolation":"session","missing":["cgroup: no"],"later":true}"#,
            r#"{"is":"listening","port":20001}"#,
            r#"{"is":"told"}"#,
            r#"{"is":"unheard-of"}"#,
            r#"{"is":"exited","code":3,"signal":null}"#,
        ];
        writer.write_all((said.join("\n") + "\n").as_bytes()).await.expect("said");
        reader.read_to_string(&mut heard).await.expect("the rest");
        heard
    }

    #[tokio::test]
    async fn a_jail_of_the_version_before_is_adopted_and_its_end_is_kept_until_it_was_taken_in() {
        let dir = tempfile::tempdir().expect("a folder");
        let notes = Notes::of(dir.path());
        let at = name(Version(3), &"web.1".parse().expect("valid"));
        notes.write(&at, &note(PROTOCOL - 1)).expect("written");
        let socket = notes.bind(&at).expect("bound");
        rustix::net::listen(&socket, 1).expect("listens");
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true).expect("set");
        let jail = crate::tasks::spawn("earlier", earlier(tokio::net::UnixListener::from_std(listener).expect("taken")));

        let mut found = adopt(&notes, true).await.expect("spoken with").remove(0);
        assert_eq!((found.birth.release, found.birth.port, found.birth.restarts), (Version(3), Some(20_001), 2));
        assert_eq!((found.isolation, found.pid), (Some(Isolation::Session), Some(std::process::id())));
        assert!(found.listening.is_some() && found.stopping.is_none());
        assert_eq!(found.missing, ["cgroup: no"]);
        let mut living = found.jail.take().expect("it lives");
        // It would not know the order.
        assert_eq!(living.handle().probe(&["false".to_owned()], ANSWER).await, Ok(()));
        // This very process stands for the jail's, and does not end with it.
        assert_eq!(tokio::time::timeout(ANSWER, living.next()).await.expect("told"), JailEvent::Exited(Exit::Code(3)));
        drop(living);
        let heard = jail.await.expect("it ended");
        assert_eq!(heard, "{\"do\":\"adopt\",\"protocol\":3,\"lasting\":true}\n{\"do\":\"collect\"}\n");

        // Whoever comes before it was taken in learns it from the note.
        let again = adopt(&notes, true).await.expect("read").remove(0);
        assert!(again.jail.is_none() && again.end == Exit::Code(3), "{again:?}");
        forget(&notes, Version(3), &"web.1".parse().expect("valid"));
        assert!(adopt(&notes, true).await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_spoken_with_is_left_alone_and_what_is_gone_was_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let notes = Notes::of(dir.path());
        let at = name(Version(3), &"web.1".parse().expect("valid"));
        for protocol in [PROTOCOL + 1, PROTOCOL - 2] {
            notes.write(&at, &note(protocol)).expect("written");
            let refused = adopt(&notes, false).await.expect_err("another version");
            assert!(refused.to_string().contains("web.1 is run by another version"), "{refused}");
            assert!(notes.any());
        }
        notes.write(&at, &note(PROTOCOL)).expect("written");
        let left = std::path::PathBuf::from(format!("/tmp/dozen-tmp-{}-left", std::process::id()));
        std::fs::create_dir(&left).expect("made");
        let lost = adopt(&notes, false).await.expect("read").remove(0);
        assert!(lost.jail.is_none() && lost.end == Exit::Lost);
        assert!(!left.exists(), "nobody else removes what it had made");
        assert!(!notes.any(), "what ends with this process is not looked for");
    }
}
