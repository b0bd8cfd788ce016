use super::*;
use crate::ledger::Intent;
use crate::ledger::people::tests::{Team, app, at, config, deploy, release};
use dozen_core::admin::people::Role;
use dozen_core::ids::Version;
use dozen_core::release::Status;

fn create(name: &str, like: Option<&str>) -> Intent {
    Intent::CreateDeploy { deploy: deploy(name), like: like.map(deploy), expires: None, branch: None }
}

/// What is sealed of a deploy's config, as it lies there.
fn sealed(t: &Team, name: &str) -> Vec<Vec<u8>> {
    let c = Connection::open(t.ledger.home().ledger()).expect("opened");
    let mut q = c.prepare("SELECT sealed FROM configs WHERE deploy = ?1 ORDER BY version").expect("prepared");
    q.query_map([name], |r| r.get(0)).expect("asked").collect::<Result<_, _>>().expect("read")
}

#[tokio::test]
async fn a_deploy_like_another_has_its_config_sealed_anew_and_its_formation() {
    let t = Team::new().await;
    let (production, staging) = (deploy("shop/production"), deploy("shop/staging"));
    for value in ["old-value", "new-value"] {
        t.commit(Intent::Configure { deploy: production.clone(), config: config(value) }).await;
    }
    let formation: dozen_core::concurrency::formation::Formation = [("web".parse().expect("a type"), 3)].into_iter().collect();
    t.commit(Intent::Scale { deploy: production.clone(), formation: formation.clone() }).await;
    t.commit(release(&production, 2)).await;
    t.commit(Intent::Lead { deploy: production.clone(), domains: vec!["shop.test".parse().expect("a domain")] }).await;
    t.commit(create("shop/staging", Some("shop/production"))).await;
    assert_eq!(t.ledger.config(&staging).await.expect("it opens"), (1, config("new-value")));
    assert_eq!(t.ledger.formation(&staging).await.expect("read"), Some(formation));
    assert!(t.ledger.releases(&staging).await.expect("read").is_empty());
    assert!(t.ledger.domains(&staging).await.expect("read").is_empty());
    let copies = sealed(&t, "shop/staging");
    assert!(copies.len() == 1 && sealed(&t, "shop/production").iter().all(|other| *other != copies[0]));
    // What is changed in one is not in the other.
    t.commit(Intent::Configure { deploy: staging.clone(), config: config("other-value") }).await;
    assert_eq!(t.ledger.config(&production).await.expect("read").1, config("new-value"));
}

