//! `dozen server upgrade`: another binary goes on with what this one's runs, and no request is lost.
//!
//! The server's own process does it, so that whoever watches it sees none end: it becomes the role `__upgrade` of the binary before, has the new
//! one serve as a child, and becomes the new one itself where that came up, else the one before. Router and apps go on all the while.
//!
//! **Invariant:** at each moment there is a whole binary in the place of the binary, and the one before beside it.

use super::installed::{Machine, hash};
use crate::api::wire;
use crate::cli::up::Signals;
use crate::client::{Connection, Told};
use crate::house;
use crate::printer::Printer;
use crate::programs;
use crate::running::{self, Holder};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::ids::DeployRef;
use dozen_engine::home::Home;
use dozen_engine::ledger::Ledger;
use dozen_engine::port::Router;
use dozen_engine::processes::adoption;
use dozen_engine::processes::notes::Notes;
use http::Method;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The role of the server's process meanwhile.
pub(crate) const ROLE: &str = "__upgrade";
/// The role that another binary answers before it takes over.
pub(crate) const PROBE: &str = "__probe";
/// A server that has many deploys to take over needs its time.
const COMES_UP: Duration = Duration::from_secs(120);
/// For both of them.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks: there is no event for another process's API.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The new binary
    file: PathBuf,
    /// Wait for nothing: builds and one-offs that are under way end with it
    #[arg(long)]
    now: bool,
}

/// Puts it in place and waits until it serves, or the one before does again.
pub(super) async fn run(args: &UpgradeArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let home = &settings.home;
    let Some(holder) = running::holder(home, &house::itself()) else {
        let hint = "Put the file in place of dozen's binary, and start the server.".to_owned();
        bail!(Told::failed(format!("no server of {} runs", home.root().display()), Some(hint)));
    };
    let exe = fs::read_link(format!("/proc/{}/exe", holder.pid))
        .context("cannot tell where the server's binary is; ask as its owner or as root")?;
    let exe = exe.to_str().map(|text| PathBuf::from(text.trim_end_matches(" (deleted)"))).context("the path of dozen is not UTF-8")?;
    let (fresh, before) = (beside(&exe, ".new"), beside(&exe, ".old"));
    let attempt = || format!("cannot write {}", fresh.display());
    let _fresh = Gone(fresh.clone());
    fs::copy(&args.file, &fresh).with_context(|| format!("cannot copy {} to {}", args.file.display(), fresh.display()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).with_context(attempt)?;
    fs::File::open(&fresh).and_then(|file| file.sync_all()).with_context(attempt)?;
    let probed = ask(&fresh, home)?;
    let taken = |what: &Path| fs::metadata(what).map(|m| (m.dev(), m.ino())).with_context(|| format!("cannot read {}", what.display()));
    let (new, old) = (taken(&fresh)?, taken(Path::new(&format!("/proc/{}/exe", holder.pid)))?);
    match fs::remove_file(&before) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot replace {}", before.display()));
        }
        _ => {}
    }
    fs::hard_link(&exe, &before).with_context(|| format!("cannot keep {} as {}", exe.display(), before.display()))?;
    fs::rename(&fresh, &exe).with_context(|| format!("cannot replace {}", exe.display()))?;
    let body = wire::Upgrade { binary: exe.clone(), before: before.clone(), now: args.now };
    let mut connection = Connection::to_holder(settings, &house::itself(), &holder).await?;
    let left: Result<wire::Stopping> = connection.call(Method::POST, "/v1/upgrades", &body).await;
    if let Err(e) = left
        && e.is::<Told>()
    {
        fs::rename(&before, &exe).with_context(|| format!("cannot put {} back", exe.display()))?;
        return Err(e);
    }
    // One that is gone before its answer has come gives way, too.
    let serves = until_one_serves(settings, &holder, &[new, old]).await?;
    if serves != new {
        if taken(&exe)? == new {
            fs::rename(&before, &exe).with_context(|| format!("cannot put {} back", exe.display()))?;
        }
        let message = format!("dozen {} did not come up, and the one before serves again", probed.dozen);
        bail!(Told::failed(message, Some("The server's own output says why.".to_owned())));
    }
    keep_record(&exe);
    let told = wire::Upgraded {
        from: holder.version,
        to: probed.dozen,
        pid: holder.pid,
        binary: exe.display().to_string(),
        before: before.display().to_string(),
    };
    if printer.is_json() {
        printer.json(&told);
    } else {
        printer.confirm(&format!("Upgrading dozen {} to {}... done; {} is kept", told.from, told.to, told.before));
    }
    Ok(0)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A file that is gone when this is, unless it has another name by then.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Has another binary say whether it could take over.
