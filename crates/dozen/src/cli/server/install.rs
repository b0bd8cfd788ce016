//! `dozen server install` and `uninstall`: account, folders, the first token, units of systemd; and all of that taken back.

use super::installed::{Machine, RECORD, Record, Wanted, hash};
use super::units::{self, Facts};
use super::{Listen, host, ssh};
use crate::api::wire;
use crate::cli::Usage;
use crate::client::Told;
use crate::house;
use crate::printer::Printer;
use crate::programs;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_core::ids::InvalidName;
use dozen_engine::home::Home;
use dozen_engine::output::Output;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where its binary goes.
const BINARY: &str = "/usr/local/bin/dozen";
/// What sshd is told.
const SSHD: &str = "/etc/ssh/sshd_config.d/dozen.conf";

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Where HTTP is answered: a port of all addresses, or an address and a port
    #[arg(long, value_name = "[ADDRESS:]PORT", default_value = "80")]
    listen: Listen,
    /// Answer HTTPS and HTTP/2 on this port of the same address; 0 is no HTTPS
    #[arg(long, value_name = "N", default_value = "443")]
    https_port: u16,
    /// The host of the API, of git and of webhooks
    #[arg(long, value_name = "HOST", default_value = "dozen.localhost", value_parser = host)]
    api_host: String,
    /// Give each deploy a host below this domain, too
    #[arg(long, value_name = "DOMAIN", value_parser = host)]
    domain: Option<String>,
    /// Have the host's sshd take pushes in, which people are told to send there: ssh://dozen@dozen.example.com
    #[arg(long, value_name = "URL", value_parser = ssh)]
    ssh: Option<String>,
    /// The account that it runs as, which is made where it is missing
    #[arg(long, value_name = "NAME", default_value = "dozen", value_parser = account)]
    user: String,
    /// The folder of its state
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/dozen")]
    home: PathBuf,
    /// Start nothing
    #[arg(long)]
    no_start: bool,
    /// Print what would be written, and do nothing
    #[arg(long, visible_alias = "dry-run", conflicts_with = "root")]
    print: bool,
    /// Write the files below this folder instead, for an image; make no account and start nothing
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
}

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove the state and the account, too, where `install` has made them: all apps and their data. Names the folder
    #[arg(long, value_name = "FOLDER")]
    with_data: Option<PathBuf>,
    /// What was installed below this folder
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
}

/// As `useradd` takes it.
fn account(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    match text.chars().all(fits) && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 32 && text != "root" {
        true => Ok(text.to_owned()),
        false => Err("give the name of an ordinary account: lower-case letters, digits, - and _".to_owned()),
    }
}

/// Installs, or brings what is installed to what is asked for now.
pub(super) fn install(args: &InstallArgs, printer: &Printer) -> Result<i32> {
    let machine = machine(args.root.as_deref())?;
    let files = files(args)?;
    if args.print {
        for file in files.iter().filter(|file| file.path != Path::new(BINARY)) {
            printer.data(&format!("# {}\n{}", file.path.display(), String::from_utf8_lossy(&file.bytes)));
        }
        return Ok(0);
    }
    let real = args.root.is_none();
    if real && !rustix::process::geteuid().is_root() {
        bail!(Told::failed("only root installs a server", Some("`--print` shows what it would write.".to_owned())));
    }
    let before = machine.record()?;
    let missing = machine.missing(&files, before.as_ref())?;
    let old = before.unwrap_or_default();
    if !old.home.as_os_str().is_empty() && (&old.home, &old.account) != (&args.home, &args.user) {
        let message = format!("a server of {} in {} is installed already", old.account, old.home.display());
        bail!(Told::failed(message, Some("`dozen server uninstall` removes it, and leaves its state.".to_owned())));
    }
    let is_there = |name: &str| passwd(name).is_ok_and(|found| found.is_some());
    let mut folders = machine.missing_folders(&files);
    folders.extend(old.folders);
    let mut record = Record {
        made_account: old.made_account || real && !is_there(&args.user),
        made_home: old.made_home || real && !args.home.exists(),
        account: args.user.clone(),
        home: args.home.clone(),
        files: old.files,
        folders,
    };
    record.files.extend(files.iter().map(|file| (file.path.clone(), hash(&file.bytes))));
    machine.write_record(&record)?;
    for file in &missing {
        machine.put(file)?;
    }
    let mut told = wire::Installed {
        written: missing.iter().map(|file| file.path.display().to_string()).collect(),
        account: args.user.clone(),
        home: args.home.display().to_string(),
        url: house::url("http", &args.api_host, args.listen.port),
        token: None,
        started: false,
    };
    if real {
        let owner = owner(args)?;
        told.token = first_token(args, owner)?;
        told.started = start(args, !missing.is_empty())?;
    }
    tell(args, &told, printer);
    Ok(0)
}

