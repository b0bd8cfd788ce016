//! The PHP pack: packages by Composer, and PHP's own server where nothing else is declared.

use super::node::range::Range;
use super::{Language, Plan, PlanError, Run, Runtime, Step, Versions};
use crate::codebase::Source;
use crate::ids::TypeName;
use serde_json::{Map, Value};

/// The file that a PHP app is known by.
pub const KNOWN_BY: &str = "composer.json";

const LOCK: &str = "composer.lock";
const INDEX: &str = "index.php";
/// Settings of Composer's, the tokens of private repositories (`COMPOSER_AUTH`) among them.
const PASSED: [&str; 1] = ["COMPOSER_*"];
/// Where the pages are, the first that has some.
const ROOTS: [&str; 4] = ["public", "web", "htdocs", ""];

/// A plan for a source that has a composer.json.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let text = read(KNOWN_BY).filter(|_| source.has(KNOWN_BY))?;
    Some(match serde_json::from_str(&text) {
        Ok(Value::Object(composer)) => composed(source, read, &composer),
        Ok(_) => Err(unusable(KNOWN_BY, "it is no JSON object", "Correct it; `composer validate` says more")),
        Err(e) => Err(unusable(&format!("{KNOWN_BY}:{}", e.line()), "it is no JSON", "Correct it; `composer validate` says more")),
    })
}

/// A plan for a source that has pages in PHP and nothing to install.
pub(super) fn bare(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let meant = || read("Procfile").filter(|_| source.has("Procfile")).is_none_or(|procfile| procfile.contains("php"));
    (source.has(INDEX) && meant()).then(|| Ok(served(source, Runtime { versions: any(), pinned: None })))
}

fn unusable(place: &str, problem: &str, cure: &str) -> PlanError {
    PlanError::File { file: place.to_owned(), problem: problem.to_owned(), cure: cure.to_owned() }
}

fn any() -> Versions {
    Versions::Range(Language::Php, Range::any())
}

fn composed(source: &Source, read: &dyn Fn(&str) -> Option<String>, composer: &Map<String, Value>) -> Result<Plan, PlanError> {
    let asked = composer.get("require").and_then(Value::as_object);
    // PHP itself, its extensions and Composer are there or not; nothing is installed for them.
    let packages = asked.is_some_and(|asked| asked.keys().any(|name| name.contains('/')));
    let lock = read(LOCK).filter(|_| source.has(LOCK));
    if packages && lock.is_none() {
        let problem = "there is no composer.lock beside it, which says what is installed";
        return Err(unusable(KNOWN_BY, problem, "Make it with `composer update` and commit it"));
    }
    let pinned = asked.and_then(|asked| asked.get("php")).and_then(Value::as_str);
    // What cannot be read here Composer reads, and says so where this PHP does not fit.
    let runtime = match pinned.and_then(range) {
        Some(range) => Runtime { versions: Versions::Range(Language::Php, range), pinned: Some(format!("{KNOWN_BY} (require.php)")) },
        None => Runtime { versions: any(), pinned: None },
    };
    let mut plan = served(source, runtime);
    let scripts = composer.get("scripts").and_then(Value::as_object);
    let has = |script: &str| scripts.is_some_and(|scripts| scripts.contains_key(script));
    if lock.is_some() {
        let options = ["--no-dev", "--prefer-dist", "--no-interaction", "--no-progress", "--optimize-autoloader"];
        plan.steps.push(Step::Run(run("install", "composer install --no-dev", &options, false)));
    } else if composer.contains_key("autoload") {
        plan.steps.push(Step::Run(run("dump-autoload", "composer dump-autoload", &["--no-dev", "--no-interaction", "--optimize"], false)));
    }
    // As on Heroku.
    if has("compile") {
        plan.steps.push(Step::Run(run("run-script", "composer compile", &["--no-dev", "--no-interaction", "compile"], true)));
    }
    let locks = |name: &str| lock.as_ref().is_some_and(|lock| lock.contains(&format!("\"name\": \"{name}\"")));
    if source.has("artisan") && locks("laravel/tinker") {
        plan.console = Some("php artisan tinker".into());
    }
    // Symfony's.
    if source.has("bin/console") && locks("symfony/framework-bundle") {
        plan.scratch = vec!["var".into()];
    }
    Ok(plan)
}