fn ask(binary: &Path, home: &Home) -> Result<wire::Probed> {
    let root = home.root().to_str().context("the home's path is not UTF-8")?;
    let path = binary.to_str().context("the path of dozen is not UTF-8")?;
    let said = programs::system(path, &[PROBE, root]).map_err(|e| {
        let hint = "It is no dozen for this machine, or one that cannot take over; nothing was changed.".to_owned();
        Told::failed(format!("the new binary does not answer as dozen does: {}", dozen_engine::chain(&*e)), Some(hint))
    })?;
    serde_json::from_str(&said).map_err(|_| Told::failed("the new binary answers something else than dozen does", None).into())
}

/// What a binary answers when it is asked whether it could take over all that runs in a home. Changes nothing.
pub(crate) fn probe(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let Some(home) = arguments.next().map(Home::at) else { return say("which home?") };
    let probed = || -> Result<wire::Probed> {
        let (found, schema) = Ledger::schemas(&home)?;
        for run in fs::read_dir(home.root().join("run")).into_iter().flatten().flatten() {
            let notes = Notes::of(run.path());
            adoption::check(&notes)?;
            Router::check(&notes)?;
        }
        Ok(wire::Probed { dozen: env!("CARGO_PKG_VERSION").to_owned(), found, schema })
    };
    match probed().and_then(|probed| Ok(serde_json::to_string(&probed)?)) {
        Ok(text) => i32::from(std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes()).is_err()),
        Err(e) => say(&dozen_engine::chain(&*e)),
    }
}

fn say(text: &str) -> i32 {
    // Who asks reads it, or nobody does.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("dozen: {text}\n").as_bytes());
    2
}

/// Waits until the server's process is one of these binaries and answers.
async fn until_one_serves(settings: &Settings, holder: &Holder, which: &[(u64, u64)]) -> Result<(u64, u64)> {
    let begun = Instant::now();
    loop {
        let is = fs::metadata(format!("/proc/{}/exe", holder.pid)).map(|m| (m.dev(), m.ino()));
        let Ok(is) = is else { bail!(Told::failed("the server has ended; what it ran goes on until the next one takes it over", None)) };
        let now = running::holder(&settings.home, &house::itself());
        // The role between them is a process of the one before.
        let serves = now.is_some_and(|now| now.pid == holder.pid) && which.contains(&is) && answers(&settings.home).await;
        let upgrading =
            fs::read(format!("/proc/{}/cmdline", holder.pid)).is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(ROLE.as_bytes()));
        if serves && !upgrading && (is == which[0] || has_gone_back(holder.pid)) {
            return Ok(is);
        }
        if begun.elapsed() > PATIENCE {
            bail!(Told::failed(format!("the server does not serve after {} s", PATIENCE.as_secs()), None));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a process runs what is in its place, and not what was: before the server gives way, another binary is there.
fn has_gone_back(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| !exe.to_string_lossy().ends_with(" (deleted)"))
}

async fn answers(home: &Home) -> bool {
    match Connection::of_server(home).await {
        Ok(mut connection) => connection.get::<wire::Account>("/v1/account").await.is_ok(),
        Err(_) => false,
    }
}

/// What was installed is this from now on.
fn keep_record(exe: &Path) {
    let machine = Machine("/".into());
    let Ok(Some(mut record)) = machine.record() else { return };
    if let (Some(written), Ok(bytes)) = (record.files.get_mut(exe), fs::read(exe)) {
        *written = hash(&bytes);
        // `uninstall` leaves a binary that it does not know, and says so.
        let _ = machine.write_record(&record);
    }
}

/// Has this process, which is the server, become the role that tries the new binary. Answers only why it could not.
pub(super) fn give_way(home: &Home, binary: &Path, before: &Path) -> anyhow::Error {
    let mut words = vec![ROLE.into(), home.root().as_os_str().to_owned(), binary.into(), before.into()];
    words.extend(std::env::args_os().skip(1));
    programs::become_another(Path::new("/proc/self/exe"), &words).into()
}

/// The role: tries the new binary as a child, and becomes it, or the one before. Answers the exit code where it becomes neither.
pub(crate) fn trial(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let (Some(home), Some(binary), Some(before)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return say("this is for a server that is upgraded");
    };
    let (home, mut binary, before) = (Home::at(home), PathBuf::from(binary), PathBuf::from(before));
    let words: Vec<OsString> = arguments.collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return say(&e.to_string()),
    };
    match runtime.block_on(tried(&home, &binary, &words)) {
        Ok(None) => {}
        // Told to end meanwhile: it has.
        Ok(Some(code)) => return code,
        Err(e) => {
            say(&format!("the new binary does not come up: {}; going back", dozen_engine::chain(&*e)));
            // The server may not be let write there: whoever upgrades it then puts it back.
            if fs::rename(&before, &binary).is_err() {
                binary = before;
            }
        }
    }
    drop(runtime);
    let failed = programs::become_another(&binary, &words);
    say(&format!("cannot start {}: {failed}", binary.display()))
}

