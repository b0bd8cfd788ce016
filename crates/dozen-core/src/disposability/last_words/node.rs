//! What Node, its package managers and its frameworks say before they end.

use super::{Cause, quoted};

/// The cause that a line names.
pub(super) fn cause(line: &str) -> Option<Cause> {
    module(line).or_else(|| port(line)).or_else(|| script(line)).or_else(|| variable(line)).or_else(|| unbuilt(line))
}

fn module(line: &str) -> Option<Cause> {
    let (_, rest) = line.split_once("Cannot find module ").or_else(|| line.split_once("Cannot find package "))?;
    let name = quoted(rest)?;
    if name.starts_with(['.', '/']) {
        let name = name.strip_prefix("/app/").unwrap_or(name);
        return Some(Cause {
            what: format!("the file {name} is not in the slug"),
            cure: "Commit it; or, where a tool makes it, have the script `build` of package.json do that".into(),
        });
    }
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or(name);
    let package = match parts.next() {
        Some(second) if first.starts_with('@') => format!("{first}/{second}"),
        _ => first.to_owned(),
    };
    Some(Cause {
        what: format!("the module {package} is not installed"),
        cure: "Declare it among the `dependencies` of package.json: a slug holds none of the `devDependencies`".into(),
    })
}

fn port(line: &str) -> Option<Cause> {
    let (_, rest) = line.split_once("EADDRINUSE")?;
    let number: String = rest.rsplit(':').next()?.trim().chars().take_while(char::is_ascii_digit).collect();
    let number = if number.is_empty() { String::new() } else { format!(" {number}") };
    Some(Cause {
        what: format!("the port{number} that it listens on is taken"),
        cure: "Let it listen on the one that $PORT names, as in `listen(process.env.PORT)`".into(),
    })
}

fn script(line: &str) -> Option<Cause> {
    let name = line
        .split_once("Missing script: ")
        .or_else(|| line.split_once("ERR_PNPM_NO_SCRIPT").and_then(|(_, rest)| rest.split_once("Missing script: ")))
        .map(|(_, rest)| quoted(rest).unwrap_or(rest.trim()))
        .or_else(|| line.strip_prefix("error Command ")?.strip_suffix(" not found.").and_then(quoted))
        .or_else(|| quoted(line.split_once("Couldn't find a script named ")?.1))?;
    let is_name = !name.is_empty() && name.len() <= 80 && !name.contains(char::is_whitespace);
    is_name.then(|| Cause {
        what: format!("package.json has no script {name}"),
        cure: "Add it, or correct the command in the Procfile".into(),
    })
}

/// Prisma's, and those of joi and envalid.
fn variable(line: &str) -> Option<Cause> {
    let name = line
        .split_once("Environment variable not found: ")
        .map(|(_, rest)| rest.trim_end_matches('.'))
        .or_else(|| line.split_once("\" is required").and_then(|(head, _)| head.rsplit('"').next()))?;
    let is_variable = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    is_variable.then(|| Cause {
        what: format!("the config var {name} is not set"),
        cure: format!("Give it with `dozen config set {name}=…` or in .env"),
    })
}

fn unbuilt(line: &str) -> Option<Cause> {
    line.contains("Could not find a production build in the").then(|| Cause {
        what: "the slug holds no production build of Next".into(),
        cure: "Let the script `build` of package.json run `next build`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_node_says_is_known() {
        let cases = [
            ("Error: Cannot find module 'express'", "the module express is not installed"),
            ("Error: Cannot find module '@nestjs/core/x'", "the module @nestjs/core is not"),
            ("Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'ws' imported from /app/web.js", "the module ws is not"),
            ("Error: Cannot find module '/app/dist/main.js'", "the file dist/main.js is not in the slug"),
            ("Error: listen EADDRINUSE: address already in use :::3000", "the port 3000 that it listens on is taken"),
            ("npm error Missing script: \"start\"", "package.json has no script start"),
            (" ERR_PNPM_NO_SCRIPT  Missing script: dev", "has no script dev"),
            ("error Command \"start\" not found.", "has no script start"),
            ("Usage Error: Couldn't find a script named \"start\".", "has no script start"),
            ("error: Environment variable not found: DATABASE_URL.", "config var DATABASE_URL is not set"),
            ("Error: Config validation error: \"MONGODB_URL\" is required", "config var MONGODB_URL is not set"),
            ("Error: Could not find a production build in the '.next' directory.", "no production build of Next"),
        ];
        for (line, want) in cases {
            let what = cause(line).map(|c| c.what).unwrap_or_default();
            assert!(what.contains(want), "{line}: {what}");
        }
        for line in ["\"name\" is required", "Cannot find module", "EADDRINUSE", "error Command failed."] {
            assert!(cause(line).is_none_or(|c| c.what.starts_with("the port that")), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(Cannot find (module|package) |EADDRINUSE|Missing script: |error Command |Environment variable not found: )?['\": a-zé/@.\\PC]{0,40}(\" is required| not found\\.)?") {
            let _ = cause(&line);
        }
    }
}
