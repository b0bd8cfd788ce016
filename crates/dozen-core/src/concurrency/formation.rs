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
impl Formation {
    /// Each type and how many.
    pub fn iter(&self) -> impl Iterator<Item = (&TypeName, u32)> + '_ {
        self.counts.iter().map(|(k, n)| (k, *n))
    }
}
impl FromIterator<(TypeName, u32)> for Formation {
    fn from_iter<T: IntoIterator<Item = (TypeName, u32)>>(iter: T) -> Self {
        Self { counts: iter.into_iter().collect() }
    }
}
