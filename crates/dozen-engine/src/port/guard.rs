//! VII. The guard of instance ports: an nftables table of dozen's own, where dozen is root and the host has `nft`.
//!
//! | who connects to a guarded port | |
//! |---|---|
//! | from outside | dropped |
//! | the router; root, as the control plane is | let through |
//! | the deploy itself | let through |
//! | anybody else on this host | refused |
//!
//! **Invariant:** only ports that are leased are guarded. What a dozen that was killed has left is swept by the next one.

use super::lease;
use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// Made anew each time: whoever changed it by hand, or has an older dozen's, gets this one, in one transaction.
const TABLE: &str = r#"add table inet dozen
add set inet dozen guarded { type inet_service; }
add map inet dozen owners { type inet_service : verdict; }
add chain inet dozen deny
add chain inet dozen outside { type filter hook input priority filter - 10; policy accept; }
add chain inet dozen inside { type filter hook output priority filter - 10; policy accept; }
flush chain inet dozen deny
flush chain inet dozen outside
flush chain inet dozen inside
add rule inet dozen deny reject with tcp reset
add rule inet dozen outside iifname != "lo" tcp flags & (syn | ack) == syn tcp dport @guarded drop
add rule inet dozen inside oifname "lo" meta skuid != { 0, 479999 } tcp flags & (syn | ack) == syn tcp dport vmap @owners
"#;
/// Where distributions have it; root's PATH need not lead there.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

static PROBED: OnceCell<Result<(), String>> = OnceCell::const_new();
static OPENING: Mutex<Opening> = Mutex::new(Opening { waiting: Vec::new(), task: None });

/// Ports that are given up.
struct Opening {
    waiting: Vec<(u16, Box<dyn Send>)>,
    task: Option<JoinHandle<()>>,
}

/// Sets the table up, once; answers why there is none.
pub async fn probe() -> Result<(), &'static str> {
    let found = PROBED.get_or_init(|| async {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can guard them".to_owned());
        }
        run(TABLE).await.map_err(|e| e.to_string())?;
        sweep().await;
        Ok(())
    });
    found.await.as_ref().copied().map_err(String::as_str)
}

/// What is not enforced, for people; `None` where the guard stands or nobody has asked for it.
pub fn missing() -> Option<String> {
    let why = PROBED.get()?.as_ref().err()?;
    Some(format!(
        "a guard of instance ports: others on this host reach them, and from outside where an app listens on all addresses ({why})"
    ))
}

/// Closes leased ports to all but the router, root and this uid. One run of `nft` for all of them: it costs more than a jail.
pub(crate) async fn shut(ports: &[u16], uid: u32) {
    if ports.is_empty() || !matches!(PROBED.get(), Some(Ok(()))) {
        return;
    }
    if run(&closed(ports, uid)).await.is_ok() {
        return;
    }
    // Somebody killed may have left one to another deploy, and then none of them was closed.
    for port in ports {
        let _ = run(&format!("delete element inet dozen owners {{ {port} }}\n")).await;
        if let Err(error) = run(&closed(&[*port], uid)).await {
            tracing::warn!(%error, port, "the port is not guarded");
        }
    }
}

