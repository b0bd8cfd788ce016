//! What builds and processes miss of the system, and the Debian package that has it.
//!
//! **Invariant:** an answer quotes the name of a file, a library or a program only, never a whole line, which may hold a secret.

mod packages;

use packages::{PACKAGES, PHRASES};

/// Something of the system that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// As a fragment: `the header libpq-fe.h`.
    pub what: String,
    /// The packages that have it, as `apt install` takes them.
    pub packages: Option<&'static str>,
    /// What to search for where the package is not known.
    file: String,
}

/// The header of Python's own that left; who misses it is older than the Python, not short of a package.
const GONE: [&str; 1] = ["longintrepr.h"];

impl Missing {
    /// What to do, as a sentence without a full stop.
    pub fn cure(&self) -> String {
        match self.packages {
            Some(packages) => {
                let them = if packages.contains(' ') { "them" } else { "it" };
                format!("`apt install {packages}`, and add {them} to Aptfile so that the next machine is checked before the build")
            }
            None => format!(
                "Find the Debian package that has it with `apt-file search {}`, install that, \
                 and add it to Aptfile so that the next machine is checked before the build",
                self.file
            ),
        }
    }

    fn of(kind: &str, file: &str) -> Option<Self> {
        let plain = !file.is_empty() && file.len() <= 100 && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/".contains(&b));
        plain.then(|| {
            let shown = file.strip_suffix(".pc").map_or(file, |name| name);
            Self { what: format!("{kind} {shown}"), packages: packages(file), file: file.to_owned() }
        })
    }
}

/// The packages that have a file: `libpq-fe.h`, `cairo.pc`, `libpq.so`, `libGL.so.1`, `make`.
pub fn packages(file: &str) -> Option<&'static str> {
    let has = |name: &str| name == file || (name.ends_with('/') && file.starts_with(name));
    PACKAGES.iter().find(|(_, files)| files.iter().any(|f| has(f))).map(|(package, _)| *package)
}

/// What a failed build says that it misses: the first of which the package is known, else the first.
pub fn missing(said: &[String]) -> Option<Missing> {
    let mut unknown = None;
    for found in said.iter().filter_map(|line| of_line(line)) {
        if found.packages.is_some() {
            return Some(found);
        }
        unknown.get_or_insert(found);
    }
    unknown
}

/// What one line says is missing. A program only where its package is known: what is not found is a file of the app's own as often as not.
pub fn of_line(line: &str) -> Option<Missing> {
    phrase(line)
        .or_else(|| header(line))
        .or_else(|| library(line))
        .or_else(|| linked(line))
        .or_else(|| pkg_config(line))
        .or_else(|| program(line))
}

fn phrase(line: &str) -> Option<Missing> {
    let (_, file) = PHRASES.iter().find(|(phrase, _)| line.contains(phrase))?;
    let kind = match *file {
        f if f.ends_with(".h") => "the header",
        f if f.contains(".so") => "the library",
        f if f.contains(' ') => "the headers of",
        _ => "the program",
    };
    let shown = match *file {
        "directory of OpenSSL" => "OpenSSL",
        "libgdal" => return Some(Missing { what: "the GDAL library".into(), packages: packages(file), file: (*file).into() }),
        other => other,
    };
    Some(Missing { what: format!("{kind} {shown}"), packages: packages(file), file: (*file).into() })
}

/// gcc's and clang's.
fn header(line: &str) -> Option<Missing> {
    let (_, rest) = line.split_once("fatal error: ")?;
    let gcc = rest.split_once(": No such file").map(|(file, _)| file);
    let file = gcc.or_else(|| rest.strip_prefix('\'')?.split_once("' file not found").map(|(file, _)| file))?;
    if GONE.contains(&file) { None } else { Missing::of("the header", file) }
}

/// The dynamic loader's: `libGL.so.1: cannot open shared object file`.
fn library(line: &str) -> Option<Missing> {
    let (head, _) = line.split_once(": cannot open shared object file")?;
    let name = head.rsplit([' ', '/', '"', '\'']).next().filter(|n| n.contains(".so"))?;
    Missing::of("the library", name)
}

/// The linker's: `cannot find -lpq`.
fn linked(line: &str) -> Option<Missing> {
    let (_, rest) = line.split_once("cannot find -l")?;
    let name = rest.split(|c: char| c == ':' || c.is_whitespace()).next()?;
    Missing::of("the library", &format!("lib{name}.so"))
}

/// pkg-config's, in its several forms, and meson's.
fn pkg_config(line: &str) -> Option<Missing> {
    let between = |start: &str, end: &str| line.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(name, _)| name);
    let name = between("Package '", "', required by ")
        .filter(|_| line.contains("not found"))
        .or_else(|| between("Package ", " was not found in the pkg-config search path").map(|n| n.trim_matches('\'')))
        .or_else(|| between("No package '", "' found"))
        .or_else(|| between("Dependency \"", "\" not found"))?;
    Missing::of("what pkg-config knows as", &format!("{name}.pc"))
}

