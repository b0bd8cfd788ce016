//! XII. Run admin/management tasks as one-off processes.
//! A one-off is an instance that runs once, of a release, with that release's code and config.

use crate::config::{Config, Mask};
use crate::ids::{InstanceName, Version};
use crate::release::Release;
use jiff::{SignedDuration, Timestamp};

/// No one-off runs longer (Heroku's detached ones: 24 h).
pub const LIMIT: SignedDuration = SignedDuration::from_hours(24);

/// One admin process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOff {
    /// `run.7`; the release phase is `release.12`.
    pub instance: InstanceName,
    /// Of this release.
    pub release: Version,
    /// What the app's own shell runs, inside the jail.
    pub command: String,
    /// Variables of its own, which win over the release's and are kept nowhere.
    pub env: Config,
    /// It is stopped when it has run so long; [`LIMIT`] at most.
    pub limit: SignedDuration,
}

/// When a one-off has run long enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// Then it is stopped.
    pub at: Timestamp,
    /// How long it had.
    limit: SignedDuration,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl OneOff {
    /// When it is to be stopped, had it started at `started`.
    pub fn deadline(&self, started: Timestamp) -> Deadline {
        let limit = self.limit.clamp(SignedDuration::ZERO, LIMIT);
        Deadline { at: started.checked_add(limit).unwrap_or(Timestamp::MAX), limit }
    }

    /// What its release gives it, with its own variables over that.
    pub fn environment(&self, given: Vec<(String, String)>) -> Vec<(String, String)> {
        let own = |name: &str| self.env.vars.contains_key(name);
        let rest = given.into_iter().filter(|(name, _)| !own(name));
        rest.chain(self.env.vars.iter().map(|(name, var)| (name.clone(), var.value.clone()))).collect()
    }

    /// What must not be shown: its release's secrets and its own.
    pub fn mask(&self, release: &Release) -> Mask {
        Mask::of(release.config.vars.values().chain(self.env.vars.values()))
    }
}

impl Deadline {
    /// What the platform says when the time has come.
    pub fn line(&self) -> String {
        if self.limit == LIMIT {
            "Stopping: one-off processes run for 24 hours at most".to_owned()
        } else {
            format!("Stopping: it was given {:#} at most", self.limit)
        }
    }
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
    use super::*;
    use crate::config::{Origin, Var};

    fn one_off(limit: SignedDuration) -> OneOff {
        let mut env = Config::default();
        env.set("LEVEL", Var { value: "debug".into(), origin: Origin::Set, plain: false }).expect("valid");
        let instance = InstanceName { kind: "run".parse().expect("valid"), number: 7 };
        OneOff { instance, release: Version(1), command: "true".into(), env, limit }
    }

    #[test]
    fn a_day_is_the_longest_that_one_runs() {
        let started = Timestamp::from_second(1_000).expect("in range");
        let deadline = |limit| one_off(limit).deadline(started);
        let day = deadline(SignedDuration::MAX);
        assert_eq!((day.at.as_second(), day.line().as_str()), (1_000 + 86_400, "Stopping: one-off processes run for 24 hours at most"));
        let short = deadline(SignedDuration::from_secs(90));
        assert_eq!((short.at.as_second(), short.line().as_str()), (1_090, "Stopping: it was given 1m 30s at most"));
        assert_eq!(deadline(SignedDuration::MIN).at, started);
        assert_eq!(one_off(LIMIT).deadline(Timestamp::MAX).at, Timestamp::MAX);
    }

    #[test]
    fn its_own_variables_win_once() {
        let given = [("LEVEL", "info"), ("HOME", "/app")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let env = one_off(LIMIT).environment(given);
        assert_eq!(env, [("HOME", "/app"), ("LEVEL", "debug")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn words_survive_the_shell() {
        let line = |w: &[&str]| command_line(&w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&["cd x && make"]), "cd x && make");
        assert_eq!(line(&["echo", "a b", "it's", "", "$HOME"]), r"echo 'a b' 'it'\''s' '' '$HOME'");
    }
}