/// One transaction.
fn closed(ports: &[u16], uid: u32) -> String {
    let owners: Vec<String> = ports.iter().map(|port| format!("{port} : goto uid-{uid}")).collect();
    format!(
        "add chain inet dozen uid-{uid}\nflush chain inet dozen uid-{uid}\nadd rule inet dozen uid-{uid} meta skuid {uid} accept\n\
         add rule inet dozen uid-{uid} jump deny\nadd element inet dozen guarded {{ {} }}\nadd element inet dozen owners {{ {} }}\n",
        list(ports),
        owners.join(", ")
    )
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Gives a port up, together with what keeps it from being leased meanwhile. Those that come while `nft` runs share the next run.
pub(crate) fn open(port: u16, lease: impl Send + 'static) {
    if !matches!(PROBED.get(), Some(Ok(()))) || tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    opening.waiting.push((port, Box::new(lease)));
    if opening.task.as_ref().is_none_or(JoinHandle::is_finished) {
        opening.task = Some(crate::tasks::spawn("guard", open_all()));
    }
}

async fn open_all() {
    loop {
        let waiting = {
            let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
            if opening.waiting.is_empty() {
                // Whoever comes next starts another: this one may not have quite finished by then.
                opening.task = None;
                return;
            }
            std::mem::take(&mut opening.waiting)
        };
        forget(&waiting.iter().map(|(port, _)| *port).collect::<Vec<_>>()).await;
    }
}

/// Waits until every port that was given up is open.
pub(crate) async fn at_rest() {
    let task = OPENING.lock().unwrap_or_else(PoisonError::into_inner).task.take();
    if let Some(task) = task {
        // One that failed has said so.
        let _ = task.await;
    }
}

async fn forget(ports: &[u16]) {
    let gone = |ports: &[u16]| {
        let ports = list(ports);
        format!("delete element inet dozen owners {{ {ports} }}\ndelete element inet dozen guarded {{ {ports} }}\n")
    };
    if ports.is_empty() || run(&gone(ports)).await.is_ok() {
        return;
    }
    // One that was not guarded keeps all of them.
    for port in ports {
        if let Err(error) = run(&gone(&[*port])).await {
            tracing::debug!(%error, port, "the port was not guarded");
        }
    }
}

/// Opens ports that nobody leases and nobody listens on, and deletes the chains of uids that then have none.
async fn sweep() {
    let Some(told) = listed().await else { return };
    forget(&told.guarded.into_iter().filter(|port| lease::is_free(*port)).collect::<Vec<u16>>()).await;
    let Some(Listed { chains, owners, .. }) = listed().await else { return };
    for chain in chains.iter().filter(|chain| !owners.contains(*chain)) {
        // The kernel keeps one that somebody has just begun to use.
        let _ = run(&format!("delete chain inet dozen {chain}\n")).await;
    }
}

/// What the table holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    guarded: Vec<u16>,
    /// The chains of uids.
    chains: Vec<String>,
    /// Those of them that some port leads to.
    owners: BTreeSet<String>,
}

async fn listed() -> Option<Listed> {
    let text = nft(&["-j", "list", "table", "inet", "dozen"], "").await.ok()?;
    Some(listed_in(&serde_json::from_slice(&text).ok()?))
}

fn listed_in(told: &serde_json::Value) -> Listed {
    let mut listed = Listed::default();
    for object in told["nftables"].as_array().into_iter().flatten() {
        let ports = object["set"]["elem"].as_array().into_iter().flatten();
        listed.guarded.extend(ports.filter_map(|n| u16::try_from(n.as_u64()?).ok()));
        listed.chains.extend(object["chain"]["name"].as_str().filter(|name| name.starts_with("uid-")).map(str::to_owned));
        let leads = object["map"]["elem"].as_array().into_iter().flatten();
        listed.owners.extend(leads.filter_map(|lead| Some(lead[1]["goto"]["target"].as_str()?.to_owned())));
    }
    listed
}

async fn run(script: &str) -> io::Result<()> {
    nft(&["-f", "-"], script).await.map(drop)
}

/// Runs `nft`; a script is one transaction. Answers what it prints.
async fn nft(words: &[&str], script: &str) -> io::Result<Vec<u8>> {
    let Some(program) = PROGRAMS.iter().find(|p| std::path::Path::new(p).exists()) else {
        return Err(io::Error::other("there is no nft; install the package nftables"));
    };
    #[expect(clippy::disallowed_methods, reason = "nft changes this host's own table; it is in no jail")]
    let mut command = tokio::process::Command::new(program);
    command.args(words).env_clear().current_dir("/").kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let out = child.wait_with_output().await?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("nft: {}", said.lines().next().unwrap_or("it failed").trim_start_matches("/dev/stdin:"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_kept_while_a_port_leads_to_it() {
        let chain = |name: &str| serde_json::json!({"chain": {"family": "inet", "table": "dozen", "name": name, "handle": 1}});
        let told = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "guarded", "elem": [64999, 65000]}},
            {"map": {"name": "owners", "map": "verdict", "elem": [[64999, {"goto": {"target": "uid-480000"}}], [65000, {"drop": null}]]}},
            chain("deny"), chain("uid-480000"), chain("uid-480001"),
        ]});
        let listed = Listed {
            guarded: vec![64999, 65000],
            chains: vec!["uid-480000".to_owned(), "uid-480001".to_owned()],
            owners: BTreeSet::from(["uid-480000".to_owned()]),
        };
        assert_eq!(listed_in(&told), listed);
        assert_eq!(listed_in(&serde_json::json!({"nftables": [{"set": {"name": "guarded"}}]})), Listed::default());
    }
}
