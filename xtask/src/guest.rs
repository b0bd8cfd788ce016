//! `cargo xtask soak guest`: the tests of sizes and fences on a host that has cgroups of version 2 only, and an older kernel.
//!
//! That host is a QEMU guest without hardware's help, so that it runs anywhere: Debian's cloud kernel, taken out of its package, with this
//! machine's own files as its root, read-only by virtio-fs and a layer in memory over them. The binaries under test are thus found where they
//! were built. What it tries is in `guest/cases.sh`; it tells by a serial line of its own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, getrlimit};

use crate::machine::{self, target};
use crate::process::{Running, cargo, program, read, run, wait_until};

/// Depends on the kernel of the day.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What of it is needed before the root is there; the rest is loaded from its folder.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];
const MEMORY: &str = "2G";
/// No case takes longer, and no line of its output.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Until virtiofsd listens.
const SHARE: Duration = Duration::from_secs(10);
/// So many last lines of the console are shown where the guest failed.
const TAIL: usize = 40;

/// A kernel that was taken out of its package.
struct Kernel {
    image: PathBuf,
    version: String,
    /// Its modules, by their paths in it.
    modules: PathBuf,
}

/// What runs in the guest.
struct Binaries {
    it: PathBuf,
    jail: PathBuf,
    dozen: PathBuf,
}

/// One case, and what it said.
struct Case {
    name: String,
    lines: Vec<String>,
    since: Instant,
}

/// `only`: how the names of the cases begin that are tried.
pub(crate) fn run_all(root: &Path, only: &str) -> Result<()> {
    ensure!(only.chars().all(|c| c.is_ascii_lowercase()), "cases are named in lower case: top, root, login, scope");
    ensure!(rustix::process::geteuid().is_root(), "this needs root, to share this machine's files with the guest");
    machine::prepare_guest()?;
    let binaries = build()?;
    let kernel = Kernel::get(&target()?.join("guest"))?;
    let folder = tempfile::Builder::new().prefix("dozen-guest-").tempdir()?;
    let initramfs = initramfs(folder.path(), &kernel, &binaries, root, only)?;
    println!("Linux {} boots, without hardware's help", kernel.version);
    let _share = share(folder.path())?;
    let done = boot(folder.path(), &kernel, &initramfs);
    if done.is_err() {
        let console = std::fs::read(folder.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        println!("the console's end:\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
    }
    done
}

/// The tests' own binaries, and dozen's, as `cargo xtask test` builds them.
fn build() -> Result<Binaries> {
    let said = read(&mut cargo(&["test", "--quiet", "--workspace", "--locked", "--no-run", "--message-format=json"]))?;
    let built = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let tests: Vec<(String, PathBuf)> =
        built.filter_map(|m| Some((m["target"]["name"].as_str()?.to_owned(), m["executable"].as_str()?.into()))).collect();
    let find = |name: &str| {
        let found = tests.iter().find(|(target, _)| target == name).map(|(_, path)| path.clone());
        found.with_context(|| format!("cargo built no tests called {name}"))
    };
    Ok(Binaries { it: find("it")?, jail: find("dozen_jail")?, dozen: target()?.join("debug/dozen") })
}

impl Kernel {
    /// Downloads today's, unless it is there already.
    fn get(folder: &Path) -> Result<Self> {
        let depends = read(program("apt-cache").args(["depends", KERNEL]))?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.with_context(|| format!("apt-cache knows no kernel of {KERNEL}"))?;
        let version = package.strip_prefix("linux-image-").context("a kernel's package names its version")?.to_owned();
        let (at, fresh) = (folder.join(package), folder.join(format!("{package}.new")));
        if !at.exists() {
            println!("downloading {package}, once");
            let _ = std::fs::remove_dir_all(&fresh);
            std::fs::create_dir_all(&fresh)?;
            run(program("apt-get").args(["-q", "download", package]).current_dir(&fresh))?;
            let file = std::fs::read_dir(&fresh)?.flatten().map(|entry| entry.path()).next().context("apt-get downloaded nothing")?;
            run(program("dpkg-deb").arg("-x").args([&file, &fresh]))?;
            std::fs::remove_file(file)?;
            run(program("busybox").args(["depmod", "-b"]).arg(&fresh).arg(&version))?;
            std::fs::rename(&fresh, &at)?;
        }
        let modules = at.join("lib/modules").join(&version);
        Ok(Self { image: at.join(format!("boot/vmlinuz-{version}")), version, modules })
    }

    /// The files of these modules and of all that they need, relative to the folder of modules.
    fn files(&self, names: &[&str]) -> Result<BTreeSet<String>> {
        let all = std::fs::read_to_string(self.modules.join("modules.dep"))?;
        let mut files = BTreeSet::new();
        for name in names {
            let line = all.lines().find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&format!("/{name}.ko"))));
            let line = line.with_context(|| format!("the kernel has no module {name}"))?;
            files.extend(line.replacen(':', "", 1).split_whitespace().map(str::to_owned));
        }
        Ok(files)
    }
}

