//! Classic buildpacks: which ones an app names, where they are, and what one says of what it made.
//!
//! They are named, in this order of precedence, by the config var `BUILDPACK_URL`, by the file `.buildpacks`, by app.json. What names none has
//! one of dozen's own packs.

use super::PlanError;
use crate::ids::TypeName;
use saphyr::{LoadableYamlNode, Yaml};
use url::Url;

/// The config var that names one.
pub const VARIABLE: &str = "BUILDPACK_URL";
/// The file that lists some.
pub const FILE: &str = ".buildpacks";
/// How the names of Heroku's own begin.
const OFFICIAL: &str = "heroku/";
/// Longer lists, and longer answers of a pack, are nobody's.
const MOST: usize = 20;
const LONGEST: usize = 64 * 1024;

/// One that an app names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buildpack {
    /// As it is shown: without a name and word in it.
    pub shown: String,
    /// Where it is.
    pub place: Place,
}

/// Where one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of the app itself.
    Own(String),
    /// A folder of this machine.
    Folder(String),
    /// A repository of git's.
    Git {
        /// Its address.
        url: String,
        /// A branch, a tag or a whole commit; without one, what it begins with.
        reference: Option<String>,
    },
    /// A tar file.
    Archive {
        /// Its address.
        url: String,
    },
}

impl Buildpack {
    /// Whether it is the same whenever it is asked for: a whole commit, or a part of the source.
    pub fn is_fixed(&self) -> bool {
        match &self.place {
            Place::Own(_) => true,
            Place::Git { reference: Some(reference), .. } => is_commit(reference),
            Place::Git { reference: None, .. } | Place::Archive { .. } | Place::Folder(_) => false,
        }
    }

    /// What of this machine's own it is, by its path: a folder, or the file or repository of a `file://`.
    pub fn local(&self) -> Option<String> {
        let of_url = |url: &str| Url::parse(url).ok().filter(|url| url.scheme() == "file").map(|url| url.path().to_owned());
        match &self.place {
            Place::Own(_) => None,
            Place::Folder(path) => Some(path.clone()),
            Place::Git { url, .. } | Place::Archive { url } => of_url(url),
        }
    }
}

/// Whether a reference names a commit as a whole.
pub fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether all that app.json names are Heroku's own, in the place of which dozen's do.
pub fn are_official(names: &[String]) -> bool {
    names.iter().all(|name| name.starts_with(OFFICIAL))
}

/// Those that an app names, in their order; none where one of dozen's own packs is to look.
pub fn named(variable: Option<&str>, file: Option<&str>, app_json: &[String]) -> Result<Vec<Buildpack>, PlanError> {
    if let Some(url) = variable.map(str::trim).filter(|url| !url.is_empty()) {
        return Ok(vec![read(url, VARIABLE)?]);
    }
    if let Some(text) = file {
        let lines = text.lines().enumerate().map(|(number, line)| (number, line.trim()));
        let urls = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let all: Vec<Buildpack> = urls.map(|(number, url)| read(url, &format!("{FILE}:{}", number + 1))).collect::<Result<_, _>>()?;
        return few(all, FILE);
    }
    if are_official(app_json) {
        return Ok(Vec::new());
    }
    let all = app_json.iter().map(|url| read(url, "app.json (buildpacks)")).collect::<Result<_, _>>()?;
    few(all, "app.json (buildpacks)")
}

fn few(all: Vec<Buildpack>, place: &str) -> Result<Vec<Buildpack>, PlanError> {
    match all.len() {
        1..=MOST => Ok(all),
        0 => Err(unusable(place, "it names no buildpack".into(), "Write the URL of one on a line, or remove it")),
        n => Err(unusable(place, format!("it names {n} buildpacks"), "Name twenty at most")),
    }
}

fn unusable(place: &str, problem: String, cure: &str) -> PlanError {
    PlanError::File { file: place.to_owned(), problem, cure: cure.to_owned() }
}