fn program(line: &str) -> Option<Missing> {
    let quoted = |start: &str, end: char| line.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(name, _)| name);
    let shell = || {
        let head = line.strip_suffix(": not found").or_else(|| line.strip_suffix(": command not found"))?;
        // A path that was asked of a server is none.
        head.rsplit([' ', ':']).next().filter(|name| !name.starts_with('/'))
    };
    let name = shell()
        .or_else(|| line.rsplit_once("not found: ").map(|(_, name)| name))
        .or_else(|| quoted("unable to execute '", '\''))
        .or_else(|| quoted("command '", '\'').filter(|_| line.contains("failed: No such file")))
        .or_else(|| quoted("No such file or directory: '", '\''))
        .or_else(|| quoted("spawn ", ' ').filter(|_| line.contains("ENOENT")))?;
    let name = name.trim().rsplit('/').next()?;
    Missing::of("the program", name).filter(|m| m.packages.is_some() && !name.contains(".so") && !name.ends_with(".h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_package() {
        let cases = [
            ("x.c:1:10: fatal error: libpq-fe.h: No such file or directory", "the header libpq-fe.h", "libpq-dev"),
            ("x.c:1:10: fatal error: 'openssl/ssl.h' file not found", "the header openssl/ssl.h", "libssl-dev"),
            ("fatal error: Python.h: No such file or directory", "the header Python.h", "python3-dev"),
            ("fatal error: libxml/xpath.h: No such file or directory", "the header libxml/xpath.h", "libxml2-dev"),
            ("../src/common.h:1:10: fatal error: vips/vips8: No such file or directory", "the header vips/vips8", "libvips-dev"),
            ("Error: pg_config executable not found.", "the program pg_config", "libpq-dev"),
            ("/bin/sh: 1: mysql_config: not found", "the program mysql_config", "default-libmysqlclient-dev pkg-config"),
            ("Exception: Can not find valid pkg-config name.", "the program mysql_config", "default-libmysqlclient-dev pkg-config"),
            ("error: command 'gcc' failed: No such file or directory", "the program gcc", "build-essential"),
            ("error: command '/usr/bin/x86_64-linux-gnu-gcc' failed: No such file", "the program x86_64-linux-gnu-gcc", "build-essential"),
            ("unable to execute 'gcc': No such file or directory", "the program gcc", "build-essential"),
            ("gyp ERR! stack Error: not found: make", "the program make", "build-essential"),
            ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'", "the program cmake", "cmake"),
            ("Error: spawn pkg-config ENOENT", "the program pkg-config", "pkg-config"),
            ("bash: line 1: cargo: command not found", "the program cargo", "cargo"),
            ("error: can't find Rust compiler", "the program rustc", "rustc"),
            ("Package 'cairo', required by 'virtual:world', not found", "what pkg-config knows as cairo", "libcairo2-dev"),
            ("Package pixman-1 was not found in the pkg-config search path.", "what pkg-config knows as pixman-1", "libpixman-1-dev"),
            ("No package 'vips-cpp' found", "what pkg-config knows as vips-cpp", "libvips-dev"),
            (
                "meson.build:3:0: ERROR: Dependency \"openblas\" not found, tried pkgconfig",
                "what pkg-config knows as openblas",
                "libopenblas-dev",
            ),
            ("/usr/bin/ld: cannot find -lpq: No such file or directory", "the library libpq.so", "libpq-dev"),
            ("/usr/bin/ld: cannot find -lz", "the library libz.so", "zlib1g-dev"),
            ("ImportError: libGL.so.1: cannot open shared object file: No such file", "the library libGL.so.1", "libgl1"),
            ("OSError: /x/libgomp.so.1: cannot open shared object file", "the library libgomp.so.1", "libgomp1"),
            ("ImportError: failed to find libmagic.  Check your installation", "the library libmagic.so.1", "libmagic1"),
            ("Could not find the GDAL library (tried \"gdal\")", "the GDAL library", "gdal-bin"),
            (
                "Error: Please make sure the libxml2 and libxslt development packages are installed.",
                "the headers of libxml2 and libxslt",
                "libxml2-dev libxslt1-dev",
            ),
            ("Could not find directory of OpenSSL installation, and this", "the headers of OpenSSL", "libssl-dev pkg-config"),
        ];
        for (line, what, packages) in cases {
            let found = of_line(line).unwrap_or_else(|| panic!("nothing in {line:?}"));
            assert_eq!((found.what.as_str(), found.packages), (what, Some(packages)), "{line}");
            assert!(found.cure().starts_with(&format!("`apt install {packages}`, and add ")), "{}", found.cure());
        }
    }

    #[test]
    fn what_is_not_known_is_searched_for() {
        let header = of_line("fatal error: strange/thing.h: No such file or directory").expect("found");
        assert_eq!((header.what.as_str(), header.packages), ("the header strange/thing.h", None));
        assert!(header.cure().contains("`apt-file search strange/thing.h`") && header.cure().ends_with("before the build"));
        assert!(of_line("ld: cannot find -lstrange").expect("found").cure().contains("libstrange.so"));
        // Another one whose package is known tells more than the first.
        let lines = ["fatal error: strange.h: No such file", "fatal error: zlib.h: No such file"].map(str::to_owned);
        assert_eq!(missing(&lines).expect("found").packages, Some("zlib1g-dev"));
        for line in [
            "fatal error: longintrepr.h: No such file or directory",
            "fatal error: `$(rm)`.h: No such file",
            "/bin/sh: 1: ours: not found",
            "No such file or directory: 'settings.py'",
            "GET /make: not found",
            "gcc: error: x",
            "",
        ] {
            assert_eq!(of_line(line), None, "{line}");
        }
    }

    #[test]
    fn every_file_of_the_table_stands_there_once() {
        let mut all: Vec<&str> = PACKAGES.iter().flat_map(|(_, files)| files.iter().copied()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for (phrase, file) in PHRASES {
            assert!(packages(file).is_some(), "{phrase}: {file}");
            assert_eq!(of_line(phrase).expect("told").packages, packages(file));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(fatal error: |cannot find -l|Package |spawn |command ')?['\" :/a-z.é\\PC]{0,40}(: No such file|: not found|', required by | ENOENT)?") {
            if let Some(found) = of_line(&line) {
                found.cure();
            }
        }
    }
}
