//! What a push changes, and what comes of it: the commit that is deployed, what is only kept, what is refused.
//!
//! **Invariant:** at most one commit is deployed by one push, and what is not deployed is said.

/// The branches that a push deploys.
pub const BRANCHES: [&str; 2] = ["main", "master"];
/// So many refs are told one by one of those that are only kept.
const TOLD: usize = 5;

/// One ref that a push changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The whole name: `refs/heads/main`.
    pub reference: String,
    /// What it is at; `None` where it is new.
    pub old: Option<String>,
    /// What it shall be at; `None` where it goes.
    pub new: Option<String>,
}

/// What a push is to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// `main` or `master`.
    pub branch: String,
    /// The commit before; `None` where the branch is new.
    pub old: Option<String>,
    /// The commit.
    pub commit: String,
}

/// What comes of a push.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What is deployed, where anything is.
    pub deploy: Option<Pushed>,
    /// What becomes of the rest, as sentences without a full stop.
    pub remarks: Vec<String>,
}

/// Why all of a push is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Without it nothing would say what is deployed.
    #[error("the branch {0} is what is deployed, and cannot be deleted")]
    Deletion(String),
    /// Nobody could say which one is meant.
    #[error("main and master are pushed at once and differ, and only one of them can be deployed: push one")]
    Both,
    /// git says something else than it does.
    #[error("git does not say what is pushed: {0:?}")]
    Unclear(String),
}

/// Reads a line as git gives it to a hook: `OLD NEW REF`.
pub fn parse(line: &str) -> Result<Update, Refused> {
    let unclear = || Refused::Unclear(line.chars().take(200).collect());
    let mut words = line.splitn(3, ' ');
    let (Some(old), Some(new), Some(reference)) = (words.next(), words.next(), words.next()) else { return Err(unclear()) };
    let is_hash = |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash(old) || !is_hash(new) || !reference.starts_with("refs/") {
        return Err(unclear());
    }
    let some = |hash: &str| hash.bytes().any(|b| b != b'0').then(|| hash.to_owned());
    Ok(Update { reference: reference.to_owned(), old: some(old), new: some(new) })
}

/// What comes of these changes.
pub fn plan(updates: &[Update]) -> Result<Plan, Refused> {
    let mut plan = Plan::default();
    let mut others = 0;
    for Update { reference, old, new } in updates {
        let branch = reference.strip_prefix("refs/heads/");
        if let Some(branch) = branch.filter(|b| BRANCHES.contains(b)) {
            let Some(commit) = new else { return Err(Refused::Deletion(branch.to_owned())) };
            match &plan.deploy {
                Some(other) if other.commit != *commit => return Err(Refused::Both),
                Some(_) => {}
                None => plan.deploy = Some(Pushed { branch: branch.to_owned(), old: old.clone(), commit: commit.clone() }),
            }
            continue;
        }
        others += 1;
        if others > TOLD {
            continue;
        }
        let name = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        plan.remarks.push(match (branch, reference.strip_prefix("refs/tags/"), new) {
            (Some(branch), _, Some(_)) => {
                let branch = name(branch);
                format!("the branch {branch} is kept and not deployed; `git push dozen {branch}:main` deploys it")
            }
            (Some(branch), _, None) => format!("the branch {} is deleted", name(branch)),
            (_, Some(tag), Some(_)) => format!("the tag {} is kept", name(tag)),
            (_, Some(tag), None) => format!("the tag {} is deleted", name(tag)),
            (_, _, Some(_)) => format!("{} is kept", name(reference)),
            (_, _, None) => format!("{} is deleted", name(reference)),
        });
    }
    if others > TOLD {
        plan.remarks.push(format!("the same of {} more", others - TOLD));
    }
    if plan.deploy.is_none() {
        plan.remarks.push("nothing is deployed: only a push of main or master is".to_owned());
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn of(lines: &[(&str, &str, &str)]) -> Result<Plan, Refused> {
        let updates: Result<Vec<Update>, Refused> =
            lines.iter().map(|(old, new, reference)| parse(&format!("{old} {new} {reference}"))).collect();
        plan(&updates?)
    }

    #[test]
    fn main_and_master_deploy_and_nothing_else_does() {
        for branch in BRANCHES {
            let plan = of(&[(A, B, &format!("refs/heads/{branch}"))]).expect("accepted");
            assert_eq!(plan.deploy, Some(Pushed { branch: branch.into(), old: Some(A.into()), commit: B.into() }));
            assert_eq!(plan.remarks, Vec::<String>::new());
        }
        let first = of(&[(NONE, B, "refs/heads/main")]).expect("accepted").deploy.expect("one");
        assert_eq!(first.old, None);
        let kept = of(&[(A, B, "refs/heads/main-2"), (NONE, B, "refs/tags/main"), (NONE, A, "refs/notes/main"), (A, NONE, "refs/heads/x")])
            .expect("accepted");
        assert_eq!(kept.deploy, None);
        assert_eq!(
            kept.remarks,
            [
                "the branch main-2 is kept and not deployed; `git push dozen main-2:main` deploys it",
                "the tag main is kept",
                "refs/notes/main is kept",
                "the branch x is deleted",
                "nothing is deployed: only a push of main or master is",
            ]
        );
    }

    #[test]
    fn one_commit_is_deployed_or_none() {
        assert_eq!(of(&[(A, B, "refs/heads/main"), (NONE, A, "refs/heads/master")]), Err(Refused::Both));
        let same = of(&[(A, B, "refs/heads/main"), (NONE, B, "refs/heads/master")]).expect("accepted");
        assert_eq!(same.deploy.map(|d| d.branch), Some("main".into()));
        assert_eq!(of(&[(A, NONE, "refs/heads/master")]), Err(Refused::Deletion("master".into())));
    }

    #[test]
    fn a_push_of_many_refs_is_told_in_few_lines() {
        let names: Vec<String> = (0..1000).map(|n| format!("refs/tags/v{n}")).collect();
        let plan = of(&names.iter().map(|n| (NONE, A, n.as_str())).collect::<Vec<_>>()).expect("accepted");
        assert_eq!(plan.remarks.len(), TOLD + 2);
        assert_eq!(plan.remarks[TOLD], "the same of 995 more");
        let odd = of(&[(NONE, A, "refs/tags/\u{9b}2J")]).expect("accepted");
        assert_eq!(odd.remarks[0], "the tag ?2J is kept");
    }

    #[test]
    fn what_git_does_not_say_is_no_push() {
        for line in ["", "x", "a b refs/heads/main", &format!("{A} {B}"), &format!("{A} {B} main"), &format!("{A}{A} {B} refs/heads/main")]
        {
            assert!(matches!(parse(line), Err(Refused::Unclear(_))), "{line}");
        }
    }
}
