//! XII. Run admin/management tasks as one-off processes.
//! A one-off is an instance that runs once, of a release, with that release's code and config.

use crate::config::{Config, Mask};
use crate::ids::{InstanceName, Version};
use crate::processes::Stopped;
use crate::release::Release;
use jiff::{SignedDuration, Timestamp};

pub mod people;

/// No one-off runs longer (Heroku's detached ones: 24 h).
pub const LIMIT: SignedDuration = SignedDuration::from_hours(24);

/// One admin process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOff {
    /// `run.7`; the release phase is `release.12`.
    pub instance: InstanceName,
    /// Of this release.
    pub release: Version,
    /// What is run.
    pub command: Command,
    /// Variables of its own, which win over the release's and are kept nowhere.
    pub env: Config,
    /// It is stopped when it has run so long; [`LIMIT`] at most.
    pub limit: SignedDuration,
}

/// What a one-off runs.
///
/// **Invariant:** its script is short enough for the kernel to take it as one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As it was typed: announced, recorded and logged.
    text: String,
    /// What the app's own shell reads, inside the jail.
    script: String,
}

/// Why something cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCommand {
    /// Nothing but blanks.
    #[error("no command was given: `dozen run -- CMD`; the app's shell is `dozen console`, a plain one `dozen run bash`")]
    Empty,
    /// The kernel would refuse it.
    #[error("the command has {0} bytes, and {LONGEST} are the most that the kernel takes; hand longer data over by standard input")]
    TooLong(usize),
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
    /// What its end by this is.
    pub fn stopped(&self) -> Stopped {
        Stopped::Overdue(self.limit)
    }

    /// What the platform says when the time has come.
    pub fn line(&self) -> String {
        if self.limit == LIMIT {
            "Stopping: one-off processes run for 24 hours at most".to_owned()
        } else {
            format!("Stopping: it was given {:#} at most", self.limit)
        }
    }
}

/// The longest script: Linux takes no argument of more than 128 KiB, with the zero at its end (MAX_ARG_STRLEN).
const LONGEST: usize = 128 * 1024 - 1;
/// So much of a command is shown where only one line is wanted.
const BRIEF: usize = 160;

impl Command {
    /// Of `run -- CMD ARGS`. Several words are a program and its arguments, quoted so that the app's shell reads the same words again; the
    /// shell becomes the program, so that a signal to the one-off is the program's to answer. A single word is a script as it is, since
    /// people write `run 'cd x && make'`.
    pub fn of_words(words: &[String]) -> Result<Self, NoCommand> {
        match words {
            [] => Err(NoCommand::Empty),
            [one] => Self::of_script(one.clone()),
            several => {
                let quoted: Vec<String> = several.iter().map(|w| quoted(w)).collect();
                let variables = quoted.iter().take_while(|w| is_assignment(w)).count();
                let (before, program) = quoted.split_at(variables);
                let exec = (!program.is_empty()).then(|| "exec".to_owned());
                let script: Vec<String> = before.iter().cloned().chain(exec).chain(program.iter().cloned()).collect();
                Self { text: quoted.join(" "), script: script.join(" ") }.checked()
            }
        }
    }

    /// Of what the app's shell reads.
    pub fn of_script(script: String) -> Result<Self, NoCommand> {
        Self { text: script.clone(), script }.checked()
    }

    fn checked(self) -> Result<Self, NoCommand> {
        match self.script.len() {
            _ if self.script.trim().is_empty() => Err(NoCommand::Empty),
            n if n > LONGEST => Err(NoCommand::TooLong(n)),
            _ => Ok(self),
        }
    }

    /// As it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the app's own shell reads.
    pub fn script(&self) -> &str {
        &self.script
    }
}