fn machine(root: Option<&Path>) -> Result<Machine> {
    let root = root.unwrap_or(Path::new("/"));
    Ok(Machine(std::path::absolute(root).context("cannot tell the current folder")?))
}

/// All that is to be there.
fn files(args: &InstallArgs) -> Result<Vec<Wanted>> {
    let at = |port: u16| match args.listen.address {
        Some(address) => std::net::SocketAddr::new(address, port).to_string(),
        None => port.to_string(),
    };
    let settings = [("DOZEN_API_HOST", Some(&args.api_host)), ("DOZEN_DOMAIN", args.domain.as_ref()), ("DOZEN_SSH", args.ssh.as_ref())];
    let facts = Facts {
        binary: Path::new(BINARY),
        home: &args.home,
        account: &args.user,
        http: at(args.listen.port),
        https: Some(args.https_port).filter(|port| *port != 0).map(at),
        settings: settings.into_iter().filter_map(|(name, value)| Some((name, value?.clone()))).collect(),
    };
    let units = units::all(&facts).map_err(|e: InvalidName| Usage(e.to_string()))?;
    let unit =
        |(name, text): (&str, String)| Wanted { path: Path::new("/etc/systemd/system").join(name), bytes: text.into_bytes(), mode: 0o644 };
    let mut files: Vec<Wanted> = units.into_iter().map(unit).collect();
    if args.ssh.is_some() {
        let text = dozen_engine::codebase::ssh::sshd_config_of_its_own(&Home::at(&args.home), &args.user);
        files.push(Wanted { path: SSHD.into(), bytes: text.into_bytes(), mode: 0o644 });
    }
    let own = fs::read("/proc/self/exe").context("cannot read dozen's own binary")?;
    files.push(Wanted { path: BINARY.into(), bytes: own, mode: 0o755 });
    Ok(files)
}

/// Uid and gid of an account.
fn passwd(name: &str) -> Result<Option<(u32, u32)>> {
    let all = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    Ok(all.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (*fields.first()? == name).then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    }))
}

/// Makes the account and the home where they are missing; answers whose it is.
fn owner(args: &InstallArgs) -> Result<(u32, u32)> {
    if passwd(&args.user)?.is_none() {
        let home = args.home.to_str().context("the home's path is not UTF-8")?;
        // A password that nobody has; sshd takes an account for locked that has none.
        let account = ["--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", "--password", "*"];
        programs::system("useradd", &[&account[..], &["--comment", "dozen", &args.user]].concat())?;
    }
    let Some(owner) = passwd(&args.user)? else { bail!("useradd has made no account {}", args.user) };
    match fs::metadata(&args.home) {
        Ok(found) if found.uid() != owner.0 => {
            let message = format!("{} belongs to uid {}, and not to {}", args.home.display(), found.uid(), args.user);
            bail!(Told::failed(message, Some("Name another one, --home, or its owner, --user.".to_owned())))
        }
        Ok(_) => {}
        Err(_) => {
            let attempt = || format!("cannot make {}", args.home.display());
            fs::DirBuilder::new().recursive(true).mode(0o755).create(args.home.parent().unwrap_or(Path::new("/"))).with_context(attempt)?;
            fs::DirBuilder::new().mode(0o700).create(&args.home).with_context(attempt)?;
            std::os::unix::fs::chown(&args.home, Some(owner.0), Some(owner.1)).with_context(attempt)?;
        }
    }
    Ok(owner)
}

/// Made here and not by the server, whose first words would be in the journal. What makes it runs as the account.
fn first_token(args: &InstallArgs, owner: (u32, u32)) -> Result<Option<String>> {
    if Home::at(&args.home).ledger().exists() {
        return Ok(None);
    }
    let dozen = |words: &[&str]| programs::dozen_as(Path::new(BINARY), owner, &args.home, words);
    dozen(&["users", "add", "admin", "--admin", "--server", "local"])?;
    let said = dozen(&["tokens", "create", "--user", "admin", "--label", "first", "--server", "local", "--json"])?;
    let made: wire::CreatedToken = serde_json::from_str(&said).context("dozen made no token")?;
    Ok(Some(made.token))
}

/// Has systemd know of it, where that is what runs this machine. Answers whether it was started.
fn start(args: &InstallArgs, changed: bool) -> Result<bool> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(false);
    }
    if changed {
        programs::system("systemctl", &["daemon-reload"])?;
    }
    if args.no_start {
        return Ok(false);
    }
    let sockets = [Some(units::HTTP), Some(units::HTTPS).filter(|_| args.https_port != 0)];
    let units: Vec<&str> = sockets.into_iter().flatten().chain([units::SERVICE]).collect();
    programs::system("systemctl", &[&["enable", "--now"], units.as_slice()].concat())?;
    Ok(true)
}

