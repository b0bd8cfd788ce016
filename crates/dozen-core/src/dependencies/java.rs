//! The Java pack: what Maven makes of a `pom.xml`.

use super::node::range::Range;
use super::{Language, Plan, PlanError, Run, Runtime, Step, Versions};
use crate::codebase::Source;
use crate::ids::TypeName;

/// The file that a Java app is known by.
pub const KNOWN_BY: &str = "pom.xml";

const PASSED: [&str; 1] = ["MAVEN_OPTS"];

/// A plan for a source that has a pom.xml.
pub(super) fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Option<Result<Plan, PlanError>> {
    let pom = read(KNOWN_BY).filter(|_| source.has(KNOWN_BY))?;
    let properties = read(FILE).filter(|_| source.has(FILE));
    Some(runtime(&pom, properties.as_deref()).map(|runtime| planned(&pom, runtime)))
}

/// Heroku's file for the version.
const FILE: &str = "system.properties";

fn planned(pom: &str, runtime: Runtime) -> Plan {
    let run = Run {
        shown: "mvn -B -DskipTests clean install".into(),
        argv: ["mvn", "-B", "-ntp", "-DskipTests", "-Dmaven.repo.local={keep}/repository", "clean", "install"].map(str::to_owned).to_vec(),
        // Maven finds its home by the user's name otherwise, whom nobody knows in a jail.
        env: [("JAVA_HOME", "{prefix}"), ("JAVA_TOOL_OPTIONS", "-Duser.home={home}"), ("MAVEN_SKIP_RC", "1")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec(),
        passed: &PASSED,
        install: "apt install maven",
        ..Run::default()
    };
    let spring = pom.contains("spring-boot-maven-plugin") || pom.contains("spring-boot-starter");
    let web = spring.then(|| "java -Dserver.port=$PORT $JAVA_OPTS -jar target/*.jar".to_owned());
    let env = [("PATH", "{runtime}:/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];
    Plan {
        pack: "java",
        language: Some("Java"),
        runtime: Some(runtime),
        layer: None,
        steps: vec![Step::Run(run)],
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        processes: web.and_then(|web| Some((TypeName::WEB.parse().ok()?, web))).into_iter().collect(),
        console: None,
        scratch: Vec::new(),
        cure: "Add a Procfile with a line like `web: java -jar target/APP.jar`; it must listen on $PORT".into(),
        notes: Vec::new(),
    }
}

/// `java.runtime.version` names the release, as on Heroku; else what is compiled for is the oldest that will do.
fn runtime(pom: &str, properties: Option<&str>) -> Result<Runtime, PlanError> {
    let named = properties.and_then(|text| {
        let (number, value) = text.lines().enumerate().find_map(|(n, l)| {
            let (name, value) = l.split_once('=')?;
            (name.trim() == "java.runtime.version").then_some((n, value.trim()))
        })?;
        Some((release(value), value.to_owned(), format!("{FILE}:{}", number + 1), ""))
    });
    let compiled = || {
        let tags = ["maven.compiler.release", "java.version", "maven.compiler.target"];
        tags.iter().find_map(|tag| {
            let open = format!("<{tag}>");
            let (number, line) = pom.lines().enumerate().find(|(_, l)| l.contains(&open))?;
            let value = line.split_once(&open)?.1.split('<').next()?.trim().to_owned();
            // A property of another one is Maven's to fill in.
            (!value.contains('$')).then(|| (release(&value), value, format!("{KNOWN_BY}:{}", number + 1), ">="))
        })
    };
    let any = Runtime { versions: Versions::Range(Language::Java, Range::any()), pinned: None };
    let Some((release, text, place, sign)) = named.or_else(compiled) else { return Ok(any) };
    let range = release.and_then(|r| Range::parse(&format!("{sign}{r}"))).ok_or_else(|| PlanError::File {
        file: place.clone(),
        problem: format!("{text:?} is not a release of Java"),
        cure: "Write `17` or `21`".into(),
    })?;
    Ok(Runtime { versions: Versions::Range(Language::Java, range), pinned: Some(place) })
}

/// `17`, `17.0.2`, and `1.8`, which is 8.
fn release(text: &str) -> Option<String> {
    let text = text.rsplit('-').next().unwrap_or(text);
    let text = text.strip_prefix("1.").filter(|rest| !rest.is_empty()).unwrap_or(text);
    let number = text.split('.').next().filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))?;
    Some(number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        let read = |pom: &str, properties: Option<&str>| runtime(pom, properties).map(|r| (r.versions.to_string(), r.pinned));
        let at = |range: &str, place: &str| Ok((range.to_owned(), Some(place.to_owned())));
        assert_eq!(read("<a/>\n<java.version>17</java.version>", None), at(">=17", "pom.xml:2"));
        assert_eq!(read("<maven.compiler.target>1.8</maven.compiler.target>", None), at(">=8", "pom.xml:1"));
        assert_eq!(read("", Some("x=1\njava.runtime.version = 21.0.2\n")), at("21", "system.properties:2"));
        assert_eq!(read("<java.version>${j}</java.version>", None), Ok(("any version".into(), None)));
        assert!(read("", Some("java.runtime.version=new")).is_err());
    }
}
