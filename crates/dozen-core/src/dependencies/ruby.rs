//! The Ruby pack: gems by Bundler, into `vendor/bundle`; Rails' assets.

use super::node::range::Range;
use super::{Language, Plan, PlanError, Run, Runtime, Step, Versions};
use crate::codebase::Source;
use crate::ids::TypeName;

/// The file that a Ruby app is known by, with its lock beside it.
pub const KNOWN_BY: &str = "Gemfile";
/// Where gems are, in the app's folder.
pub const GEMS: &str = "vendor/bundle";

const LOCK: &str = "Gemfile.lock";
/// Settings of Bundler's, tokens of private sources among them.
const PASSED: [&str; 1] = ["BUNDLE_*"];
const BUNDLER: &str = "apt install ruby-bundler";

/// A plan for a source that has a Gemfile with a lock, or one that a server of Ruby's needs.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let gemfile = read(KNOWN_BY).filter(|_| source.has(KNOWN_BY))?;
    let Some(lock) = read(LOCK).filter(|_| source.has(LOCK)) else {
        let served = ["config.ru", "config/application.rb"].iter().any(|f| source.has(f));
        let problem = "there is no Gemfile.lock beside it, which says what is installed";
        return served.then(|| Err(unusable(KNOWN_BY, problem.to_owned(), "Make it with `bundle lock` and commit it")));
    };
    Some(Pack { source, read, gemfile, lock }.plan())
}

struct Pack<'a> {
    source: &'a Source,
    read: &'a dyn Fn(&str) -> Option<String>,
    gemfile: String,
    lock: String,
}

