use super::*;
use crate::home::Home;
use crate::ledger::CertificateSource;
use crate::port::Certificate;
use crate::port::certificate::Secret;
use crate::port::certificates::Failure;
use dozen_core::backing::ResourceKind;
use dozen_core::config::{Config, Origin, Var};
use dozen_core::ids::{DeployRef, SlugId, Version};
use dozen_core::release::{Slug, Status};
use std::collections::BTreeSet;

/// A ledger with the apps shop and blog, and people of both.
pub(in crate::ledger) struct Team {
    pub(in crate::ledger) ledger: Ledger,
    pub(in crate::ledger) host: Principal,
    _folder: tempfile::TempDir,
}

pub(in crate::ledger) fn name(text: &str) -> UserName {
    text.parse().expect("a user's name")
}

pub(in crate::ledger) fn app(text: &str) -> AppName {
    text.parse().expect("an app's name")
}

pub(in crate::ledger) fn deploy(text: &str) -> DeployRef {
    text.parse().expect("a deploy's name")
}

pub(in crate::ledger) fn at(seconds: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).expect("in range")
}

pub(in crate::ledger) fn config(value: &str) -> Config {
    let mut config = Config::default();
    config.set("KEY", Var { value: value.into(), origin: Origin::Set, plain: false }).expect("valid");
    config
}

pub(in crate::ledger) fn release(deploy: &DeployRef, config_version: u32) -> Intent {
    let slug = Slug {
        id: SlugId([7; 32]),
        stack: dozen_core::dependencies::Stack { pack: "procfile".into(), runtime: None },
        processes: vec![],
        env: vec![],
        needs: vec![],
        console: None,
        scratch: vec![],
        rules: BTreeMap::default(),
        commit: None,
        size: 1,
        files: 1,
    };
    let (slug, description) = (Box::new(slug), "Deploy 1a2b3c4d".to_owned());
    Intent::Release {
        deploy: deploy.clone(),
        slug,
        config_version: Some(config_version),
        like: None,
        python: None,
        node: None,
        description,
    }
}

impl Team {
    pub(in crate::ledger) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&Home::at(folder.path().join("home"))).expect("opened");
        let team = Self { ledger, host: Principal::me(), _folder: folder };
        for app in [app("shop"), app("blog")] {
            team.commit(Intent::CreateApp { app: app.clone() }).await;
            let deploy = deploy(&format!("{app}/production"));
            team.commit(Intent::CreateDeploy { deploy, like: None, expires: None, branch: None }).await;
        }
        team
    }

    pub(in crate::ledger) async fn commit(&self, intent: Intent) -> u32 {
        self.ledger.commit(&self.host, intent).await.expect("committed").number
    }

    /// A user who has shown a token.
    pub(in crate::ledger) async fn user(&self, user: &str, admin: bool, roles: &[(&str, Role)]) -> Principal {
        self.commit(Intent::AddUser { user: name(user), admin }).await;
        for (to, role) in roles {
            self.commit(Intent::Grant { user: name(user), app: app(to), role: *role }).await;
        }
        let issued = self.ledger.issue_token(&self.host, &name(user), "test", None).await.expect("issued");
        self.shows(&issued.text, 0).await.expect("it is good")
    }

    pub(in crate::ledger) async fn shows(&self, text: &TokenText, seconds: i64) -> Option<Principal> {
        self.ledger.who_shows(text.expose(), Some("192.0.2.1"), at(seconds)).await.expect("looked for")
    }

    async fn used(&self, user: &str) -> Option<Timestamp> {
        self.ledger.tokens(&name(user)).await.expect("read").first().expect("a token").used
    }
}

/// Each intent with who may: [s]tranger, [v]iewer, [d]eployer, [o]wner of shop, [x] the owner of blog, [a]dmin, [h]ome's owner.
macro_rules! table {
    ($($intent:ident $may:literal)*) => {
        fn line(intent: &Intent) -> (&'static str, &'static str) {
            match intent { $(Intent::$intent { .. } => (stringify!($intent), $may),)* }
        }
        const ALL: &[&str] = &[$(stringify!($intent)),*];
    };
}

