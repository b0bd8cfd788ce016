//! What to do about what a language's tools said.

use crate::dependencies::interpreters::Interpreter;
use dozen_core::dependencies::{Language, system};

/// Words in what a tool says, and what to do then.
type Cures = &'static [(&'static [&'static str], &'static str)];

const ALL: Cures = &[(&["No space left on device", "Disk quota exceeded"], "Free some space and run the command again")];

const GO: Cures = &[
    (
        &["missing go.sum entry", "updates to go.mod needed", "no required module provides", "to add missing requirements"],
        "go.mod and go.sum lack what the code imports: run `go mod tidy` and commit both",
    ),
    (&["inconsistent vendoring", "is explicitly required in go.mod, but not marked"], "Run `go mod vendor` and commit vendor/"),
    (&["checksum mismatch", "SECURITY ERROR"], "A module is not the one that go.sum was made with. Make go.sum anew if you trust it"),
    (
        &["running go ", "requires go >= ", "note: module requires Go"],
        "A module asks for a later Go: install it, or ask for an older release of that module in go.mod",
    ),
    (
        &["dial tcp", "no such host", "i/o timeout", "connection refused", "TLS handshake", "certificate signed by unknown"],
        "A module could not be fetched. Is there a network, or a proxy to name (GOPROXY, HTTPS_PROXY)? `go mod vendor` needs none",
    ),
    (
        &["403 Forbidden", "404 Not Found", "410 Gone", "could not read Username"],
        "A module could not be fetched: is its name right? Private ones need GOPRIVATE and a .netrc",
    ),
];

const RUST: Cures = &[
    (
        &["needs to be updated but --locked", "cannot update the lock file", "because --locked was passed"],
        "Cargo.lock does not fit Cargo.toml: run `cargo check` and commit Cargo.lock",
    ),
    (
        &["lock file version", "is not supported by the following package", "requires rustc ", "cannot be built because it requires"],
        "A later Rust is asked for: install it (`rustup toolchain install stable`), or take an older release of what asks",
    ),
    (
        &["spurious network error", "Could not resolve host", "failed to download", "Couldn't connect", "Timeout was reached"],
        "A crate could not be fetched. Is there a network, or a proxy to name (HTTPS_PROXY)? A mirror is named in .cargo/config.toml of the app",
    ),
    (
        &["checksum for ", "failed to verify the checksum"],
        "A crate is not the one that Cargo.lock was made with. Make it anew if you trust it",
    ),
];

const RUBY: Cures = &[
    (
        &[
            "deployment mode is set",
            "in deployment mode",
            "frozen mode is set",
            "the lockfile can't be updated",
            "Gemfile.lock does not satisfy",
        ],
        "Gemfile.lock does not fit the Gemfile: run `bundle install` and commit Gemfile.lock",
    ),
    (&["but your bundle only supports platforms"], "Run `bundle lock --add-platform x86_64-linux ruby` and commit Gemfile.lock"),
    (&["Your Ruby version is"], "Install the Ruby that the Gemfile asks for, or correct its `ruby` line"),
    (
        &["Could not reach host", "Network error while fetching", "Could not fetch specs", "connection refused", "Retrying fetcher"],
        "Gems could not be fetched. Is there a network, or a proxy to name (HTTPS_PROXY)? `bundle cache` puts them into vendor/cache, which needs none",
    ),
    (
        &["Authentication is required", "Bad username or password"],
        "A source wants a name and a word: `dozen config set BUNDLE_GEMS__EXAMPLE__COM=name:word`",
    ),
    (&["mkmf.rb can't find header files"], "Gems are compiled here and need Ruby's headers: `apt install ruby-dev build-essential`"),
];