fn tell(args: &InstallArgs, told: &wire::Installed, printer: &Printer) {
    if printer.is_json() {
        printer.json(told);
        return;
    }
    for path in &told.written {
        printer.confirm(&format!("Writing {path}... done"));
    }
    if args.ssh.is_some() && told.written.iter().any(|path| path == SSHD) {
        printer.note("sshd reads it when it is told to: `systemctl reload ssh`");
    }
    if args.root.is_none() && !told.started {
        printer.note(&format!("Nothing was started; `systemctl enable --now {} {}` does", units::HTTP, units::SERVICE));
    }
    if let Some(token) = &told.token {
        printer
            .line(&format!("\nThe first token, of the user admin, is shown this once:\n\n    dozen login {} --token {token}\n", told.url));
    }
}

/// Takes back what `install` did.
pub(super) fn uninstall(args: &UninstallArgs, printer: &Printer) -> Result<i32> {
    let machine = machine(args.root.as_deref())?;
    let real = args.root.is_none();
    let Some(record) = machine.record()? else {
        bail!(Told::failed(format!("no server was installed here: there is no {RECORD}"), None));
    };
    if real && !rustix::process::geteuid().is_root() {
        bail!(Told::failed("only root removes a server", None));
    }
    if let Some(named) = &args.with_data
        && (*named != record.home || !record.made_home || !real)
    {
        let message = format!("{} is not the state that `dozen server install` made here", named.display());
        bail!(Told::failed(message, Some(format!("It is {}.", record.home.display())).filter(|_| record.made_home)));
    }
    let has_systemd = real && Path::new("/run/systemd/system").is_dir();
    let units = [units::HTTP, units::HTTPS, units::SERVICE];
    let ours = units.into_iter().filter(|unit| record.files.contains_key(&Path::new("/etc/systemd/system").join(unit)));
    if has_systemd {
        let ours: Vec<&str> = ours.collect();
        programs::system("systemctl", &[&["disable", "--now"], ours.as_slice()].concat())?;
    }
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    for (path, written) in &record.files {
        let was = machine.take_back(path, written)?;
        if was { &mut removed } else { &mut left }.push(path.display().to_string());
    }
    for folder in record.folders.iter().rev() {
        // One in which somebody has put something stays.
        let _ = fs::remove_dir(machine.at(folder));
    }
    if has_systemd {
        programs::system("systemctl", &["daemon-reload"])?;
    }
    if args.with_data.is_some() {
        fs::remove_dir_all(&record.home).with_context(|| format!("cannot remove {}", record.home.display()))?;
        removed.push(record.home.display().to_string());
        if record.made_account {
            programs::system("userdel", &[&record.account])?;
        }
    }
    machine.forget()?;
    let stays = args.with_data.is_none().then(|| record.home.display().to_string());
    if printer.is_json() {
        printer.json(&wire::Uninstalled { removed, left, home: stays });
        return Ok(0);
    }
    removed.iter().for_each(|path| printer.confirm(&format!("Removing {path}... done")));
    left.iter().for_each(|path| printer.warning(&format!("{path} was changed since, and stays")));
    if let Some(home) = stays.filter(|_| real) {
        printer.note(&format!("The state of all apps stays in {home}, and so does the account {}", record.account));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_account_is_an_ordinary_one() {
        assert_eq!(account("dozen"), Ok("dozen".to_owned()));
        for name in ["", "root", "-x", "a b", "Ada", "0x", "a:b", "é"] {
            assert!(account(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_put_and_taken_back_and_what_is_somebodys_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let machine = Machine(dir.path().to_owned());
        let file = |text: &str| Wanted { path: "/etc/x/y.conf".into(), bytes: text.as_bytes().to_vec(), mode: 0o640 };
        assert_eq!(machine.missing_folders(&[file("a")]), [Path::new("/etc"), Path::new("/etc/x")]);
        assert_eq!(machine.missing(&[file("a")], None).expect("free").len(), 1);
        machine.put(&file("a")).expect("put");
        let at = dir.path().join("etc/x/y.conf");
        assert_eq!(fs::metadata(&at).expect("there").permissions().mode() & 0o777, 0o640);
        assert!(machine.missing(&[file("a")], None).expect("as it is to be").is_empty());
        let record = Record { files: [(file("a").path, hash(b"a"))].into(), ..Record::default() };
        assert_eq!(machine.missing(&[file("b")], Some(&record)).expect("ours").len(), 1);
        assert!(machine.missing(&[file("b")], None).is_err(), "nobody's that is known");
        fs::write(&at, "changed").expect("written");
        assert!(machine.missing(&[file("b")], Some(&record)).is_err());
        assert!(!machine.take_back(&file("a").path, &hash(b"a")).expect("looked at"));
        fs::write(&at, "a").expect("written");
        assert!(machine.take_back(&file("a").path, &hash(b"a")).expect("looked at") && !at.exists());
        assert!(machine.take_back(&file("a").path, &hash(b"a")).expect("looked at"), "gone is gone");
    }
}