#[tokio::test]
async fn what_is_there_is_not_made_again_and_another_apps_config_is_not_copied() {
    let t = Team::new().await;
    let fails = async |intent| t.ledger.commit(&t.host, intent).await.expect_err("it is refused");
    assert!(matches!(fails(Intent::CreateApp { app: app("shop") }).await, LedgerError::Conflict(_)));
    assert!(matches!(fails(create("shop/production", None)).await, LedgerError::Conflict(_)));
    assert!(matches!(fails(create("none/production", None)).await, LedgerError::NotFound(_)));
    assert!(matches!(fails(create("shop/staging", Some("shop/none"))).await, LedgerError::NotFound(_)));
    assert!(matches!(fails(create("shop/staging", Some("shop/staging"))).await, LedgerError::NotFound(_)));
    assert!(matches!(fails(create("shop/staging", Some("blog/production"))).await, LedgerError::Conflict(_)));
    // None of it left half of a deploy.
    assert_eq!(t.ledger.deploys_of(&app("shop")).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_deploy_that_was_destroyed_leaves_its_name_and_its_domains_and_its_uid_to_nobody() {
    let t = Team::new().await;
    let (staging, chief) = (deploy("shop/staging"), t.user("owner", false, &[("shop", Role::Owner)]).await);
    t.commit(create("shop/staging", None)).await;
    t.commit(Intent::Configure { deploy: staging.clone(), config: config("value") }).await;
    t.commit(release(&staging, 1)).await;
    t.commit(Intent::Conclude { deploy: staging.clone(), version: Version(1), status: Status::Succeeded, failure: None }).await;
    t.commit(Intent::Run { deploy: staging.clone(), release: Version(1), command: "true".into() }).await;
    let kind = dozen_core::backing::ResourceKind::Sqlite;
    t.commit(Intent::Attach { deploy: staging.clone(), name: "DATABASE".into(), kind, folder: "/data".into() }).await;
    let lead = |to: &str| Intent::Lead { deploy: deploy(to), domains: vec!["a.test".parse().expect("a domain")] };
    t.commit(lead("shop/staging")).await;
    let (uid, generation) = t.ledger.deploy(&staging).await.expect("read").expect("there");

    t.ledger.commit(&chief, Intent::DestroyDeploy { deploy: staging.clone() }).await.expect("destroyed");
    assert_eq!(t.ledger.deploy(&staging).await.expect("read"), None);
    let again = t.ledger.commit(&t.host, Intent::DestroyDeploy { deploy: staging.clone() }).await;
    assert!(matches!(again, Err(LedgerError::NotFound(_))));
    t.commit(lead("blog/production")).await;

    t.commit(create("shop/staging", None)).await;
    let (next, later) = t.ledger.deploy(&staging).await.expect("read").expect("there");
    assert!(next > uid, "{next} {uid}");
    assert!(later > generation, "whoever drove it before takes no older word for a newer one");
    assert_eq!(t.ledger.config(&staging).await.expect("read").0, 0);
    assert!(t.ledger.releases(&staging).await.expect("read").is_empty());
    assert!(t.ledger.attachments(&staging).await.expect("read").is_empty());
    assert!(t.ledger.one_offs(&staging).await.expect("read").is_empty());
}

#[tokio::test]
async fn nothing_of_a_deploy_is_in_a_table_that_its_end_forgets() {
    let t = Team::new().await;
    let c = Connection::open(t.ledger.home().ledger()).expect("opened");
    let sql = "SELECT t.name FROM sqlite_master t, pragma_foreign_key_list(t.name) k WHERE t.type = 'table' AND k.\"table\" = 'deploys'";
    let mut q = c.prepare(sql).expect("prepared");
    let tables: Vec<String> = q.query_map([], |r| r.get(0)).expect("asked").collect::<Result<_, _>>().expect("read");
    assert!(tables.len() >= OF_A_DEPLOY.len());
    for table in tables {
        assert!(OF_A_DEPLOY.contains(&table.as_str()), "{table}");
    }
}

#[tokio::test]
async fn an_app_ends_after_its_deploys_and_with_its_grants() {
    let t = Team::new().await;
    let owner = t.user("owner", false, &[("shop", Role::Owner)]).await;
    let destroy = || Intent::DestroyApp { app: app("shop") };
    let refused = t.ledger.commit(&owner, destroy()).await.expect_err("it has a deploy").to_string();
    assert_eq!(refused, "shop has deploys: shop/production; destroy them first");
    t.ledger.commit(&owner, Intent::DestroyDeploy { deploy: deploy("shop/production") }).await.expect("destroyed");
    t.ledger.commit(&owner, destroy()).await.expect("destroyed");
    assert!(matches!(t.ledger.commit(&t.host, destroy()).await, Err(LedgerError::NotFound(_))));
    // Whoever owned the one is nobody to the next.
    t.commit(Intent::CreateApp { app: app("shop") }).await;
    assert!(t.ledger.grants(&app("shop")).await.expect("read").is_empty());
}

#[tokio::test]
async fn a_deploy_for_a_branch_has_its_time() {
    let t = Team::new().await;
    let review = deploy("shop/pr-12");
    let expires = Some(at(60));
    t.commit(Intent::CreateDeploy { deploy: review.clone(), like: None, expires, branch: Some("pr-12".into()) }).await;
    let rows = t.ledger.deploys_of(&app("shop")).await.expect("read");
    let told: Vec<_> = rows.iter().map(|row| (row.deploy.to_string(), row.expires, row.branch.as_deref())).collect();
    assert_eq!(told, [("shop/pr-12".to_owned(), expires, Some("pr-12")), ("shop/production".to_owned(), None, None)]);
    assert_eq!(t.ledger.expired(at(0)).await.expect("read"), []);
    assert_eq!(t.ledger.expired(at(120)).await.expect("read"), [review]);
}

#[tokio::test]
async fn a_deploy_gets_no_uid_of_a_build() {
    let t = Team::new().await;
    let c = Connection::open(t.ledger.home().ledger()).expect("opened");
    let sql = "INSERT INTO destroyed (uid, name, generation, at) VALUES (?1, 'shop/old', 1, '2026-11-21T00:00:00Z')";
    c.execute(sql, [UIDS.end - 2]).expect("a row");
    t.commit(create("shop/last", None)).await;
    assert_eq!(t.ledger.deploy(&deploy("shop/last")).await.expect("read").expect("there").0, UIDS.end - 1);
    assert!(matches!(t.ledger.commit(&t.host, create("shop/more", None)).await, Err(LedgerError::Conflict(_))));
    assert_eq!(t.ledger.deploy(&deploy("shop/more")).await.expect("read"), None);
}
