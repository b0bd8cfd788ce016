-- From schema 9: the keys that people push with over SSH.

CREATE TABLE ssh_keys (
    fingerprint  TEXT PRIMARY KEY,             -- 'SHA256:…', as ssh shows it
    user         TEXT NOT NULL REFERENCES users (name),
    key          TEXT NOT NULL,                -- 'ssh-ed25519 AAAA…'
    label        TEXT NOT NULL,                -- what its owner calls it
    created_at   TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   TEXT,                         -- with the token that it was added by
    used_at      TEXT,                         -- to a minute
    used_from    TEXT
) STRICT;