table! {
    Adopt         "--do-ah"
    Recover       "--do-ah"
    Build         "--do-ah"
    Require       "---o-ah"
    Tested        "--do-ah"
    Configure     "--do-ah"
    Attach        "--do-ah"
    Release       "--do-ah"
    Conclude      "--do-ah"
    CameUp        "--do-ah"
    Keep          "------h"
    Lead          "--do-ah"
    Unlead        "--do-ah"
    Treat         "--do-ah"
    Split         "--do-ah"
    Certify       "--do-ah"
    Uncertify     "--do-ah"
    Automate      "--do-ah"
    Account       "-----ah"
    Unobtained    "--do-ah"
    Scale         "--do-ah"
    Stop          "--do-ah"
    Run           "--do-ah"
    Ran           "--do-ah"
    CreateApp     "-----ah"
    CreateDeploy  "--do-ah"
    DestroyDeploy "---o-ah"
    DestroyApp    "---o-ah"
    Grant         "---o-ah"
    Ungrant       "---o-ah"
    AddUser       "-----ah"
    RemoveUser    "-----ah"
    // Of the viewer's own.
    IssueToken    "-v---ah"
    RevokeToken   "-v---ah"
    AddKey        "-v---ah"
    RemoveKey     "-v---ah"
    Restore       "------h"
    FirstToken    "------h"
}

fn certificate() -> Certificate {
    let key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::new(vec!["shop.test".to_owned()]).and_then(|p| p.self_signed(&key)).expect("signed");
    Certificate::read(&own.pem(), &key.serialize_pem(), Timestamp::MIN).expect("good")
}

fn every_intent() -> Vec<Intent> {
    let shop = || deploy("shop/production");
    let domains = || vec!["shop.test".parse().expect("a domain")];
    let (version, user) = (Version(1), name("viewer"));
    let failure = Failure { why: "nobody there".into(), times: 1, too_often: false, again: at(60) };
    vec![
        Intent::Adopt { deploy: shop(), folder: None },
        Intent::Recover { deploy: shop(), running: vec![], building: vec![] },
        Intent::Build { deploy: shop(), change: crate::ledger::BuildChange::Asked { source: "push", commit: None } },
        Intent::Require { deploy: shop(), gates: BTreeSet::new() },
        Intent::Tested { deploy: shop(), slug: SlugId([7; 32]), passed: true },
        Intent::Configure { deploy: shop(), config: config("value") },
        Intent::Attach { deploy: shop(), name: "DATABASE".into(), kind: ResourceKind::Sqlite, folder: "/data".into() },
        release(&shop(), 1),
        Intent::Conclude { deploy: shop(), version, status: Status::Succeeded, failure: None },
        Intent::CameUp { deploy: shop(), version },
        Intent::Keep { deploy: shop(), port: None, https_port: None },
        Intent::Lead { deploy: shop(), domains: domains() },
        Intent::Unlead { deploy: shop(), domains: domains() },
        Intent::Treat { deploy: shop(), manners: Box::default(), paused_until: None },
        Intent::Split { deploy: shop(), shares: vec![(version, 1)], sticky: dozen_core::port::Sticky::No, abort_above: None, why: None },
        Intent::Certify { deploy: shop(), certificate: Box::new(certificate()), source: CertificateSource::File },
        Intent::Uncertify { deploy: shop(), id: 1 },
        Intent::Automate { deploy: shop(), acme: None },
        Intent::Account { deploy: shop(), directory: "https://a.test/".into(), credentials: Secret::new("{}".into()) },
        Intent::Unobtained { deploy: shop(), directory: "https://a.test/".into(), host: "shop.test".into(), failure: Box::new(failure) },
        Intent::Scale { deploy: shop(), formation: [("web".parse().expect("a type"), 2)].into_iter().collect() },
        Intent::Stop { deploy: shop(), types: BTreeSet::new() },
        Intent::Run { deploy: shop(), release: version, command: "true".into() },
        Intent::Ran { deploy: shop(), number: 1, exit_code: 0 },
        Intent::CreateApp { app: app("new") },
        Intent::CreateDeploy { deploy: deploy("shop/staging"), like: Some(shop()), expires: None, branch: None },
        Intent::DestroyDeploy { deploy: shop() },
        Intent::DestroyApp { app: app("shop") },
        Intent::Grant { user: user.clone(), app: app("shop"), role: Role::Owner },
        Intent::Ungrant { user: user.clone(), app: app("shop") },
        Intent::AddUser { user: name("new"), admin: true },
        Intent::RemoveUser { user: user.clone() },
        Intent::IssueToken { user: user.clone(), label: "ci".into(), hash: [1; 32], expires: None },
        Intent::RevokeToken { user: user.clone(), id: 1 },
        Intent::AddKey { user: user.clone(), key: Box::new(super::super::keys::tests::key(1)) },
        Intent::RemoveKey { user, fingerprint: "SHA256:none".into() },
        Intent::Restore { from: "/old".into(), to: "/new".into(), of: at(0) },
        Intent::FirstToken { hash: [2; 32] },
    ]
}

