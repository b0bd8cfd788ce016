-- From schema 4: what is led to a deploy, and how it is treated on the way.

ALTER TABLE deploys ADD COLUMN maintenance INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deploys ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deploys ADD COLUMN https_only INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deploys ADD COLUMN hsts INTEGER;
ALTER TABLE deploys ADD COLUMN kept_https_port INTEGER;
ALTER TABLE deploys ADD COLUMN acme TEXT;

CREATE TABLE domains (
    domain      TEXT PRIMARY KEY,              -- 'shop.example.com', '*.example.com', 'example.com/api'
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL
) STRICT;

CREATE TABLE certificates (
    id          INTEGER PRIMARY KEY,
    deploy      TEXT NOT NULL REFERENCES deploys (name),
    names       TEXT NOT NULL,                 -- JSON array: the host names that it is for
    source      TEXT NOT NULL CHECK (source IN ('file', 'acme')),
    chain       TEXT NOT NULL,                 -- PEM, the server's own first
    sealed_key  BLOB NOT NULL,                 -- like configs.sealed
    not_after   TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    created_by  TEXT NOT NULL
) STRICT;

CREATE TABLE acme_accounts (
    directory   TEXT PRIMARY KEY,              -- its URL
    sealed      BLOB NOT NULL,                 -- the account's credentials
    created_at  TEXT NOT NULL
) STRICT;