fn read(text: &str, place: &str) -> Result<Buildpack, PlanError> {
    let (address, reference) = text.split_once('#').map_or((text, None), |(address, reference)| (address, Some(reference)));
    let wrong = |problem: &str, cure: &str| Err(unusable(place, format!("`{}` {problem}", shown(text)), cure));
    if address.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        return wrong("is no address", "Write a URL, or a folder of the app");
    }
    if let Some(name) = address.strip_prefix(OFFICIAL) {
        let cure = format!("Write its address: https://github.com/heroku/heroku-buildpack-{name}");
        return wrong("is a name that Heroku alone knows", &cure);
    }
    let plain = |r: &str| {
        !r.is_empty() && r.len() <= 200 && !r.starts_with('-') && r.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+".contains(&b))
    };
    if reference.is_some_and(|r| !plain(r) || r.contains("..")) {
        return wrong("has no branch, tag or commit behind its `#`", "Write `#main`, `#v1.2` or a whole commit");
    }
    let place_of = || {
        if address.starts_with('/') {
            return Some(if is_archive(address) {
                Place::Archive { url: format!("file://{address}") }
            } else {
                Place::Folder(address.into())
            });
        }
        if !address.contains([':', '@']) {
            let parts: Vec<&str> = address.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
            return (!parts.is_empty() && !parts.contains(&"..") && !is_archive(address)).then(|| Place::Own(parts.join("/")));
        }
        let url = Url::parse(address).ok()?;
        match url.scheme() {
            "https" | "http" | "file" if is_archive(url.path()) => Some(Place::Archive { url: address.into() }),
            "https" | "http" | "file" => Some(Place::Git { url: address.into(), reference: reference.map(str::to_owned) }),
            _ => None,
        }
    };
    match place_of() {
        Some(place @ Place::Git { .. }) => Ok(Buildpack { shown: shown(text), place }),
        Some(_) if reference.is_some() => wrong("is no repository, so that nothing can stand behind a `#`", "Leave that out"),
        Some(place) => Ok(Buildpack { shown: shown(text), place }),
        None => wrong(
            "is no buildpack that can be fetched",
            "Write the URL of a repository of git's (https://…, perhaps with #branch), of a tar file (….tgz), or a folder of the app; \
             for one that wants a name and a word there is .netrc",
        ),
    }
}

fn is_archive(path: &str) -> bool {
    [".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2"].iter().any(|end| path.ends_with(end))
}

/// Without a name and word.
fn shown(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (user, rest))) if !user.contains('/') => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    }
}

/// What a pack's `bin/release` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Variables for every process, where the config has none of the name.
    pub env: Vec<(String, String)>,
    /// Types for an app without a Procfile.
    pub processes: Vec<(TypeName, String)>,
    /// Services that it thinks an app needs.
    pub addons: Vec<String>,
}