fn unusable(place: &str, problem: String, cure: &str) -> PlanError {
    PlanError::File { file: place.to_owned(), problem, cure: cure.to_owned() }
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

impl Pack<'_> {
    fn plan(&self) -> Result<Plan, PlanError> {
        let rails = self.source.has("bin/rails") && self.locks("railties");
        let bundler = |shown: &str, argv: &[&str]| Run {
            shown: shown.to_owned(),
            argv: words(argv),
            env: pairs(&[
                ("BUNDLE_APP_CONFIG", "{keep}/settings"),
                ("BUNDLE_GEMFILE", "{app}/Gemfile"),
                ("BUNDLE_DEPLOYMENT", "1"),
                ("BUNDLE_WITHOUT", "development:test"),
                // Compiled ones are good for this version only.
                ("BUNDLE_PATH", "{keep}/{version}/vendor/bundle"),
                ("BUNDLE_SILENCE_ROOT_WARNING", "1"),
                ("BUNDLE_DISABLE_VERSION_CHECK", "1"),
            ]),
            passed: &PASSED,
            install: BUNDLER,
            ..Run::default()
        };
        let mut steps = vec![
            bundler("bundle install", &["bundle", "install"]),
            bundler("bundle clean", &["bundle", "clean", "--force"]),
            Run { shown: "cp -a GEMS vendor".into(), argv: words(&["cp", "-a", "{keep}/{version}/vendor", "{app}/"]), ..Run::default() },
        ];
        let env = pairs(&[
            ("PATH", "{app}/bin:{runtime}:/usr/local/bin:/usr/bin:/bin"),
            ("BUNDLE_GEMFILE", "{app}/Gemfile"),
            ("BUNDLE_PATH", "{app}/vendor/bundle"),
            ("BUNDLE_APP_CONFIG", "/tmp/.bundle"),
            ("BUNDLE_DEPLOYMENT", "1"),
            ("BUNDLE_WITHOUT", "development:test"),
            ("RACK_ENV", "production"),
            ("RAILS_ENV", "production"),
            ("RAILS_LOG_TO_STDOUT", "enabled"),
            ("RAILS_SERVE_STATIC_FILES", "enabled"),
            ("LANG", "C.UTF-8"),
        ]);
        let made = self.source.files.iter().any(|f| f.path.starts_with("public/assets/") && f.path.contains("manifest"));
        if rails && !made && ["sprockets-rails", "propshaft"].iter().any(|gem| self.locks(gem)) {
            let mut own: Vec<(String, String)> = env.iter().filter(|(name, _)| name != "PATH").cloned().collect();
            // Rails is loaded for this, and loads no database nor reads a secret; without a value it would not even begin.
            own.extend(pairs(&[
                ("SECRET_KEY_BASE", "placeholder"),
                ("SECRET_KEY_BASE_DUMMY", "1"),
                ("DATABASE_URL", "postgresql://placeholder@127.0.0.1/placeholder"),
            ]));
            steps.push(Run {
                shown: "bin/rails assets:precompile".into(),
                argv: words(&["{program}", "bin/rails", "assets:precompile"]),
                env: own,
                settings: true,
                ..Run::default()
            });
        }
        let web = if rails {
            Some("bin/rails server -b 0.0.0.0 -p $PORT")
        } else if !self.source.has("config.ru") {
            None
        } else if self.locks("puma") {
            Some("bundle exec puma -b tcp://0.0.0.0:$PORT")
        } else if self.locks("rackup") || self.locks("rack") {
            Some("bundle exec rackup config.ru -o 0.0.0.0 -p $PORT")
        } else {
            None
        };
        Ok(Plan {
            pack: "ruby",
            language: Some("Ruby"),
            runtime: Some(self.runtime()?),
            layer: None,
            steps: steps.into_iter().map(Step::Run).collect(),
            env,
            processes: web.and_then(|web| Some((TypeName::WEB.parse().ok()?, web.to_owned()))).into_iter().collect(),
            console: Some(if rails { "bin/rails console".into() } else { "irb".into() }),
            scratch: if rails { words(&["log", "tmp"]) } else { Vec::new() },
            cure: "Add a Procfile with a line like `web: bundle exec COMMAND`, which listens on $PORT; its gem must be in Gemfile.lock"
                .into(),
            notes: Vec::new(),
        })
    }

    /// Whether the lock names a gem, with its version.
    fn locks(&self, gem: &str) -> bool {
        self.lock.lines().any(|l| l.strip_prefix("    ").and_then(|l| l.strip_prefix(gem)).is_some_and(|rest| rest.starts_with(" (")))
    }

    /// What the Gemfile asks for, and Bundler insists on; else what version managers read.
    fn runtime(&self) -> Result<Runtime, PlanError> {
        let in_gemfile = self.gemfile.lines().enumerate().find_map(|(number, line)| {
            let rest = line.trim_start().strip_prefix("ruby")?;
            let rest = rest.strip_prefix([' ', '(', '\t'])?.split('#').next()?;
            let quoted: Vec<&str> = rest.split(['"', '\'']).skip(1).step_by(2).collect();
            // `ruby file: ".ruby-version"` is read below.
            let numbers: Vec<&str> = quoted.into_iter().filter(|q| q.contains(|c: char| c.is_ascii_digit())).collect();
            (!numbers.is_empty()).then(|| (numbers.join(", "), format!("{KNOWN_BY}:{}", number + 1)))
        });
        let in_file = || {
            let text = (self.read)(".ruby-version").filter(|_| self.source.has(".ruby-version"))?;
            let (number, line) = text.lines().enumerate().find(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))?;
            let version = line.trim().strip_prefix("ruby-").unwrap_or(line.trim());
            Some((version.to_owned(), format!(".ruby-version:{}", number + 1)))
        };
        let Some((asked, place)) = in_gemfile.or_else(in_file) else {
            return Ok(Runtime { versions: Versions::Range(Language::Ruby, Range::any()), pinned: None });
        };
        let range = range(&asked).ok_or_else(|| {
            unusable(
                &place,
                format!("{asked:?} is not a version of Ruby"),
                "Write `3.3` or `3.3.1`; other engines than CRuby are not known",
            )
        })?;
        Ok(Runtime { versions: Versions::Range(Language::Ruby, range), pinned: Some(place) })
    }
}

/// RubyGems' requirements in npm's words: `~> 3.1` is `^3.1`, `~> 3.1.0` is `~3.1.0`.
fn range(asked: &str) -> Option<Range> {
    let one = |part: &str| {
        let part = part.trim();
        let Some(version) = part.strip_prefix("~>").map(str::trim) else { return part.to_owned() };
        let sign = if version.matches('.').count() > 1 { "~" } else { "^" };
        format!("{sign}{version}")
    };
    Range::parse(&asked.split(',').map(one).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_rubygems() {
        for (asked, yes, no) in [
            ("3.1.2", [3, 1, 2], [3, 1, 3]),
            ("~> 3.1", [3, 4, 0], [4, 0, 0]),
            ("~> 3.1.2", [3, 1, 9], [3, 2, 0]),
            (">= 3.0, < 3.3", [3, 2, 9], [3, 3, 0]),
            ("3.3", [3, 3, 6], [3, 4, 0]),
        ] {
            let range = range(asked).expect(asked);
            assert!(range.admits(yes) && !range.admits(no), "{asked}");
        }
        assert_eq!(range("jruby-9.4"), None);
    }
}
