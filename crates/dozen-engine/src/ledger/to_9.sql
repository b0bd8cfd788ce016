-- From schema 8: builds are on record.

CREATE TABLE builds (
    deploy       TEXT NOT NULL REFERENCES deploys (name),
    number       INTEGER NOT NULL,             -- 7 is build.7
    source       TEXT NOT NULL,                -- how it came: 'push', 'folder', 'deploy'
    commit_hash  TEXT,                         -- what it is of; with '+' where the source differed
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled')),
    created_at   TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    started_at   TEXT,                         -- when its turn came
    ended_at     TEXT,
    ended_by     TEXT,                         -- who cancelled it
    slug         TEXT,                         -- what it gave; the slug may be gone, and need not have been released
    failure      TEXT,                         -- why it gave nothing
    PRIMARY KEY (deploy, number)
) STRICT;
