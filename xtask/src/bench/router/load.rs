//! Programs that ask, and what a proxy uses meanwhile: `wrk` for HTTP/1.1, `h2load` for HTTP/2. On the core that no proxy has.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Pid;

use super::peers::{OTHERS, PAGES, on_core};
use crate::bench::supervise::gauge::{Own, own_processes};
use crate::process::{program, read};

/// What a browser sends besides.
const BROWSER: [&str; 5] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: text/html,application/xhtml+xml",
    "Accept-Encoding: gzip, br",
    "Accept-Language: en-US,en;q=0.9",
    "Cookie: session=0123456789abcdef0123456789abcdef",
];
/// What all proxies speak to all clients, so that no proxy's own choice decides.
const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

/// The time of processors that a proxy used for each thing that was asked of it, in microseconds, and how many came in a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) each: f64,
    pub(super) rate: f64,
}

/// What a proxy uses while this goes on, which answers how many things were asked.
pub(super) fn cost(pid: Pid, time: Duration, ask: impl FnOnce() -> Result<u64>) -> Result<Cost> {
    let own = own_processes(&[pid])?;
    let used = || own.iter().map(Own::used).sum::<Duration>();
    let before = used();
    let count = ask()?;
    let spent = used().saturating_sub(before);
    ensure!(count > 0, "nothing was answered");
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let count = count as f64;
    Ok(Cost { each: spent.as_secs_f64() * 1e6 / count, rate: count / time.as_secs_f64() })
}

/// What `wrk` is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requests<'a> {
    pub(super) connections: u32,
    pub(super) path: &'a str,
    /// Whether each request has a connection of its own.
    pub(super) closing: bool,
    /// A script that says what to ask, in place of the host of pages.
    pub(super) script: Option<&'a Path>,
    /// How OpenSSL is told what to speak, where it is spoken.
    pub(super) tls: Option<&'a Path>,
}

/// Asks for so many seconds. One answer that is none, or an error of a socket, and it has failed.
pub(super) fn requests(pid: Pid, port: u16, what: Requests<'_>, seconds: u32) -> Result<Cost> {
    let mut wrk = program("wrk");
    wrk.args(["-t1", &format!("-c{}", what.connections), &format!("-d{seconds}s")]);
    for header in BROWSER {
        wrk.args(["-H", header]);
    }
    if what.closing {
        wrk.args(["-H", "Connection: close"]);
    }
    match what.script {
        Some(script) => drop(wrk.arg("-s").arg(script)),
        None => drop(wrk.args(["-H", &format!("Host: {PAGES}")])),
    }
    let scheme = match what.tls {
        Some(conf) => {
            wrk.env("OPENSSL_CONF", conf);
            "https"
        }
        None => "http",
    };
    wrk.arg(format!("{scheme}://127.0.0.1:{port}{}", what.path));
    cost(pid, Duration::from_secs(seconds.into()), || {
        let said = on_core(OTHERS, || read(&mut wrk))??;
        // A server that closes after each answer is none of wrk's errors but for those of reading.
        let is_wrong = |line: &&str| line.contains("Non-2xx") || (line.contains("Socket errors") && !what.closing);
        if let Some(wrong) = said.lines().find(is_wrong) {
            bail!("wrk says: {}", wrong.trim());
        }
        let count = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        count.with_context(|| format!("wrk does not say how many it asked: {said}"))
    })
}

/// Writes what tells programs that use OpenSSL to speak TLS 1.3 with one cipher.
pub(super) fn openssl_conf(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("openssl.cnf");
    let conf = format!(
        "openssl_conf = all\n[all]\nssl_conf = modules\n[modules]\nsystem_default = tls\n[tls]\nMinProtocol = TLSv1.3\nCiphersuites = {CIPHER}\n"
    );
    std::fs::write(&path, conf)?;
    Ok(path)
}

/// Asks by HTTP/2 for so many seconds, over so many connections with so many streams each. An answer that is none, and it has failed.
pub(super) fn streams(pid: Pid, port: u16, path: &str, [connections, streams]: [u32; 2], seconds: u32) -> Result<Cost> {
    let mut h2load = program("h2load");
    h2load.args(["-t1", &format!("-c{connections}"), &format!("-m{streams}"), &format!("-D{seconds}")]);
    h2load.args(["--npn-list=h2", &format!("--tls13-ciphers={CIPHER}"), &format!("--connect-to=127.0.0.1:{port}")]);
    for header in BROWSER {
        h2load.args(["-H", header]);
    }
    h2load.arg(format!("https://{PAGES}:{port}{path}"));
    cost(pid, Duration::from_secs(seconds.into()), || answered(&on_core(OTHERS, || read(&mut h2load))??))
}

/// How many requests were answered, by what h2load says; nothing may have failed, nor been spoken otherwise.
fn answered(said: &str) -> Result<u64> {
    for spoken in ["TLS Protocol: TLSv1.3", &format!("Cipher: {CIPHER}"), "Application protocol: h2"] {
        ensure!(said.lines().any(|line| line == spoken), "h2load does not say `{spoken}`: {said}");
    }
    // `requests: 9 total, 9 started, 9 done, 8 succeeded, 1 failed, 0 errored, 0 timeout`
    let of = |line: &str, what: &str| -> Option<u64> {
        let numbers = said.lines().find_map(|said| said.strip_prefix(line))?;
        numbers.split(',').find_map(|number| number.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let wrong = ["failed", "errored", "timeout"].map(|what| of("requests: ", what));
    // Heads of answers that had not come whole when time was over are counted among these.
    let other = ["3xx", "4xx", "5xx"].map(|what| of("status codes: ", what));
    match of("requests: ", "done") {
        Some(done) if wrong == [Some(0); 3] && other == [Some(0); 3] => Ok(done),
        _ => bail!("h2load says: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::answered;

    const SAID: &str = "TLS Protocol: TLSv1.3\nCipher: TLS_AES_128_GCM_SHA256\nApplication protocol: h2\n\n\
        finished in 2.00s, 4.50 req/s, 5.90KB/s\n\
        requests: 10 total, 10 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx\n";

    #[test]
    fn what_h2load_says_is_read_and_nothing_wrong_is_passed_over() {
        assert_eq!(answered(SAID).ok(), Some(9));
        for (is, was) in [
            ("TLSv1.2", "TLSv1.3"),
            ("AES_256", "AES_128"),
            ("protocol: http/1.1", "protocol: h2"),
            ("1 failed", "0 failed"),
            ("1 errored", "0 errored"),
            ("1 timeout", "0 timeout"),
            ("1 5xx", "0 5xx"),
            ("nothing", "requests"),
        ] {
            assert!(answered(&SAID.replacen(was, is, 1)).is_err(), "{is}");
        }
    }
}
