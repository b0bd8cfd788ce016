//! `examples/guestbook` outside dozen: its virtual environment, its tests, a copy to play with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::process::{program, read, run};

/// The example's folder.
pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join("examples/guestbook")
}

/// A virtual environment under cargo's target folder with exactly what is locked.
pub(crate) fn venv(root: &Path, target: &Path) -> Result<PathBuf> {
    let venv = target.join("guestbook-venv");
    let python = venv.join("bin/python");
    if read(program(&python).args(["-m", "pip", "--version"])).is_err() {
        run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    }
    let requirements = folder(root).join("requirements.txt");
    run(program(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"])
        .arg(requirements))?;
    Ok(python)
}

/// Runs its Django tests against this database and returns how many passed.
pub(crate) fn test(root: &Path, python: &Path, database: &str) -> Result<u64> {
    let mut tests = manage(root, python, &["test", "--noinput"]);
    let output = tests.env("SECRET_KEY", "test").env("DATABASE_URL", database).stdin(Stdio::null()).output()?;
    // Django's runner reports on standard error; what the app logs while it is tested is of interest only when a test fails.
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the guestbook's tests fail:\n{}{said}", String::from_utf8_lossy(&output.stdout));
    let count = said.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse().ok());
    count.filter(|count| *count > 0).context("the guestbook's tests did not say how many they are")
}

/// `python manage.py …` in the example's folder, writing no byte code into it.
pub(crate) fn manage(root: &Path, python: &Path, args: &[&str]) -> Command {
    let mut manage = program(python);
    manage.args(["-W", "ignore", "manage.py"]).args(args).current_dir(folder(root)).env("PYTHONDONTWRITEBYTECODE", "1");
    manage
}

/// A copy of what a fresh clone would have, so that a measurement leaves no trace in the work tree.
pub(crate) fn copy(root: &Path, to: &Path) -> Result<()> {
    let from = folder(root);
    for entry in ignore::WalkBuilder::new(&from).hidden(false).build() {
        let entry = entry?;
        let path = to.join(entry.path().strip_prefix(&from)?);
        if entry.path().is_dir() {
            std::fs::create_dir_all(&path)?;
        } else {
            std::fs::copy(entry.path(), &path).with_context(|| format!("cannot copy to {}", path.display()))?;
        }
    }
    Ok(())
}
