use super::*;
use crate::ledger::people::tests::{Team, app, deploy};
use crate::ledger::{Intent, LedgerError};

fn create(name: &str) -> Intent {
    Intent::CreateDeploy { deploy: deploy(name), like: None, expires: None, branch: None }
}

fn lead(to: &str, domain: &str) -> Intent {
    Intent::Lead { deploy: deploy(to), domains: vec![domain.parse().expect("a domain")] }
}

fn server(domain: Option<&str>) -> Reserved {
    Reserved { api_host: "dozen.example.org".into(), domain: domain.map(str::to_owned) }
}

async fn refusal(t: &Team, intent: Intent) -> String {
    let what = format!("{intent:?}");
    match t.ledger.commit(&t.host, intent).await {
        Err(LedgerError::Conflict(why)) => why,
        other => panic!("{what}: {other:?}"),
    }
}

#[tokio::test]
async fn what_a_server_gives_by_itself_is_added_by_nobody() {
    let t = Team::new().await;
    t.ledger.reserve(server(Some("apps.example.com")));
    t.commit(create("shop/stg")).await;
    for domain in ["dozen.example.org", "dozen.example.org/v1", "*.example.org"] {
        let why = refusal(&t, lead("blog/production", domain)).await;
        assert_eq!(why, format!("{domain} cannot be added: dozen.example.org is the host of this server's API"));
    }
    for parent in ["localhost", "apps.example.com"] {
        // Of what there is, of what there may be, and whatever is below it.
        for host in ["shop", "shop-stg", "future", "*.shop", "eu.shop", "dozen", "blog-stg"] {
            for path in ["", "/admin"] {
                let why = refusal(&t, lead("blog/production", &format!("{host}.{parent}{path}"))).await;
                assert!(why.ends_with(&format!("and that of this one is blog.{parent}")), "{why}");
            }
        }
    }
    for domain in ["*.apps.example.com", "*.example.com", "*.apps.example.com/x"] {
        assert!(refusal(&t, lead("blog/production", domain)).await.contains("below apps.example.com"), "{domain}");
    }
    // Whether it could be is told the same.
    let domains = vec!["shop.localhost".parse().expect("a domain")];
    let told = t.ledger.may_lead(&t.host, &deploy("blog/production"), domains).await;
    assert!(matches!(told, Err(LedgerError::Conflict(_))), "{told:?}");
    // Its own names are its own, and what is nobody's is whoever adds it.
    for domain in
        ["blog.localhost", "blog.apps.example.com", "*.blog.apps.example.com", "www.example.com", "myapps.example.com", "*.a.test"]
    {
        t.commit(lead("blog/production", domain)).await;
    }
    t.commit(lead("shop/stg", "shop-stg.apps.example.com")).await;
}

#[tokio::test]
async fn without_a_server_the_names_that_the_ledger_knows_are_their_own() {
    let t = Team::new().await;
    t.commit(create("shop/stg")).await;
    for domain in ["shop.localhost", "shop.localhost/x", "shop-stg.localhost", "*.shop.localhost"] {
        let refused = t.ledger.commit(&t.host, lead("blog/production", domain)).await;
        assert!(matches!(&refused, Err(LedgerError::Own { app, .. }) if app == "shop"), "{domain}: {refused:?}");
    }
    t.commit(lead("blog/production", "nobody.localhost")).await;
    t.commit(lead("shop/stg", "shop-stg.localhost")).await;
}

#[tokio::test]
async fn one_host_name_is_given_once_however_it_is_asked_for() {
    for app_first in [true, false] {
        let t = Team::new().await;
        let (an_app, a_deploy) = (Intent::CreateApp { app: app("shop-blue") }, create("shop/blue"));
        let (first, second) = if app_first { (an_app, a_deploy) } else { (a_deploy, an_app) };
        t.commit(first).await;
        let why = refusal(&t, second).await;
        assert!(why.contains("would have the host name shop-blue, which is taken"), "{why}");
        // It left nothing half made.
        let apps = t.ledger.apps().await.expect("read").into_iter().map(|row| row.name.to_string()).collect::<Vec<_>>();
        let deploys = t.ledger.deploys_of(&app("shop")).await.expect("read").len();
        assert_eq!((apps.contains(&"shop-blue".to_owned()), deploys), (app_first, if app_first { 1 } else { 2 }));
    }
    // Both names of two deploys, too.
    let t = Team::new().await;
    t.commit(Intent::CreateApp { app: app("a") }).await;
    t.commit(Intent::CreateApp { app: app("a-b") }).await;
    t.commit(create("a/b-c")).await;
    assert!(refusal(&t, create("a-b/c")).await.contains("a-b-c, which is taken"));
    t.commit(create("a-b/production")).await;
}

#[tokio::test]
async fn two_at_once_are_not_given_one_host_name() {
    let t = Team::new().await;
    for n in 0..20 {
        let (an_app, a_deploy) = (Intent::CreateApp { app: app(&format!("shop-{n}")) }, create(&format!("shop/{n}")));
        let made = tokio::join!(t.ledger.commit(&t.host, an_app), t.ledger.commit(&t.host, a_deploy));
        assert!(made.0.is_ok() != made.1.is_ok(), "{made:?}");
    }
}

#[tokio::test]
async fn an_app_is_not_made_where_its_name_leads_elsewhere_or_to_the_api() {
    let t = Team::new().await;
    t.commit(lead("blog/production", "late.localhost/x")).await;
    t.commit(lead("blog/production", "later.apps.test")).await;
    t.ledger.reserve(Reserved { api_host: "dozen.apps.test".into(), domain: Some("apps.test".into()) });
    for (name, why) in [("late", "late.localhost, which leads elsewhere"), ("later", "later.apps.test, which"), ("dozen", "server's API")] {
        let refused = refusal(&t, Intent::CreateApp { app: app(name) }).await;
        assert!(refused.contains(why), "{refused}");
    }
    t.commit(Intent::CreateApp { app: app("lat") }).await;
    let long = format!("shop/{}", "x".repeat(60));
    assert!(refusal(&t, create(&long)).await.contains("too long a name"));
}
