//! `cargo xtask soak api`: schemathesis makes requests of `docs/openapi.json`, sensible and not, and sends them to a server with an app.
//!
//! No answer may be a 5xx, each must be of the kind and shape that the specification says, and afterwards the home is whole. Streams that do not
//! end by themselves are left out, and what would end the server or the app.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::deploy::{API, serve, settle};
use crate::process::{free_port, program, read, run};
use crate::{Options, machine};

/// What is filled in for the names in a path.
const PLACES: &str = r#"
[parameters]
"path.app" = "shop"
"path.deploy" = "production"
"path.user" = "admin"
"path.version" = ["v1", "v2", "current", "x"]
"#;

pub(crate) fn run_all(root: &Path, options: &Options) -> Result<()> {
    let dozen = options.dozen()?;
    let folder = tempfile::Builder::new().prefix("dozen-soak-").tempdir()?;
    let schemathesis = schemathesis()?;
    let (app, port) = (folder.path().join("app"), free_port()?);
    std::fs::create_dir(&app)?;
    std::fs::write(app.join("index.html"), "hello\n")?;
    let ours = |words: &[&str]| {
        let mut command = program(&dozen);
        command.args(words).current_dir(&app);
        settle(&mut command, folder.path());
        command
    };
    read(&mut ours(&["up", "-a", "shop/production", "--port", "0", "--once"]))?;
    let (server, token) = serve(&dozen, folder.path(), port)?;
    let token = token.context("a new server has a first token")?;

    let mut specification: Value = serde_json::from_str(&std::fs::read_to_string(root.join("docs/openapi.json"))?)?;
    // Tokens of its own invention would have it wait, as everybody who guesses has to.
    specification.as_object_mut().context("an object")?.remove("security");
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, specification.to_string())?;
    std::fs::write(folder.path().join("schemathesis.toml"), PLACES)?;
    let mut check = program(schemathesis);
    check.arg("run").arg(&file).current_dir(folder.path());
    check.args(["--url", &format!("http://127.0.0.1:{port}"), "--header", &format!("Host: {API}")]);
    check.args(["--header", &format!("Authorization: Bearer {token}"), "--seed", &options.seed.to_string()]);
    check.args(["--max-examples", &options.rounds.to_string(), "--phases", "examples,coverage,fuzzing", "--request-timeout", "60"]);
    check.args(["--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"]);
    check.args(["--exclude-path-regex", "/(stop|handover|builds|logs|runs)$", "--exclude-method", "DELETE"]);
    run(&mut check).with_context(|| format!("again with --seed {}", options.seed))?;
    server.stop(Signal::INT, Duration::from_secs(60))?;
    run(&mut ours(&["server", "check"]))
}

/// Its program, in a virtual environment under cargo's target folder.
fn schemathesis() -> Result<std::path::PathBuf> {
    let venv = machine::target()?.join("schemathesis-venv");
    let there = venv.join("bin/schemathesis");
    if read(program(&there).arg("--version")).is_err() {
        run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(program(venv.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "schemathesis==4.*",
        ]))?;
    }
    Ok(there)
}