#[tokio::test]
async fn who_may_what_is_what_the_table_says_of_every_intent() {
    let t = Team::new().await;
    let stranger = Principal { proven: true, ..Principal::of(rustix::process::getuid().as_raw().wrapping_add(4_711).max(1)) };
    let everybody = [
        ('s', stranger),
        ('v', t.user("viewer", false, &[("shop", Role::Viewer)]).await),
        ('d', t.user("deployer", false, &[("shop", Role::Deployer)]).await),
        ('o', t.user("owner", false, &[("shop", Role::Owner)]).await),
        ('x', t.user("other", false, &[("blog", Role::Owner)]).await),
        ('a', t.user("chief", true, &[]).await),
        ('h', t.host.clone()),
    ];
    let intents = every_intent();
    let told: BTreeSet<_> = intents.iter().map(|intent| line(intent).0).collect();
    assert_eq!(told, ALL.iter().copied().collect(), "each intent is tried");
    for intent in &intents {
        let may = |(letter, who): &(char, Principal)| {
            let done = t.ledger.authorise(who, intent.what(), intent.needs());
            if done.is_ok() { *letter } else { '-' }
        };
        let line = line(intent);
        assert_eq!(everybody.iter().map(may).collect::<String>(), line.1, "{}", line.0);
    }
    // What is committed goes the same way.
    for (letter, who) in &everybody {
        for intent in every_intent().into_iter().filter(|intent| !line(intent).1.contains(*letter)) {
            let what = line(&intent).0;
            let refused = t.ledger.commit(who, intent).await.expect_err(what);
            assert!(matches!(refused, LedgerError::Forbidden { .. } | LedgerError::NotFound(_)), "{letter} {what}: {refused}");
        }
    }
    assert!(t.ledger.deploy(&deploy("shop/production")).await.expect("read").is_some());
}

