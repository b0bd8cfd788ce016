//! The ledger's schema over time: its number, and what leads from each to the next.

/// `PRAGMA user_version` of the schema in `schema.sql`.
pub(super) const SCHEMA: i64 = 12;
/// What leads from each schema to the next: the first one from 1 to 2.
pub(super) const STEPS: [&str; 11] = [
    include_str!("to_2.sql"),
    include_str!("to_3.sql"),
    include_str!("to_4.sql"),
    include_str!("to_5.sql"),
    include_str!("to_6.sql"),
    include_str!("to_7.sql"),
    include_str!("to_8.sql"),
    include_str!("to_9.sql"),
    include_str!("to_10.sql"),
    include_str!("to_11.sql"),
    include_str!("to_12.sql"),
];
