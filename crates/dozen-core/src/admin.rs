//! XII. Run admin/management tasks as one-off processes.
//! A one-off is an instance that runs once, of a release, with that release's code and config.

use crate::ids::{InstanceName, Version};

/// One admin process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOff {
    /// `run.7`; the release phase is `release.12`.
    pub instance: InstanceName,
    /// Of this release.
    pub release: Version,
    /// What the app's own shell runs, inside the jail.
    pub command: String,
}

/// The command line of `run -- CMD ARGS`: words as they were given, quoted so that the app's shell reads the same words again.
/// A single word goes as it is, since people write `run 'cd x && make'`.
pub fn command_line(words: &[String]) -> String {
    if let [one] = words {
        return one.clone();
    }
    let plain = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b));
    let quote = |w: &String| if plain(w) { w.clone() } else { format!("'{}'", w.replace('\'', r"'\''")) };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn words_survive_the_shell() {
        let line = |w: &[&str]| command_line(&w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&["cd x && make"]), "cd x && make");
        assert_eq!(line(&["echo", "a b", "it's", "", "$HOME"]), r"echo 'a b' 'it'\''s' '' '$HOME'");
    }
}
