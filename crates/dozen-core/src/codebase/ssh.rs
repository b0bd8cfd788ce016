//! What a client of git asks for over SSH: one service of one repository, and nothing else.
//!
//! **Invariant:** what is no such question is refused; no word of it is ever a program, an option or a path.

use crate::ids::{AppName, DeployName, DeployRef, PRODUCTION};

/// Longer than any question of git's about an app.
const LONGEST: usize = 1024;

/// What somebody who comes by SSH wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To know whether they are known.
    Nothing,
    /// A service of git's.
    Service {
        /// `git-receive-pack`, `git-upload-pack`
        service: &'static str,
        /// Of the repository of this deploy.
        deploy: DeployRef,
    },
}

/// Why it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A shell, a copy of files, a program.
    #[error("only git is answered here: no shell, no files, no other commands")]
    Command,
    /// No app has this name.
    #[error("there is no such repository: an app's is APP.git, that of one of its deploys APP/DEPLOY.git")]
    Repository,
}

/// Reads the command that a client of SSH wants to be run.
pub fn asked(command: &str) -> Result<Asked, Refused> {
    if command.trim().is_empty() {
        return Ok(Asked::Nothing);
    }
    let words = Some(command).filter(|text| text.len() <= LONGEST && !text.contains(['\n', '\0'])).and_then(shlex::split);
    let words = words.ok_or(Refused::Command)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (service, path) = match words.as_slice() {
        ["git-receive-pack", path] | ["git", "receive-pack", path] => ("git-receive-pack", *path),
        ["git-upload-pack", path] | ["git", "upload-pack", path] => ("git-upload-pack", *path),
        _ => return Err(Refused::Command),
    };
    repository(path).map(|deploy| Asked::Service { service, deploy }).ok_or(Refused::Repository)
}

/// The deploy whose repository it is, as in a URL: `/shop.git`, `shop/staging`.
fn repository(path: &str) -> Option<DeployRef> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix(".git").unwrap_or(path);
    let (app, deploy) = path.split_once('/').unwrap_or((path, PRODUCTION));
    Some(DeployRef { app: app.parse::<AppName>().ok()?, deploy: deploy.parse::<DeployName>().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_answered_and_nothing_else_is() {
        let is = |command: &str| match asked(command) {
            Ok(Asked::Nothing) => "nothing".to_owned(),
            Ok(Asked::Service { service, deploy }) => format!("{service} {deploy}"),
            Err(Refused::Command) => "no command".to_owned(),
            Err(Refused::Repository) => "no repository".to_owned(),
        };
        for (command, wanted) in [
            ("", "nothing"),
            (" ", "nothing"),
            ("git-receive-pack 'shop.git'", "git-receive-pack shop/production"),
            ("git-receive-pack '/shop.git'", "git-receive-pack shop/production"),
            ("git-upload-pack '/shop/staging.git'", "git-upload-pack shop/staging"),
            ("git-upload-pack shop", "git-upload-pack shop/production"),
            ("git receive-pack 'shop/staging'", "git-receive-pack shop/staging"),
            ("git-upload-archive 'shop.git'", "no command"),
            ("git-receive-pack", "no command"),
            ("git-receive-pack 'shop.git' 'blog.git'", "no command"),
            ("git-receive-pack 'shop.git'; id", "no command"),
            ("git-receive-pack 'shop.git", "no command"),
            ("git-receive-pack 'shop.git'\nid", "no command"),
            ("git -c core.sshCommand=id receive-pack shop", "no command"),
            ("bash", "no command"),
            ("scp -t /etc/passwd", "no command"),
            ("internal-sftp", "no command"),
            ("git-receive-pack '--upload-pack=id'", "no repository"),
            ("git-receive-pack '../../etc/passwd'", "no repository"),
            ("git-receive-pack '~root/shop.git'", "no repository"),
            ("git-receive-pack '//shop.git'", "no repository"),
            ("git-receive-pack '/shop/../blog.git'", "no repository"),
            ("git-receive-pack 'shop/staging/x.git'", "no repository"),
            ("git-receive-pack '$(id).git'", "no repository"),
            ("git-receive-pack 'shop.git.git'", "no repository"),
            ("git-receive-pack ''", "no repository"),
            ("git-receive-pack '/'", "no repository"),
        ] {
            assert_eq!(is(command), wanted, "{command:?}");
        }
        assert_eq!(is(&format!("git-receive-pack '{}'", "a".repeat(2000))), "no command");
    }
}