/// A first root in memory, from which the guest finds its own.
fn initramfs(folder: &Path, kernel: &Kernel, binaries: &Binaries, root: &Path, only: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    let put = |path: &str, bytes: Vec<u8>| -> Result<()> {
        let at = tree.join(path);
        std::fs::create_dir_all(at.parent().context("a path in the tree")?)?;
        std::fs::write(&at, bytes)?;
        Ok(std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755))?)
    };
    for folder in ["proc", "dev", "host", "layer", "root"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok()).context("no busybox")?;
    put("bin/busybox", busybox)?;
    put("init", include_bytes!("guest/init.sh").to_vec())?;
    put("cases.sh", include_bytes!("guest/cases.sh").to_vec())?;
    let crate_folder = root.join("crates/dozen");
    let settings = [
        ("VERSION", Path::new(&kernel.version)),
        ("MODULES", &kernel.modules),
        ("CRATE", &crate_folder),
        ("ONLY", Path::new(only)),
        ("IT", &binaries.it),
        ("JAIL", &binaries.jail),
        ("DOZEN", &binaries.dozen),
    ];
    let settings: String = settings.iter().map(|(name, value)| format!("{name}='{}'\n", value.display())).collect();
    put("settings", settings.into_bytes())?;
    let inside = format!("lib/modules/{}", kernel.version);
    for file in kernel.files(&MODULES)? {
        put(&format!("{inside}/{file}"), std::fs::read(kernel.modules.join(&file))?)?;
    }
    put(&format!("{inside}/modules.dep"), std::fs::read(kernel.modules.join("modules.dep"))?)?;

    let (list, archive) = (folder.join("list"), folder.join("initramfs"));
    std::fs::write(&list, read(program("find").arg(".").current_dir(&tree))?)?;
    let mut pack = program("busybox");
    pack.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree);
    run(pack.stdin(std::fs::File::open(list)?).stdout(std::fs::File::create(&archive)?).stderr(Stdio::null()))?;
    Ok(archive)
}

/// Shares this machine's files, for as long as the value lives.
fn share(folder: &Path) -> Result<Running> {
    let (socket, log) = (folder.join("share"), folder.join("share.log"));
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(100_000).min(100_000);
    let mut daemon = program(machine::virtiofsd().context("no virtiofsd")?);
    daemon.arg(format!("--socket-path={}", socket.display())).arg(format!("--rlimit-nofile={files}"));
    daemon.args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]);
    let mut running = Running::start(&mut daemon, &log)?;
    let listens = wait_until(SHARE, || {
        ensure!(running.ended()?.is_none(), "virtiofsd ended:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        Ok(socket.exists())
    })?;
    ensure!(listens, "virtiofsd does not listen");
    Ok(running)
}

/// Runs the guest to its end, and tells of each case as it ends.
fn boot(folder: &Path, kernel: &Kernel, initramfs: &Path) -> Result<()> {
    let mut qemu = program("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-display", "none", "-nodefaults", "-no-reboot"]);
    // Its clock goes by what it has done, so that no time in it is short because this machine is slow or busy.
    qemu.args(["-smp", "1", "-icount", "shift=0,sleep=on"]);
    qemu.arg("-serial").arg(format!("file:{}", folder.join("console").display())).args(["-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs).args(["-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-chardev").arg(format!("socket,id=share,path={}", folder.join("share").display()));
    qemu.args(["-device", "vhost-user-fs-pci,chardev=share,tag=host"]);
    // What virtio-fs shares the guest's memory by.
    qemu.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")).args(["-numa", "node,memdev=memory"]);
    let (mut qemu, output) = Running::piped(&mut qemu, &folder.join("qemu.log"))?;
    let (told, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if told.send(line).is_err() {
                return;
            }
        }
    });
    let failed = follow(&lines)?;
    wait_until(PATIENCE, || Ok(qemu.ended()?.is_some()))?;
    ensure!(failed.is_empty(), "failed in the guest: {}", failed.join(", "));
    Ok(())
}

/// Listens to the guest until it is done; answers the names of the cases that failed.
fn follow(lines: &mpsc::Receiver<String>) -> Result<Vec<String>> {
    let (mut failed, mut tried) = (Vec::new(), 0);
    let mut case: Option<Case> = None;
    loop {
        let since = case.as_ref().map_or_else(Instant::now, |case| case.since);
        let line = match lines.recv_timeout(PATIENCE.saturating_sub(since.elapsed())) {
            Ok(line) => line,
            Err(end) => {
                let (name, said) = case.map_or_else(|| ("the boot".to_owned(), String::new()), |c| (c.name, c.lines.join("\n")));
                bail!(
                    "{said}\n{} in {name}",
                    if end == mpsc::RecvTimeoutError::Timeout { "nothing more was heard" } else { "the guest ended" }
                );
            }
        };
        if line == "@done" {
            ensure!(tried > 0, "there is no such case");
            return Ok(failed);
        } else if let Some(name) = line.strip_prefix("@begin ") {
            case = Some(Case { name: name.to_owned(), lines: Vec::new(), since: Instant::now() });
        } else if let Some(end) = line.strip_prefix("@end ")
            && let Some(ended) = case.take_if(|case| end.starts_with(&case.name))
        {
            tried += 1;
            if !ended.tell(end) {
                failed.push(ended.name);
            }
        } else if let Some(case) = &mut case {
            case.lines.push(line);
        }
    }
}

impl Case {
    /// Whether it went well. A test that says it could not run has not.
    fn tell(&self, end: &str) -> bool {
        let unrun = self.lines.iter().any(|line| line.contains("not run: "));
        let good = end.strip_prefix(&self.name).is_some_and(|code| code == " 0") && !unrun;
        let seconds = self.since.elapsed().as_secs();
        if good {
            let count: u32 = self.lines.iter().filter_map(|line| crate::test::result(line)).map(|(passed, _)| passed as u32).sum();
            let tests = if count > 0 { format!(", {count} tests") } else { String::new() };
            println!("ok      {} ({seconds} s{tests})", self.name);
        } else {
            println!("{}\nFAILED  {} ({seconds} s)", self.lines.join("\n"), self.name);
        }
        good
    }
}
