//! What an installer said when it failed: the few lines that tell, and what to do.

use super::interpreters::Interpreter;
use dozen_core::dependencies::{Language, system};

/// At most so many telling lines of a failed compilation, each cut to so many characters: it has been shown in full already.
const TELLING: usize = 6;
const WIDTH: usize = 200;

/// The lines that an error repeats: of a package that could not be built those that name an error, else the last `most`.
pub(super) fn telling(said: &[String], most: usize) -> Vec<String> {
    let last = || said[said.len().saturating_sub(most)..].to_vec();
    let Some(start) = said.iter().position(|l| package(l).is_some()) else { return last() };
    let names_error = |l: &str| {
        let exception = l.split_once(':').is_some_and(|(kind, _)| kind.ends_with("Error") && !kind.contains(' '));
        (l.contains("error:") && !l.starts_with("error: Command '")) || l.starts_with("Error:") || l.starts_with("fatal:") || exception
    };
    let mut out: Vec<String> = Vec::new();
    for line in said[start..].iter().map(|l| l.trim()).filter(|l| names_error(l)) {
        let line: String = line.chars().take(WIDTH).collect();
        if out.len() < TELLING && !out.contains(&line) {
            out.push(line);
        }
    }
    if out.len() > 1 { out } else { last() }
}

/// The package that a line says could not be built.
fn package(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Failed to build `").or_else(|| line.split_once("Failed to download and build `"))?;
    rest.split('`').next()
}

/// What to do about what uv said. `from` is the file that declares what is installed, `python` what it is installed for.
pub(super) fn uv_cure(said: &[String], from: &str, python: &Interpreter, found: &[Interpreter]) -> String {
    let has = |words: &[&str]| said.iter().any(|l| words.iter().any(|w| l.contains(w)));
    if has(&["No space left on device", "Disk quota exceeded"]) {
        "Free some space and run the command again".into()
    } else if has(&["invalid peer certificate"]) {
        "The package index shows a certificate that is not trusted here; name your authority's with SSL_CERT_FILE".into()
    } else if has(&["Git operation failed"]) {
        format!(
            "{from} names a git repository, and it could not be fetched. Is there a network, is the address right, and may you read it?"
        )
    } else if has(&[
        "error sending request",
        "dns error",
        "Failed to fetch",
        "Could not connect",
        "Connection refused",
        "tcp connect error",
    ]) {
        "No package index could be reached. Is there a network, or an index or proxy to name (UV_DEFAULT_INDEX, PIP_INDEX_URL, HTTPS_PROXY)?".into()
    } else if has(&["Hash mismatch", "hash mismatch", "missing a hash"]) {
        format!("A package is not the one that {from} was made with. Make the lock anew if you trust it")
    } else if has(&["incompatible with the project's Python requirement"]) {
        "pyproject.toml requires another Python: install one that it admits (its `requires-python`), or loosen that".into()
    } else if has(&["No solution found"]) {
        format!("The versions that {from} asks for do not exist or do not fit together; correct it")
    } else if let Some(package) = said.iter().find_map(|l| package(l)) {
        build_cure(package, said, from, python, found)
    } else if let Some(missing) = system::missing(said) {
        format!("What is compiled here needs {}: {}", missing.what, missing.cure())
    } else if has(&["Build backend"]) {
        format!(
            "The app's own package could not be built; correct its build settings, or run it without being one. {from} is what names it"
        )
    } else {
        format!("Correct {from} and run the command again")
    }
}

fn build_cure(package: &str, said: &[String], from: &str, python: &Interpreter, found: &[Interpreter]) -> String {
    let name = package.split([' ', '=', '@']).next().unwrap_or(package);
    if let Some(missing) = system::missing(said) {
        let wheel = if name.starts_with("psycopg2") { format!("; or name `psycopg2-binary` in {from}") } else { String::new() };
        format!("{package} is compiled here and needs {}: {}{wheel}", missing.what, missing.cure())
    } else {
        let number = python.number();
        let older = found
            .iter()
            .filter(|i| i.version >= Language::Python.oldest() && i.version[..2] < python.version[..2])
            .max_by_key(|i| i.version);
        let older = match older {
            Some(i) => format!("or try an older Python, as in `dozen up --use-python {}.{}`", i.version[0], i.version[1]),
            None => "for there is no older Python here to try".into(),
        };
        format!(
            "{package} has no ready-made wheel for Python {number} and could not be compiled. It is most likely older than this Python: \
             name a newer {name} in {from}, {older}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn python(version: [u32; 3]) -> Interpreter {
        Interpreter { version, prefix: "/p".into(), executable: "/p/bin/python3".into() }
    }

    const COMPILED: &str = "Resolved 3 packages\nerror: Failed to build `greenlet==1.1.2`\n  cause: The build backend returned an error\n\
        running build\nsrc/g.c:12:2: error: no member\n 12 | x;\nsrc/g.c:12:2: error: no member\nerror: Command '['gcc', '-c']' failed\nhint: Build failures";

    #[test]
    fn a_failed_compilation_is_told_in_a_few_lines() {
        assert_eq!(telling(&lines(COMPILED), 12), ["error: Failed to build `greenlet==1.1.2`", "src/g.c:12:2: error: no member"]);
        let python = "error: Failed to build `x==1`\n  File \"setup.py\"\n  ImportError: cannot import name 'Feature'";
        assert_eq!(telling(&lines(python), 12), ["error: Failed to build `x==1`", "ImportError: cannot import name 'Feature'"]);
        // Nothing in it names an error: what was said last.
        let silent = "error: Failed to build `x==1`\na\nb";
        assert_eq!(telling(&lines(silent), 2), ["a", "b"]);
        assert_eq!(telling(&lines("a\nb\nc"), 2), ["b", "c"]);
    }

    #[test]
    fn each_failure_has_a_cure_that_can_be_tried() {
        let here = [python([3, 13, 0]), python([3, 11, 7]), python([3, 10, 1]), python([3, 8, 2])];
        let cure = |said: &str| uv_cure(&lines(said), "requirements.txt", &here[1], &here);
        assert!(cure(COMPILED).ends_with(
            "greenlet==1.1.2 has no ready-made wheel for Python 3.11.7 and could not be compiled. It is most likely older than this Python: \
             name a newer greenlet in requirements.txt, or try an older Python, as in `dozen up --use-python 3.10`"
        ));
        let build = |why: &str| cure(&format!("error: Failed to build `x==1`\n{why}"));
        assert!(build("Error: pg_config executable not found.").contains("libpq-dev"));
        assert!(build("x.c:1:10: fatal error: ldap.h: No such file or directory").contains("`apt install libldap-dev libsasl2-dev`"));
        assert!(build("x.c:1:10: fatal error: longintrepr.h: No such file or directory").contains("older than this Python"));
        assert!(cure("Build backend failed\nfatal error: zlib.h: No such file or directory").contains("`apt install zlib1g-dev`"));
        assert!(cure("error: Failed to download and build `y @ git+https://h/y`\n cause: Git operation failed").contains("git repository"));
        assert!(cure("error: Python 3.13.0 is incompatible with the project's Python requirement: `>=3.14`").contains("requires-python"));
        assert!(cure("dns error").contains("No package index"));
        assert!(cure("anything").contains("Correct requirements.txt"));
        assert!(uv_cure(&lines(COMPILED), "r", &here[3], &here).contains("there is no older Python here"));
    }
}