/// `None`: it came up, and is gone again. Else the code with which it ended when this process was told to end.
async fn tried(home: &Home, binary: &Path, words: &[OsString]) -> Result<Option<i32>> {
    let mut signals = Signals::listen()?;
    let ledger = Kept::of(home, binary).await?;
    let mut child = programs::start(binary, words).context("it cannot be started")?;
    let pid = child.id().context("it has ended at once")?;
    let itself: DeployRef = house::itself();
    let comes_up = async {
        loop {
            if running::holder(home, &itself).is_some_and(|holder| holder.pid == pid) && answers(home).await {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let outcome = tokio::select! {
        status = child.wait() => Err(match status {
            Ok(status) => anyhow::anyhow!("it has ended ({status})"),
            Err(e) => e.into(),
        }),
        () = tokio::time::sleep(COMES_UP) => Err(anyhow::anyhow!("it does not answer after {} s", COMES_UP.as_secs())),
        () = comes_up => Ok(()),
        () = signals.next() => {
            programs::ask_to_end(&child);
            let status = child.wait().await?;
            return Ok(Some(status.code().unwrap_or(1)));
        }
    };
    // What it runs goes on, as for any server that is killed.
    let _ = child.kill().await;
    match outcome {
        Ok(()) => ledger.forget(),
        Err(_) => ledger.put_back(home)?,
    }
    outcome.map(|()| None)
}

/// The ledger as it was, where the new binary will change its schema: the one before could not read that.
struct Kept(Option<PathBuf>);

impl Kept {
    async fn of(home: &Home, binary: &Path) -> Result<Self> {
        let probed = ask(binary, home)?;
        if probed.found == probed.schema {
            return Ok(Self(None));
        }
        let at = home.root().join("ledger.before-upgrade");
        let ledger = Ledger::open(home)?;
        // One that was left by another upgrade says nothing any more.
        let _ = fs::remove_file(&at);
        ledger.copy_to(at.clone()).await?;
        Ok(Self(Some(at)))
    }

    fn forget(self) {
        if let Some(at) = self.0 {
            // It harms nobody, and is replaced by the next one.
            let _ = fs::remove_file(at);
        }
    }

    fn put_back(self, home: &Home) -> Result<()> {
        let Some(at) = self.0 else { return Ok(()) };
        let (found, schema) = Ledger::schemas(home).unwrap_or((0, -1));
        if found == schema {
            return fs::remove_file(&at).context("cannot remove the copy of the ledger");
        }
        for end in ["-wal", "-shm"] {
            // Of the ledger that is given up.
            let _ = fs::remove_file(beside(&home.ledger(), end));
        }
        fs::rename(&at, home.ledger()).context("cannot put the ledger back")
    }
}

/// Whether a process runs another binary than this one.
pub(super) fn is_another(pid: Option<u32>) -> bool {
    let of = |what: String| fs::metadata(what).map(|m| (m.dev(), m.ino()));
    match (pid.map(|pid| of(format!("/proc/{pid}/exe"))), of("/proc/self/exe".into())) {
        (Some(Ok(theirs)), Ok(ours)) => theirs != ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_name_beside_it() {
        assert_eq!(beside(Path::new("/a/dozen"), ".old"), Path::new("/a/dozen.old"));
        assert!(!is_another(Some(std::process::id())) && !is_another(None));
    }
}