fn run(verb: &str, shown: &str, options: &[&str], settings: bool) -> Run {
    let env = [
        ("COMPOSER_HOME", "{home}/.composer"),
        ("COMPOSER_CACHE_DIR", "{keep}/cache"),
        // In a jail, with a uid of its own where the host allows one.
        ("COMPOSER_ALLOW_SUPERUSER", "1"),
        // A package of the app's own folders is copied, as every other one.
        ("COMPOSER_MIRROR_PATH_REPOS", "1"),
    ];
    Run {
        shown: shown.to_owned(),
        argv: ["composer", verb].iter().chain(options).map(|word| (*word).to_owned()).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        passed: &PASSED,
        install: "apt install composer",
        settings,
        ..Run::default()
    }
}

/// Without steps.
fn served(source: &Source, runtime: Runtime) -> Plan {
    let path = |root: &str| if root.is_empty() { INDEX.to_owned() } else { format!("{root}/{INDEX}") };
    let root = ROOTS.iter().find(|root| source.has(&path(root)));
    let web = root.map(|root| {
        let folder = if root.is_empty() { "." } else { root };
        format!("php -S 0.0.0.0:$PORT -t {folder}")
    });
    let mut notes = Vec::new();
    if web.is_some() && !source.has("Procfile") {
        notes.push("PHP's built-in server serves it, one request at a time; declare another one in a Procfile for more".to_owned());
    }
    let env = [("PATH", "{app}/vendor/bin:{runtime}:/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];
    Plan {
        pack: "php",
        language: Some("PHP"),
        runtime: Some(runtime),
        layer: None,
        steps: Vec::new(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        processes: web.and_then(|web| Some((TypeName::WEB.parse().ok()?, web))).into_iter().collect(),
        console: Some("php -a".into()),
        scratch: Vec::new(),
        cure: "Add a Procfile with a line like `web: php -S 0.0.0.0:$PORT -t FOLDER`, or one for another server that listens on $PORT"
            .into(),
        notes,
    }
}

/// Composer's constraint in npm's words: `~8.1` is `^8.1`, a `|` is a `||`, and a comma an `and`.
fn range(asked: &str) -> Option<Range> {
    let one = |word: &str| match word.strip_prefix('~') {
        Some(version) if version.matches('.').count() < 2 => format!("^{version}"),
        _ => word.to_owned(),
    };
    let all = |part: &str| part.split([',', ' ']).filter(|w| !w.is_empty()).map(one).collect::<Vec<_>>().join(" ");
    let either: Vec<String> = asked.split('|').filter(|part| !part.is_empty()).map(all).collect();
    Range::parse(&either.join(" || "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_composers() {
        for (asked, yes, no) in [
            ("^8.1", [8, 4, 0], [9, 0, 0]),
            ("~8.1", [8, 4, 0], [9, 0, 0]),
            ("~8.1.2", [8, 1, 9], [8, 2, 0]),
            (">=8.0,<8.3", [8, 2, 9], [8, 3, 0]),
            (">=7.4 <8.3", [8, 2, 9], [8, 3, 0]),
            ("^7.4|^8.0", [8, 2, 0], [7, 3, 0]),
            ("~8.1.0 || ~8.2.0", [8, 2, 3], [8, 3, 0]),
            ("8.2.*", [8, 2, 7], [8, 3, 0]),
        ] {
            let range = range(asked).expect(asked);
            assert!(range.admits(yes) && !range.admits(no), "{asked}");
        }
        assert_eq!(range("dev-master"), None);
    }
}
