//! temp
use crate::ids::{InstanceName, TypeName};
use std::collections::BTreeMap;
/// How many of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formation {
    /// counts
    pub counts: BTreeMap<TypeName, u32>,
}
impl Formation {
    /// Every instance.
    pub fn instances(&self) -> impl Iterator<Item = InstanceName> + '_ {
        self.counts.iter().flat_map(|(kind, n)| (1..=*n).map(|number| InstanceName { kind: kind.clone(), number }))
    }
}