#[tokio::test]
async fn who_may_not_know_of_an_app_is_told_the_same_of_it_as_of_none() {
    let t = Team::new().await;
    let other = t.user("other", false, &[("blog", Role::Owner)]).await;
    let viewer = t.user("viewer", false, &[("shop", Role::Viewer)]).await;
    let refusal = async |who: &Principal, of: &str| {
        let destroy = Intent::DestroyDeploy { deploy: deploy(of) };
        t.ledger.commit(who, destroy).await.expect_err("it is refused").to_string()
    };
    assert_eq!(refusal(&other, "shop/production").await, "there is no app shop");
    assert_eq!(refusal(&other, "none/production").await, "there is no app none");
    let wanted = "viewer may not destroy a deploy: only an owner of shop may";
    assert_eq!((refusal(&viewer, "shop/production").await.as_str(), refusal(&viewer, "shop/none").await.as_str()), (wanted, wanted));
    assert_eq!(refusal(&other, "blog/none").await, "there is no deploy blog/none");
    // Neither are they told by a domain that is taken.
    let lead = |to: &str| Intent::Lead { deploy: deploy(to), domains: vec!["a.test".parse().expect("a domain")] };
    t.commit(lead("shop/production")).await;
    let taken = t.ledger.commit(&other, lead("blog/production")).await.expect_err("it leads elsewhere").to_string();
    assert_eq!(taken, "a.test leads elsewhere already");
    let told = t.ledger.may_lead(&other, &deploy("blog/production"), vec!["a.test".parse().expect("a domain")]).await;
    assert_eq!(told.expect_err("it leads elsewhere").to_string(), taken);
    let own = Intent::Lead { deploy: deploy("blog/production"), domains: vec!["shop.localhost".parse().expect("a domain")] };
    assert!(matches!(t.ledger.commit(&other, own).await, Err(LedgerError::Taken { .. })));
    let chief = t.user("chief", true, &[]).await;
    assert!(
        t.ledger.commit(&chief, lead("blog/production")).await.expect_err("it leads elsewhere").to_string().contains("shop/production")
    );
    // Where the home is concerns nobody from afar.
    let keep = Intent::Keep { deploy: deploy("blog/production"), port: None, https_port: None };
    let host = t.ledger.commit(&chief, keep).await.expect_err("it is the machine's").to_string();
    assert!(!host.contains(&*t.ledger.home().root().to_string_lossy()), "{host}");
    let seen = async |who: &Principal| -> Vec<String> {
        t.ledger.apps_of(who).await.expect("read").into_iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!((seen(&other).await, seen(&viewer).await), (vec!["blog".to_owned()], vec!["shop".to_owned()]));
    assert_eq!((seen(&chief).await.len(), seen(&t.host).await.len()), (2, 2));
    assert!(seen(&Principal { proven: false, ..t.host.clone() }).await.is_empty());
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_or_is_revoked_and_says_what_was_granted() {
    let t = Team::new().await;
    t.user("alice", false, &[("shop", Role::Deployer)]).await;
    let issued = t.ledger.issue_token(&t.host, &name("alice"), "laptop", Some(at(3_600))).await.expect("issued");
    let text = issued.text.expose();
    assert!(text.starts_with("dozen_") && text.len() == 70, "{}", text.len());
    assert!(!format!("{issued:?}").contains(&text[6..]));
    let alice = t.shows(&issued.text, 0).await.expect("it is good");
    let Identity::User { user, token } = &alice.identity else { panic!("a user") };
    assert_eq!((user.name.as_str(), user.admin, *token, user.grants[&app("shop")]), ("alice", false, Some(issued.id), Role::Deployer));
    assert_eq!((alice.name.as_str(), alice.proven, alice.from.as_deref()), ("alice", true, Some("192.0.2.1")));
    for other in ["", "dozen_", &text[1..], &text[..69], &text.to_uppercase(), &format!("{text}0"), &format!("dozen_{}", "0".repeat(64))] {
        assert_eq!(t.ledger.who_shows(other, None, at(0)).await.expect("looked for"), None, "{other}");
    }
    assert!(t.shows(&issued.text, 3_500).await.is_some());
    assert_eq!(t.shows(&issued.text, 3_700).await, None);
    // Nothing on the disk has its text.
    for file in std::fs::read_dir(t.ledger.home().root()).expect("read") {
        let path = file.expect("an entry").path();
        let bytes = if path.is_file() { std::fs::read(&path).expect("read") } else { continue };
        assert!(!bytes.windows(16).any(|part| part == &text.as_bytes()[6..22]), "{}", path.display());
    }
    let revoke = || Intent::RevokeToken { user: name("alice"), id: issued.id };
    t.ledger.commit(&alice, revoke()).await.expect("it is her own");
    assert_eq!(t.shows(&issued.text, 0).await, None);
    assert!(matches!(t.ledger.commit(&alice, revoke()).await, Err(LedgerError::NotFound(_))));
    let row = t.ledger.tokens(&name("alice")).await.expect("read").pop().expect("a row");
    assert_eq!((row.label.as_str(), row.revoked.is_some(), row.used_from.as_deref()), ("laptop", true, Some("192.0.2.1")));
}

#[tokio::test]
async fn the_last_use_is_noted_once_a_minute() {
    let t = Team::new().await;
    t.commit(Intent::AddUser { user: name("ci"), admin: false }).await;
    let token = t.ledger.issue_token(&t.host, &name("ci"), "", None).await.expect("issued").text;
    assert_eq!(t.used("ci").await, None);
    t.shows(&token, 0).await.expect("it is good");
    let first = t.used("ci").await.expect("noted");
    t.shows(&token, 30).await.expect("it is good");
    assert_eq!(t.used("ci").await, Some(first));
    t.shows(&token, 90).await.expect("it is good");
    let second = t.used("ci").await.expect("noted");
    assert!(second > first);
    // A clock that was wrong is not believed for ever.
    t.shows(&token, -3_600).await.expect("it is good");
    assert!(t.used("ci").await.expect("noted") < first);
}

#[tokio::test]
async fn a_token_that_expires_issues_none_that_lasts_longer() {
    let t = Team::new().await;
    t.user("alice", false, &[]).await;
    let short = t.ledger.issue_token(&t.host, &name("alice"), "a day", Some(at(86_400))).await.expect("issued");
    let alice = t.shows(&short.text, 0).await.expect("it is good");
    for later in [None, Some(at(90_000))] {
        assert!(matches!(t.ledger.issue_token(&alice, &name("alice"), "", later).await, Err(LedgerError::Conflict(_))));
    }
    t.ledger.issue_token(&alice, &name("alice"), "", Some(at(3_600))).await.expect("issued");
    assert!(matches!(t.ledger.issue_token(&t.host, &name("alice"), "", Some(at(-1))).await, Err(LedgerError::Conflict(_))));
    assert!(matches!(t.ledger.issue_token(&t.host, &name("nobody"), "", None).await, Err(LedgerError::NotFound(_))));
    assert!(matches!(t.ledger.issue_token(&alice, &name("bob"), "", None).await, Err(LedgerError::Forbidden { .. })));
}

#[tokio::test]
async fn the_tokens_of_a_user_who_was_removed_are_dead_also_when_they_come_back() {
    let t = Team::new().await;
    t.commit(Intent::AddUser { user: name("alice"), admin: true }).await;
    t.commit(Intent::Grant { user: name("alice"), app: app("shop"), role: Role::Owner }).await;
    let token = t.ledger.issue_token(&t.host, &name("alice"), "", None).await.expect("issued").text;
    assert!(t.shows(&token, 0).await.is_some());
    t.commit(Intent::RemoveUser { user: name("alice") }).await;
    assert_eq!(t.shows(&token, 0).await, None);
    assert!(t.ledger.users().await.expect("read").is_empty());
    assert!(t.ledger.grants(&app("shop")).await.expect("read").is_empty());
    let gone = t.ledger.commit(&t.host, Intent::RemoveUser { user: name("alice") }).await;
    assert!(matches!(gone, Err(LedgerError::NotFound(_))));
    let back = t.user("alice", false, &[]).await;
    assert_eq!(t.shows(&token, 0).await, None);
    assert!(matches!(back.identity, Identity::User { user: User { admin: false, ref grants, .. }, .. } if grants.is_empty()));
}

#[tokio::test]
async fn roles_are_granted_changed_and_taken_away() {
    let t = Team::new().await;
    let owner = t.user("owner", false, &[("shop", Role::Owner)]).await;
    t.commit(Intent::AddUser { user: name("bob"), admin: false }).await;
    let grant = |user: &str, to: &str, role| Intent::Grant { user: name(user), app: app(to), role };
    for role in [Role::Viewer, Role::Deployer] {
        t.ledger.commit(&owner, grant("bob", "shop", role)).await.expect("granted");
    }
    let wanted = [(name("bob"), Role::Deployer), (name("owner"), Role::Owner)];
    assert_eq!(t.ledger.grants(&app("shop")).await.expect("read"), wanted);
    assert!(matches!(t.ledger.commit(&owner, grant("nobody", "shop", Role::Viewer)).await, Err(LedgerError::NotFound(_))));
    assert!(matches!(t.ledger.commit(&t.host, grant("bob", "none", Role::Viewer)).await, Err(LedgerError::NotFound(_))));
    let ungrant = || Intent::Ungrant { user: name("bob"), app: app("shop") };
    t.ledger.commit(&owner, ungrant()).await.expect("taken away");
    assert!(matches!(t.ledger.commit(&owner, ungrant()).await, Err(LedgerError::NotFound(_))));
}

#[tokio::test]
async fn the_first_token_is_made_once_and_by_the_homes_owner() {
    let t = Team::new().await;
    let first = t.ledger.first_token(&t.host).await.expect("made").expect("the first");
    let admin = t.shows(&first.text, 0).await.expect("it is good");
    assert!(matches!(&admin.identity, Identity::User { user, .. } if user.admin && user.name == first.user));
    assert!(t.ledger.first_token(&t.host).await.expect("asked").is_none());
    assert!(matches!(t.ledger.first_token(&admin).await, Err(LedgerError::Forbidden { .. })));
    // Who removes all has not begun anew.
    t.commit(Intent::RemoveUser { user: first.user }).await;
    assert!(t.ledger.first_token(&t.host).await.expect("asked").is_none());
    assert!(matches!(t.ledger.commit(&t.host, Intent::FirstToken { hash: [3; 32] }).await, Err(LedgerError::Conflict(_))));
}
