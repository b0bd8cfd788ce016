//! A deploy and not its name: what was begun for one that is destroyed changes nothing of a later one that is called the same.
//!
//! **Invariant:** a uid is given to one deploy only, so that it tells the two apart.

use super::{Intent, Ledger, LedgerError, Problem};
use dozen_core::ids::DeployRef;
use rusqlite::{Connection, OptionalExtension};

/// One deploy of all that have, had or will have its name.
pub(super) struct Incarnation {
    deploy: DeployRef,
    uid: u32,
}

impl Ledger {
    /// The same ledger for what acts on this deploy. Once that is destroyed, no wish for one of its name is committed by this handle.
    ///
    /// # Errors
    /// There is no such deploy, or the ledger cannot be read.
    pub async fn of(&self, deploy: &DeployRef) -> Result<Self, LedgerError> {
        let (uid, _) = self.deploy(deploy).await?.ok_or_else(|| LedgerError::NotFound(format!("there is no deploy {deploy}")))?;
        let incarnation = Incarnation { deploy: deploy.clone(), uid };
        Ok(Self { incarnation: Some(incarnation.into()), ..self.clone() })
    }

    /// Whether the deploy that this handle is for is destroyed; of a handle for all of them, whether there is none of that name.
    pub(crate) async fn is_destroyed(&self, deploy: &DeployRef) -> Result<bool, LedgerError> {
        let mine = self.incarnation.as_ref().filter(|it| it.deploy == *deploy).map(|it| it.uid);
        let found = self.deploy(deploy).await?;
        Ok(found.is_none_or(|(uid, _)| mine.is_some_and(|mine| mine != uid)))
    }
}

/// Refuses a wish for another deploy of that name.
pub(super) fn check(c: &Connection, incarnation: Option<&Incarnation>, intent: &Intent) -> Result<(), Problem> {
    let Some(Incarnation { deploy, uid }) = incarnation.filter(|it| intent.deploy() == Some(&it.deploy)) else { return Ok(()) };
    let found = c.query_row("SELECT uid FROM deploys WHERE name = ?1", [deploy.to_string()], |r| r.get(0)).optional()?;
    if found == Some(*uid) {
        return Ok(());
    }
    Err(Problem::NotFound(format!("{deploy} was destroyed meanwhile; `dozen deploys` lists what there is now")))
}

#[cfg(test)]
mod tests {
    use crate::home::Home;
    use crate::ledger::{BuildChange, Intent, Ledger, LedgerError, Principal};
    use dozen_core::config::Config;
    use dozen_core::ids::DeployRef;

    #[tokio::test]
    async fn what_was_begun_for_a_deploy_is_written_of_no_later_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&Home::at(folder.path())).expect("opened");
        let (shop, other): (DeployRef, DeployRef) = ("shop/production".parse().expect("valid"), "shop/dev".parse().expect("valid"));
        let who = Principal::me();
        let adopt = |deploy: &DeployRef| Intent::Adopt { deploy: deploy.clone(), folder: None };
        let asked = || Intent::Build { deploy: shop.clone(), change: BuildChange::Asked { source: "push", commit: None } };
        assert!(ledger.of(&shop).await.is_err_and(|e| e.to_string() == "there is no deploy shop/production"));
        for deploy in [&shop, &other] {
            ledger.commit(&who, adopt(deploy)).await.expect("adopted");
        }
        let old = ledger.of(&shop).await.expect("there");
        assert_eq!(old.commit(&who, asked()).await.expect("asked").number, 1);
        assert!(!old.is_destroyed(&shop).await.expect("read"));

        ledger.commit(&who, Intent::DestroyDeploy { deploy: shop.clone() }).await.expect("destroyed");
        let refused = |e: &LedgerError| matches!(e, LedgerError::NotFound(why) if why.contains("was destroyed meanwhile"));
        // Not even to be there again.
        assert!(old.commit(&who, adopt(&shop)).await.is_err_and(|e| refused(&e)));
        ledger.commit(&who, adopt(&shop)).await.expect("adopted");
        assert!(old.is_destroyed(&shop).await.expect("read") && !ledger.is_destroyed(&shop).await.expect("read"));
        assert_eq!(ledger.commit(&who, asked()).await.expect("asked").number, 1);
        for intent in [
            Intent::Build { deploy: shop.clone(), change: BuildChange::Failed(1, "no".into()) },
            Intent::Configure { deploy: shop.clone(), config: Config::default() },
            Intent::DestroyDeploy { deploy: shop.clone() },
        ] {
            assert!(old.commit(&who, intent).await.is_err_and(|e| refused(&e)));
        }
        assert!(ledger.builds(&shop).await.expect("read")[0].ended.is_none());
        // What is of others is not its affair.
        old.commit(&who, Intent::Configure { deploy: other, config: Config::default() }).await.expect("configured");
        let new = ledger.of(&shop).await.expect("there");
        new.commit(&who, Intent::Configure { deploy: shop, config: Config::default() }).await.expect("configured");
    }
}
