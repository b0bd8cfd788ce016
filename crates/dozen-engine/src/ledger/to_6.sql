-- From schema 5: a pause that ends by itself, the proxies before the router, and a split of requests between releases.

ALTER TABLE deploys ADD COLUMN paused_until TEXT;
ALTER TABLE deploys ADD COLUMN trusted TEXT NOT NULL DEFAULT '';
ALTER TABLE deploys ADD COLUMN sticky TEXT NOT NULL DEFAULT 'no';

CREATE TABLE shares (
    deploy   TEXT NOT NULL REFERENCES deploys (name),
    release  INTEGER NOT NULL,
    weight   INTEGER NOT NULL,                 -- its part of the requests, relative to the others
    PRIMARY KEY (deploy, release)
) STRICT;