const JAVA: Cures = &[
    (
        &["Unknown host", "Connection refused", "Connect timed out", "Temporary failure in name resolution", "Network is unreachable"],
        "Packages could not be fetched. Is there a network? A mirror or a proxy stands in `.mvn/settings.xml`, with `-s .mvn/settings.xml` in `.mvn/maven.config`",
    ),
    (
        &["Could not find artifact", "Could not resolve dependencies"],
        "pom.xml asks for a package that its repositories do not have; correct it",
    ),
    (
        &["invalid target release", "release version", "invalid source release"],
        "pom.xml asks for a later Java: name it in system.properties (`java.runtime.version=21`) and install it",
    ),
];

const PHP: Cures = &[
    (
        &["lock file is not up to date", "is not present in the lock file", "Your lock file does not contain a compatible set"],
        "composer.lock does not fit composer.json, or this PHP: run `composer update` and commit composer.lock",
    ),
    (
        &["it is missing from your system. Install or enable PHP's"],
        "Install the extension that is named: `apt install php-NAME`, for `ext-mbstring` php-mbstring, and add it to Aptfile",
    ),
    (&["your php version"], "Install the PHP that is asked for, or take an older release of what asks"),
    (
        &[
            "Could not resolve host",
            "curl error",
            "Failed to connect",
            "Connection refused",
            "could not be fully loaded",
            "failed to open stream",
        ],
        "A package could not be fetched. Is there a network, or a proxy to name (HTTPS_PROXY)? `repositories` of type `path` need none",
    ),
    (
        &["HTTP 401", "HTTP/2 401", "HTTP 403", "Invalid credentials"],
        "A repository wants a name and a word: `dozen config set COMPOSER_AUTH='{\"http-basic\": …}'`",
    ),
];

/// What to do, as sentences without the last full stop.
pub(super) fn cure(language: Language, said: &[String], chosen: &Interpreter) -> String {
    let own: Cures = match language {
        Language::Go => GO,
        Language::Rust => RUST,
        Language::Ruby => RUBY,
        Language::Java => JAVA,
        Language::Php => PHP,
        Language::Python | Language::Node => &[],
    };
    let said_one = |words: &[&str]| said.iter().any(|l| words.iter().any(|w| l.contains(w)));
    if let Some((_, cure)) = ALL.iter().chain(own).find(|(words, _)| said_one(words)) {
        (*cure).to_owned()
    } else if let Some(missing) = system::missing(said) {
        format!("What is compiled here needs {}: {}", missing.what, missing.cure())
    } else {
        format!("Correct what {} {} says, and run the command again", language.name(), chosen.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_fits_what_was_said() {
        let go = Interpreter { version: [1, 22, 1], prefix: "/p".into(), executable: "/p/bin/go".into() };
        for (line, part) in [
            ("main.go:4:2: missing go.sum entry for module providing package x", "`go mod tidy`"),
            ("go: inconsistent vendoring in /app:", "`go mod vendor`"),
            ("go: go.mod requires go >= 1.99 (running go 1.22.1; GOTOOLCHAIN=local)", "later Go"),
            ("dial tcp: lookup proxy.golang.org: no such host", "GOPROXY"),
            ("cgo: C compiler \"gcc\" not found: exec: \"gcc\": executable file not found in $PATH", "`apt install build-essential`"),
            ("./main.go:3:1: undefined: x", "Correct what Go 1.22.1 says"),
        ] {
            let cure = cure(Language::Go, &[line.to_owned()], &go);
            assert!(cure.contains(part), "{line}: {cure}");
        }
        let rust = Interpreter { version: [1, 85, 0], prefix: "/p".into(), executable: "/p/bin/cargo".into() };
        for (line, part) in [
            ("error: cannot update the lock file /app/Cargo.lock because --locked was passed to prevent this", "commit Cargo.lock"),
            ("error: linker `cc` not found", "`apt install build-essential`"),
            ("error[E0425]: cannot find value `x` in this scope", "Correct what Rust 1.85.0 says"),
        ] {
            let cure = cure(Language::Rust, &[line.to_owned()], &rust);
            assert!(cure.contains(part), "{line}: {cure}");
        }
    }
}
