//! What a jail is made of, from a release: the slug at `/app`, its environment, and the app's own shell.

use super::own_binary;
use crate::home::Home;
use dozen_core::ids::InstanceName;
use dozen_core::processes::Isolation;
use dozen_core::processes::jail::{JailLog, JailSpec, Mount, PROTOCOL, Scratch, View};
use dozen_core::processes::rules::Probe;
use dozen_core::processes::size::Limits;
use dozen_core::release::Release;
use std::path::{Path, PathBuf};

/// Where a slug is seen inside a jail with its own mounts.
pub const APP: &str = "/app";
/// Where dozen's own binary is seen there: outside of /usr, which is the host's.
const OWN: &str = "/.dozen/bin";
/// A parent that is lost gives its processes this long.
const LOST_GRACE_MS: u64 = 1_000;
/// Log segments are closed at 8 MiB and each instance keeps four closed ones.
const SEGMENT_BYTES: u64 = 8 << 20;
const SEGMENTS: u32 = 4;
/// Each scratch folder of an instance holds so much at most: it is memory.
const SCRATCH_BYTES: u64 = 512 << 20;

/// Sources what a slug has in `.profile.d` and `.profile`, then becomes the app's shell. The command is an argument, never part of the script.
const PROFILE: &str =
    r#"for f in .profile.d/*.sh; do [ -r "$f" ] && . "./$f"; done; [ -r .profile ] && . ./.profile; exec /bin/sh -c "$1""#;

/// What one instance or one-off runs in.
pub struct Place<'a> {
    /// Slugs and logs are here.
    pub home: &'a Home,
    /// What this machine gives.
    pub isolation: Isolation,
    /// The deploy's uid, used where the jail is made by root.
    pub uid: u32,
}

impl Place<'_> {
    /// Where the processes see the slug.
    pub fn app(&self, release: &Release) -> PathBuf {
        match self.isolation {
            Isolation::Session => self.home.slug(&release.slug.id).join("tree"),
            Isolation::Namespaces | Isolation::UserNamespaces => APP.into(),
        }
    }

    /// The jail of an instance, without a size.
    pub fn spec(&self, release: &Release, instance: &InstanceName, command: &str, port: Option<u16>, log: Option<JailLog>) -> JailSpec {
        let tree = self.home.slug(&release.slug.id).join("tree");
        let app = self.app(release);
        let mut env = release.environment(instance, port, &app.to_string_lossy());
        let mut mounts = self.mounts(release, tree.clone(), app.clone());
        self.add_own_binary(&mut env, &mut mounts);
        let rules = release.rules(&instance.kind);
        let probes = rules.checks.iter().any(|check| matches!(check.probe(port), Some(Probe::Run { .. })));
        let user = (self.isolation == Isolation::Namespaces).then_some((self.uid, self.uid));
        JailSpec {
            protocol: PROTOCOL,
            instance: instance.to_string(),
            hostname: hostname(release, instance),
            argv: shell(&tree, command),
            env,
            scratch: self.scratch(release, &app),
            cwd: app,
            mounts,
            view: if self.isolation == Isolation::Session { View::Host } else { View::Minimal },
            user,
            limits: Some(Limits::of(None).into()),
            port,
            held: true,
            ports: Some(rules.ports),
            probes,
            log,
            lost_grace_ms: LOST_GRACE_MS,
            lasting: false,
            shown: false,
        }
    }

    /// Lets the processes run `dozen`, which is the last on their PATH. One that cannot be handed on is missed only by those that need it.
    fn add_own_binary(&self, env: &mut [(String, String)], mounts: &mut Vec<Mount>) {
        // Without mounts this one only says that the file may be read.
        let folder = own_binary::file(self.home).and_then(|source| {
            mounts.push(Mount { source, target: Path::new(OWN).join(own_binary::NAME), writable: false });
            if self.isolation == Isolation::Session { own_binary::folder_with(self.home) } else { Ok(OWN.into()) }
        });
        match folder {
            Ok(folder) => {
                for (_, path) in env.iter_mut().filter(|(name, _)| name == "PATH") {
                    *path = format!("{path}:{}", folder.display());
                }
            }
            Err(error) => tracing::warn!(%error, "processes will not find dozen itself"),
        }
    }

    fn scratch(&self, release: &Release, app: &Path) -> Vec<Scratch> {
        // Without mounts the folder of the slug itself would be the one that is written.
        let can = self.isolation != Isolation::Session;
        release.slug.scratch.iter().filter(|_| can).map(|f| Scratch { target: app.join(f), bytes: SCRATCH_BYTES }).collect()
    }

    fn mounts(&self, release: &Release, tree: PathBuf, app: PathBuf) -> Vec<Mount> {
        let needs = release.slug.needs.iter().map(|n| Mount { source: n.clone(), target: n.clone(), writable: false });
        let folders = release.attachments.iter().filter_map(|a| a.folder.clone());
        let resources = folders.map(|f| Mount { source: f.clone(), target: f, writable: true });
        std::iter::once(Mount { source: tree, target: app, writable: false }).chain(needs).chain(resources).collect()
    }
}

/// Where an instance's jail writes its lines.
pub fn log(home: &Home, release: &Release) -> JailLog {
    JailLog { folder: home.logs(&release.deploy), release: release.version.to_string(), segment_bytes: SEGMENT_BYTES, segments: SEGMENTS }
}

/// What runs a command in a slug's folder.
pub(crate) fn shell(tree: &Path, command: &str) -> Vec<String> {
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
    if tree.join(".profile").exists() || tree.join(".profile.d").exists() {
        // Buildpacks write their profile scripts for bash.
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        words(&[shell, "-c", PROFILE, "sh", command])
    } else {
        words(&["/bin/sh", "-c", command])
    }
}

/// `shop-web-1`, as a DNS label.
fn hostname(release: &Release, instance: &InstanceName) -> String {
    let name = format!("{}-{}-{}", release.deploy.app, instance.kind, instance.number);
    let label: String = name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let start = label.len().saturating_sub(dozen_core::ids::MAX_LABEL);
    label[start..].trim_matches('-').to_owned()
}