/// As the shell reads it back unchanged.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Whether the shell takes this word before a program for a variable of the program's.
fn is_assignment(quoted: &str) -> bool {
    quoted.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// The first line of a command, where one line is wanted, and not too much of it.
pub fn brief(command: &str) -> String {
    let first: String = command.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(BRIEF).collect();
    // What was left out is said, but for control characters.
    let whole = command.lines().nth(1).is_none() && command.chars().filter(|c| !c.is_control()).count() <= BRIEF;
    if whole { first } else { format!("{first} …") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Var};

    fn command(words: &[&str]) -> Result<Command, NoCommand> {
        Command::of_words(&words.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    fn one_off(limit: SignedDuration) -> OneOff {
        let mut env = Config::default();
        env.set("LEVEL", Var { value: "debug".into(), origin: Origin::Set, plain: false }).expect("valid");
        let instance = InstanceName { kind: "run".parse().expect("valid"), number: 7 };
        OneOff { instance, release: Version(1), command: command(&["true"]).expect("short"), env, limit }
    }

    #[test]
    fn a_day_is_the_longest_that_one_runs() {
        let started = Timestamp::from_second(1_000).expect("in range");
        let deadline = |limit| one_off(limit).deadline(started);
        let day = deadline(SignedDuration::MAX);
        assert_eq!((day.at.as_second(), day.line().as_str()), (1_000 + 86_400, "Stopping: one-off processes run for 24 hours at most"));
        let short = deadline(SignedDuration::from_secs(90));
        assert_eq!((short.at.as_second(), short.line().as_str()), (1_090, "Stopping: it was given 1m 30s at most"));
        let (name, deploy) = (&one_off(LIMIT).instance, &"shop".parse().expect("valid"));
        let lines = [day.stopped(), short.stopped(), Stopped::Asked, Stopped::Deploy].map(|s| s.line(name, deploy));
        let wanted = [
            "run.7 was stopped: it ran for its 24h",
            "run.7 was stopped: it ran for its 1m 30s",
            "run.7 was stopped by `dozen runs stop`",
            "run.7 was stopped: shop/dev was stopped",
        ];
        assert_eq!(lines, wanted);
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
    fn words_survive_the_shell_which_becomes_the_program() {
        let of = |words: &[&str]| command(words).map(|c| (c.text, c.script));
        let both = |text: &str, script: &str| Ok((text.to_owned(), script.to_owned()));
        assert_eq!(of(&["cd x && make"]), both("cd x && make", "cd x && make"));
        let line = r"echo 'a b' 'it'\''s' '' '$HOME'";
        assert_eq!(of(&["echo", "a b", "it's", "", "$HOME"]), both(line, &format!("exec {line}")));
        // A variable before the program is the program's, as at any shell.
        assert_eq!(of(&["A=1", "B_2=", "env", "C=3"]), both("A=1 B_2= env C=3", "A=1 B_2= exec env C=3"));
        assert_eq!(of(&["2=1", "x"]), both("2=1 x", "exec 2=1 x"));
        assert_eq!(of(&["A=1", "B=2"]), both("A=1 B=2", "A=1 B=2"));
    }

    #[test]
    fn what_is_empty_or_longer_than_the_kernel_takes_is_no_command() {
        for empty in [&[][..], &[""], &[" \n"]] {
            assert_eq!(command(empty), Err(NoCommand::Empty));
        }
        let long = "a".repeat(LONGEST);
        assert!(command(&[&long]).is_ok());
        assert_eq!(command(&["x", &long]), Err(NoCommand::TooLong(LONGEST + 7)));
        assert!(NoCommand::TooLong(200_000).to_string().contains("131071"));
    }

    #[test]
    fn a_command_is_shown_on_one_line() {
        let shown = ["true", "a\nb", "a\x1b[1mb", &"é".repeat(BRIEF), &"é".repeat(BRIEF + 1)].map(brief);
        assert_eq!(shown, ["true", "a …", "a[1mb", &"é".repeat(BRIEF), &format!("{} …", "é".repeat(BRIEF))]);
    }
}