/// Reads it. The error says what is wrong, as a fragment.
pub fn released(text: &str) -> Result<Released, String> {
    if text.len() > LONGEST {
        return Err("it says more than 64 KiB".into());
    }
    let all = Yaml::load_from_str(text).map_err(|e| format!("it says no YAML: {e}"))?;
    let mut released = Released::default();
    let Some(whole) = all.into_iter().next() else { return Ok(released) };
    let Some(members) = whole.as_mapping() else {
        return if whole.is_null() { Ok(released) } else { Err("what it says is no mapping".into()) };
    };
    for (key, value) in members {
        // Beginnings of what Heroku wrote once: `:addons:`.
        let key = key.as_str().unwrap_or_default().trim_matches(':');
        match key {
            "addons" => released.addons = value.as_vec().into_iter().flatten().filter_map(|v| v.as_str()).map(str::to_owned).collect(),
            "config_vars" => released.env = pairs(value, key)?,
            "default_process_types" => {
                let typed = |(name, command): (String, String)| {
                    let parsed = name.parse::<TypeName>().map_err(|_| format!("{name:?} is no name of a process type"))?;
                    Ok::<_, String>((parsed, command))
                };
                released.processes = pairs(value, key)?.into_iter().map(typed).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
    }
    Ok(released)
}

fn pairs(value: &Yaml<'_>, key: &str) -> Result<Vec<(String, String)>, String> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let members = value.as_mapping().ok_or_else(|| format!("its {key} are no mapping"))?;
    let scalar = |value: &Yaml<'_>| {
        let number = || value.as_integer().map(|n| n.to_string()).or_else(|| value.as_bool().map(|b| b.to_string()));
        value.as_str().map(str::to_owned).or_else(number)
    };
    let pair = |(name, value): (&Yaml<'_>, &Yaml<'_>)| {
        scalar(name).zip(scalar(value)).filter(|(_, value)| !value.contains('\0')).ok_or_else(|| format!("its {key} are no pairs of texts"))
    };
    members.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Place, String> {
        read(text, "here").map(|pack| pack.place).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_are_told_apart() {
        let git = |url: &str, reference: Option<&str>| Ok(Place::Git { url: url.into(), reference: reference.map(str::to_owned) });
        assert_eq!(one("https://github.com/heroku/heroku-buildpack-go"), git("https://github.com/heroku/heroku-buildpack-go", None));
        assert_eq!(one("https://h.test/p.git#v1.2"), git("https://h.test/p.git", Some("v1.2")));
        assert_eq!(one("file:///srv/p.git#main"), git("file:///srv/p.git", Some("main")));
        assert_eq!(one("https://h.test/p.tgz"), Ok(Place::Archive { url: "https://h.test/p.tgz".into() }));
        assert_eq!(one("/srv/p.tar.gz"), Ok(Place::Archive { url: "file:///srv/p.tar.gz".into() }));
        assert_eq!((one("./packs/x/"), one("/srv/pack")), (Ok(Place::Own("packs/x".into())), Ok(Place::Folder("/srv/pack".into()))));
        for (wrong, why) in [
            ("../pack", "no buildpack that can be fetched"),
            (".", "no buildpack that can be fetched"),
            ("git@github.com:a/b.git", ".netrc"),
            ("ext::sh -c id", "no buildpack"),
            ("ssh://h.test/p", "no buildpack"),
            ("https://h.test/p#--upload-pack=x", "behind its `#`"),
            ("https://h.test/p#a..b", "behind its `#`"),
            ("https://h.test/p.tgz#v1", "no repository"),
            ("https://h.test/\"x", "no address"),
            ("heroku/ruby", "https://github.com/heroku/heroku-buildpack-ruby"),
        ] {
            assert!(one(wrong).is_err_and(|e| e.contains(why)), "{wrong}: {:?}", one(wrong));
        }
        let secret = read("https://me:word@h.test/p", "here").expect("an address");
        assert!(secret.shown == "https://h.test/p" && matches!(secret.place, Place::Git { url, .. } if url.contains("me:word")));
    }

    #[test]
    fn the_variable_wins_over_the_file_and_that_over_app_json() {
        let json = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let names = |v, f, j: &[&str]| {
            named(v, f, &json(j)).map(|all| all.into_iter().map(|p| p.shown).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(names(Some("./a"), Some("./b"), &["./c"]), Ok(vec!["./a".to_owned()]));
        assert_eq!(names(Some(" "), Some("# two\n./b\n\n./c\r\n"), &["./d"]), Ok(vec!["./b".to_owned(), "./c".to_owned()]));
        assert_eq!(names(None, None, &["heroku/python", "heroku/nodejs"]), Ok(vec![]));
        assert!(names(None, None, &["heroku/python", "./x"]).is_err_and(|e| e.contains("heroku-buildpack-python")));
        assert!(names(None, Some("\n"), &[]).is_err_and(|e| e.contains("names no buildpack")));
        assert!(names(None, Some("./a\nssh://b\n"), &[]).is_err_and(|e| e.contains(".buildpacks:2")));
    }

    #[test]
    fn fixed_is_what_cannot_change() {
        let fixed = |text: &str| read(text, "here").expect(text).is_fixed();
        assert!(fixed("./own") && fixed(&format!("https://h.test/p#{}", "a1".repeat(20))));
        assert!(!fixed("https://h.test/p") && !fixed("https://h.test/p#main") && !fixed("https://h.test/p.tgz") && !fixed("/srv/p"));
    }

    #[test]
    fn what_a_pack_releases_is_read() {
        let text = "---\naddons:\n  - heroku-postgresql\nconfig_vars:\n  LANG: en_US.UTF-8\n  WORKERS: 2\ndefault_process_types:\n  web: bin/web -p $PORT\n";
        let all = released(text).expect("YAML");
        assert_eq!(all.env, [("LANG".to_owned(), "en_US.UTF-8".to_owned()), ("WORKERS".to_owned(), "2".to_owned())]);
        assert_eq!((all.processes[0].0.as_str(), all.processes[0].1.as_str(), all.addons.len()), ("web", "bin/web -p $PORT", 1));
        for empty in ["", "---\n", "--- {}\n", "---\nconfig_vars:\naddons: []\n"] {
            assert_eq!(released(empty), Ok(Released::default()), "{empty:?}");
        }
        for (wrong, why) in [
            ("- a\n", "no mapping"),
            ("a: [", "no YAML"),
            ("config_vars: [a]\n", "config_vars"),
            ("default_process_types: {'a b': x}\n", "a b"),
        ] {
            assert!(released(wrong).is_err_and(|e| e.contains(why)), "{wrong:?}: {:?}", released(wrong));
        }
    }
}
